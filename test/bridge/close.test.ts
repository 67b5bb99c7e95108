import { afterEach, expect, it, vi } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { type Clock, systemClock } from '../../src/system.ts';
import { testBridge } from '../../src/testing/index.ts';
import { faultyProxy } from '../store/faulty-proxy.ts';
import { post } from '../support/client.ts';
import { freshDatabase } from '../support/database.ts';
import { openLive } from '../support/live-client.ts';
import { until } from '../support/until.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** Records what a bridge waits for: its timers and the unanswered calls to its store. */
function watched() {
  const timers = new Set<object>();
  let calls = 0;
  const clock: Clock = {
    ...systemClock,
    after(ms, fn) {
      const timer = {};
      timers.add(timer);
      const cancel = systemClock.after(ms, () => {
        timers.delete(timer);
        fn();
      });
      return () => {
        timers.delete(timer);
        cancel();
      };
    },
  };
  const wrapStore = (store: SessionStore): SessionStore =>
    new Proxy(store, {
      get(inner, name) {
        const value: unknown = Reflect.get(inner, name, inner);
        if (typeof value !== 'function') return value;
        return (...given: unknown[]) => {
          const answer: unknown = value.apply(inner, given);
          if (answer instanceof Promise) {
            calls += 1;
            const done = () => (calls -= 1);
            answer.then(done, done);
          }
          return answer;
        };
      },
    });
  return { clock, wrapStore, isAtRest: () => timers.size === 0 && calls === 0 };
}

it('A bridge that is closed while its database is gone repeats no write and leaves no timer, whatever was pending', async () => {
  const database = await freshDatabase();
  ends.push(() => database.drop());
  const path = await faultyProxy(database.url);
  const { clock, wrapStore, isAtRest } = watched();
  const at = await testBridge({
    clock,
    wrapStore,
    openStore: () => openPostgresStore({ url: path.url, statementTimeoutMs: 60_000 }),
    env: { HOLDFAST_DRAIN_MS: '1000', HOLDFAST_LAME_DUCK_MS: '0' },
  });
  ends.push(() => at.close());
  const body = { model: 'm', stream: true, store: false, input: 'one' };
  expect((await post(at.url, body, { 'thread-id': 'rests' })).status).toBe(200);
  const held = at.simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
  const ended = await openLive(at.url, body, { 'thread-id': 'ends' });
  await ended.until('response.output_item.added');
  const running = await openLive(at.url, body, { 'thread-id': 'runs' });
  await running.until('response.output_item.added');
  await path.close();
  held.release();
  expect((await ended.rest()).events.at(-1)!.type).toBe('response.completed');
  await at.bridge.close();
  expect(at.bridge.sessions()).toEqual([]);
  // Timers that were set before the close run out; a retry would set a new one each time.
  await until(isAtRest, 110_000);
});
