import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

it('The explorer imports nothing of the bridge but how a policy names a script: it knows the rest only through the admin API', () => {
  const folder = join(import.meta.dirname, '..', '..', 'src', 'explorer');
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) => /\.[jt]s$/.test(file));
  expect(files.length).toBeGreaterThan(12);
  for (const file of files) {
    const text = readFileSync(join(folder, file), 'utf8');
    const outside = [...text.matchAll(/\b(?:from|import) ?\(?'(\.\.\/[^']*)'/g)].map(([, path]) => path);
    expect([file, outside]).toEqual([file, file === 'index.ts' ? ['../headers.ts'] : []]);
  }
});
