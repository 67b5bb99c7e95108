import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { version } from '../../src/version.ts';
import { pages, renderPage } from '../support/readme-tables.ts';

it('The tables of the README, of the errors and of the settings match the code (npm run docs:readme writes them)', async () => {
  const names: string[] = [];
  for (const page of pages) {
    const { current, rendered } = await renderPage(page);
    expect(current, page).toBe(rendered);
    for (const [, name] of rendered.matchAll(/<!-- (\w+) -->/g)) names.push(name!);
  }
  expect(names).toEqual(['outcomes', 'errors', 'settings', 'knobs']);
});

it('The version in the code equals that of the package', async () => {
  const { version: published } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
  expect(version).toBe(published);
});
