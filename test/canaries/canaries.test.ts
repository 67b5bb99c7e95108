import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { canaries } from './list.ts';

it.each(canaries)('the canary "$name" still fits its place exactly once', async ({ file, find, replace }) => {
  const text = await readFile(file, 'utf8');
  expect(text.split(find)).toHaveLength(2);
  expect(replace).not.toBe(find);
});
