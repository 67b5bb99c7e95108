import { access, readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { canaries } from './list.ts';

it.each(canaries)('The canary "$name" matches its source exactly once, and its test files exist', async (canary) => {
  const { file, find, replace, tests } = canary;
  const text = await readFile(file, 'utf8');
  expect(text.split(find)).toHaveLength(2);
  expect(replace).not.toBe(find);
  for (const test of tests) await access(test);
});

it('Canary names are unique', () => {
  expect(new Set(canaries.map(({ name }) => name)).size).toBe(canaries.length);
});
