import { expect, it } from 'vitest';
import { startJanitor } from '../../src/cluster/janitor.ts';
import { createManualClock } from '../../src/testing/index.ts';

const nothing = { sessions: 0, turns: 0, workers: 0 };
const quiet = { info() {}, warn() {} };
const settle = async () => {
  for (let i = 0; i < 10; i += 1) await Promise.resolve();
};

function sweeping(purge: () => Promise<typeof nothing>) {
  const clock = createManualClock();
  const janitor = startJanitor({
    store: { purge },
    clock,
    random: () => 0.5,
    everyMs: 1_000,
    retentionHours: 24,
    log: quiet,
  });
  return { clock, janitor };
}

it('sweeps in full batches until one is not full, then waits for its next round', async () => {
  const batches = [
    { ...nothing, turns: 500 },
    { ...nothing, sessions: 500 },
    { ...nothing, turns: 3 },
  ];
  let calls = 0;
  const { clock, janitor } = sweeping(async () => batches[calls++] ?? nothing);
  clock.advance(999);
  expect(calls).toBe(0);
  clock.advance(1);
  await settle();
  expect(calls).toBe(3);
  clock.advance(1_000);
  await settle();
  expect(calls).toBe(4);
  janitor.stop();
});

it('never overlaps itself, survives a store that fails, and stops for good', async () => {
  let release = (_: Error) => {};
  let calls = 0;
  const { clock, janitor } = sweeping(() => {
    calls += 1;
    return new Promise((_, reject) => {
      release = reject;
    });
  });
  clock.advance(10_000);
  await settle();
  expect(calls).toBe(1);
  release(new Error('no answer'));
  await settle();
  clock.advance(1_000);
  expect(calls).toBe(2);
  janitor.stop();
  release(new Error('no answer'));
  await settle();
  clock.advance(10_000);
  expect(calls).toBe(2);
  expect(clock.armed).toBe(0);
});
