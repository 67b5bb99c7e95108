import { expect, it } from 'vitest';
import { extractExample } from './snippets.ts';

// Importing it registers the example's own tests here.
const example = await extractExample('docs/model-based-testing.md', 'client');
await import(example.file);
await example.remove();

it('is short enough to be read at a glance', () => {
  expect(example.code.split('\n').length).toBeLessThan(35);
});
