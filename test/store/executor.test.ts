import type { PoolClient } from 'pg';
import { describe, expect, it } from 'vitest';
import { createExecutor } from '../../src/store/postgres/executor.ts';
import { NoAnswer } from '../../src/store/postgres/outcome.ts';
import { createManualClock } from '../../src/testing/index.ts';

/** An executor over one connection whose answers the test gives. */
function one() {
  const clock = createManualClock();
  const asked: { text: string; answer(): void }[] = [];
  const client = {
    query: ({ text, callback }: { text: string; callback: (error: null, result: object) => void }) =>
      void asked.push({ text, answer: () => callback(null, { rows: [] }) }),
    release() {},
  } as unknown as PoolClient;
  const pool = { connect: async () => client };
  const executor = createExecutor({ pool, size: 1, schema: 'holdfast', timeoutMs: 100, clock });
  const run = (name: string, first = false) => executor.run({ name, text: name, first }, []);
  /** Lets what was promised happen. */
  const settle = () => new Promise<void>((done) => setImmediate(done));
  return { clock, asked, run, settle };
}

describe('calls that wait for a connection', () => {
  it('wait as long as the database answers those before them, and have their whole time from then on', async () => {
    const { clock, asked, run, settle } = one();
    const calls = ['a', 'b', 'c', 'd'].map((name) => run(name));
    for (let at = 0; at < calls.length; at += 1) {
      await settle();
      clock.advance(80);
      asked[at]!.answer();
    }
    await expect(Promise.all(calls)).resolves.toHaveLength(4);
    expect(clock.now()).toBe(320);
  });

  it('fail with those before them when the database is silent', async () => {
    const { clock, run, settle } = one();
    const calls = ['a', 'b', 'c'].map((name) => run(name).catch((error: unknown) => error));
    await settle();
    clock.advance(100);
    for (const result of await Promise.all(calls)) expect(result).toBeInstanceOf(NoAnswer);
  });

  it('go in order, those that end a turn before those that begin one', async () => {
    const { asked, run, settle } = one();
    const calls = [run('running'), run('read'), run('another read'), run('settle', true)];
    for (let at = 0; at < calls.length; at += 1) {
      await settle();
      asked[at]!.answer();
    }
    await Promise.all(calls);
    expect(asked.map(({ text }) => text)).toEqual(['running', 'settle', 'read', 'another read']);
  });
});
