import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { version } from '../../src/version.ts';
import { renderReadme } from '../support/readme-tables.ts';

it('The tables of the README match the code (npm run docs:readme writes them)', async () => {
  const { current, rendered } = await renderReadme();
  expect(rendered.match(/<!-- \w+ -->/g)).toHaveLength(4);
  expect(current).toBe(rendered);
});

it('The version in the code equals that of the package', async () => {
  const { version: published } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
  expect(version).toBe(published);
});
