import { expect, it } from 'vitest';
import { renderMachineDocs } from '../support/machine-docs.ts';

it('docs/machines.md matches the machines (npm run docs:machines writes it)', async () => {
  const { current, rendered } = await renderMachineDocs();
  expect(current).toBe(rendered);
});
