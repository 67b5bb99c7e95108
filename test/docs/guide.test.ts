import { expect, it } from 'vitest';
import { extractExample } from './snippets.ts';

// Importing the example registers its own tests here.
const example = await extractExample('docs/model-based-testing.md', 'client');
await import(example.file);
await example.remove();

it('The example of the testing guide stays under 35 lines', () => {
  expect(example.code.split('\n').length).toBeLessThan(35);
});
