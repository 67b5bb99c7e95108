import { expect, it } from 'vitest';
import { renderMachineDocs } from '../support/machine-docs.ts';

it('keeps docs/machines.md as the machines are (npm run docs:machines writes it)', async () => {
  const { current, rendered } = await renderMachineDocs();
  expect(current).toBe(rendered);
});
