import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { version } from '../../src/version.ts';
import { renderReadme } from '../support/readme-tables.ts';

it('keeps the tables of the README as the code says (npm run docs:readme writes them)', async () => {
  const { current, rendered } = await renderReadme();
  expect(rendered.match(/<!-- \w+ -->/g)).toHaveLength(4);
  expect(current).toBe(rendered);
});

it('keeps the version in the code equal to the package’s', async () => {
  const { version: published } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
  expect(version).toBe(published);
});
