import fc from 'fast-check';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import type * as system from '../../src/system.ts';

let faults: unknown[] = [];
let stopWatching = () => {};
let systemClock: system.Clock;
beforeEach(async () => {
  // A module of its own: calls share timers, and those that other files have made are real.
  vi.resetModules();
  const { onFault, ...own } = await import('../../src/system.ts');
  systemClock = own.systemClock;
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'performance'] });
  faults = [];
  stopWatching = onFault((error) => faults.push(error));
});
afterEach(() => {
  stopWatching();
  vi.useRealTimers();
});

it('Every call is made once, never early and hardly late, unless it is cancelled', () => {
  const delay = fc.oneof(fc.integer({ min: 0, max: 3_000 }), fc.double({ min: 900, max: 4_000_000, noNaN: true }));
  const wish = fc.record({ pause: fc.nat(500), delay, cancelled: fc.boolean() });
  let most = 0;
  fc.assert(
    fc.property(fc.array(wish), (wishes) => {
      const made: number[] = [];
      wishes.forEach(({ pause, delay, cancelled }, nth) => {
        vi.advanceTimersByTime(pause);
        const due = performance.now() + delay;
        const cancel = systemClock.after(delay, () => {
          made.push(nth);
          // Node's timers count whole milliseconds.
          expect(performance.now()).toBeGreaterThan(due - 1);
          expect(performance.now()).toBeLessThanOrEqual(due + delay / 128 + 1);
        });
        if (cancelled) cancel();
      });
      vi.advanceTimersByTime(4_100_000);
      expect(made.sort((a, b) => a - b)).toEqual(wishes.flatMap(({ cancelled }, nth) => (cancelled ? [] : [nth])));
      expect(faults).toEqual([]);
      most = Math.max(most, made.length);
    }),
  );
  expect(most).toBeGreaterThan(3);
});

it.each([1, 999, 1_000, 60_000, 3_600_000])('A call after %s ms is late by at most a 128th', (ms) => {
  vi.advanceTimersByTime(777);
  let late = Number.NaN;
  const due = performance.now() + ms;
  systemClock.after(ms, () => {
    late = performance.now() - due;
  });
  vi.advanceTimersByTime(ms - 1);
  expect(late).toBeNaN();
  vi.advanceTimersByTime(2 + ms / 128);
  expect(late).toBeGreaterThanOrEqual(0);
  expect(late).toBeLessThanOrEqual(1 + ms / 128);
});

it('Calls of one span are made in order, and one that throws or cancels another does not disturb the rest', () => {
  const made: string[] = [];
  const at = (ms: number, name: string, more = () => {}) =>
    systemClock.after(ms, () => {
      made.push(name);
      more();
    });
  vi.advanceTimersByTime(1);
  const cancelLate = at(60_003, 'cancelled');
  at(60_002, 'second', () => {
    cancelLate();
    throw new Error('boom');
  });
  at(60_001, 'first');
  at(60_004, 'last', () => at(60_000, 'next'));
  vi.advanceTimersByTime(61_000);
  expect(made).toEqual(['first', 'second', 'last']);
  expect(faults).toMatchObject([{ message: 'boom' }]);
  vi.advanceTimersByTime(61_000);
  expect(made.at(-1)).toBe('next');
});

it('Any number of deadlines that are cancelled leave few timers', () => {
  for (let nth = 0; nth < 10_000; nth += 1) systemClock.after(60_000, () => {})();
  expect(vi.getTimerCount()).toBeLessThan(5);
});
