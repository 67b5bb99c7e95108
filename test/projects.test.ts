import { globSync, readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { campaigns, units } from '../vitest.config.ts';

it('Every pattern of the test projects matches a file', () => {
  expect([...campaigns, ...units].filter((pattern) => globSync(pattern).length === 0)).toEqual([]);
});

it('The files of the reading guide exist, and can be read in an afternoon', () => {
  const guide = /## Reading guide\n([\s\S]*?)\n## /.exec(readFileSync('docs/architecture.md', 'utf8'))![1]!;
  const files = [...guide.matchAll(/^\d+\. \[`([^`]+)`\]\(\.\.\/\1\)/gm)].map(([, file]) => file!);
  expect(files).toHaveLength(10);
  const lines = files.reduce((sum, file) => sum + readFileSync(file, 'utf8').split('\n').length, 0);
  expect(lines).toBeGreaterThan(2_000);
  expect(lines).toBeLessThan(4_000);
});
