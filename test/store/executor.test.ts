import type { PoolClient } from 'pg';
import { describe, expect, it } from 'vitest';
import { createExecutor } from '../../src/store/postgres/executor.ts';
import { NoAnswer } from '../../src/store/postgres/outcome.ts';
import { createManualClock } from '../../src/testing/index.ts';

/** An executor over one connection whose answers the test gives. */
function one({ own = false } = {}) {
  const clock = createManualClock();
  const asked: { text: string; answer(error?: Error): void }[] = [];
  const connected: string[] = [];
  let broken = (_: Error) => {};
  const client = {
    query: ({ text, callback }: { text: string; callback: (error: Error | null, rows: object[]) => void }) =>
      void asked.push({ text, answer: (error) => callback(error ?? null, []) }),
    on: (_: 'error', listener: (error: Error) => void) => {
      broken = listener;
    },
    release: (destroy = false) => void connected.push(destroy ? 'destroyed' : 'given back'),
  } as unknown as PoolClient;
  const pool = {
    connect: async () => {
      connected.push('taken');
      return client;
    },
  };
  const executor = createExecutor({ pool, own, size: 1, schema: 'holdfast', timeoutMs: 100, clock });
  const run = (name: string, writes = false) => executor.run({ name, text: name, writes }, []);
  /** Makes a call and answers it. */
  const called = async (error?: Error) => {
    const call = run('call');
    await settle();
    asked.at(-1)!.answer(error);
    await call.catch(() => {});
  };
  /** Lets what was promised happen. */
  const settle = () => new Promise<void>((done) => setImmediate(done));
  return { clock, asked, connected, executor, run, called, settle, broken: () => broken(new Error('reset')) };
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

describe("an executor's own connections", () => {
  it('A connection is taken once for many calls, and the next call is sent at once', async () => {
    const { asked, connected, run, called } = one({ own: true });
    await called();
    await called();
    const call = run('third');
    expect(asked).toHaveLength(3);
    asked[2]!.answer();
    await call;
    expect(connected).toEqual(['taken']);
  });

  it('A connection that is not used for a second goes back to its pool', async () => {
    const { clock, connected, called } = one({ own: true });
    await called();
    clock.advance(600);
    await called();
    clock.advance(600);
    expect(connected).toEqual(['taken']);
    clock.advance(1_000);
    expect(connected).toEqual(['taken', 'given back']);
    await called();
    expect(connected).toEqual(['taken', 'given back', 'taken']);
  });

  it('A connection that breaks without a call is destroyed, and not used again', async () => {
    const { connected, called, broken } = one({ own: true });
    await called();
    broken();
    expect(connected).toEqual(['taken', 'destroyed']);
    await called();
    expect(connected).toEqual(['taken', 'destroyed', 'taken']);
  });

  it('A connection that breaks during a call is destroyed once', async () => {
    const { connected, asked, run, settle, broken } = one({ own: true });
    const call = run('call').catch((error: unknown) => error);
    await settle();
    broken();
    asked[0]!.answer(new Error('reset'));
    expect(await call).toBeInstanceOf(NoAnswer);
    expect(connected).toEqual(['taken', 'destroyed']);
  });

  it('All connections go back to the pool when the executor stops, also one that arrives later', async () => {
    const { connected, executor, run, called, settle } = one({ own: true });
    await called();
    executor.stop();
    expect(connected).toEqual(['taken', 'given back']);
    const later = one({ own: true });
    const call = later.run('call').catch((error: unknown) => error);
    later.executor.stop();
    expect(await call).toBeInstanceOf(NoAnswer);
    await settle();
    expect(later.connected).toEqual(['taken', 'given back']);
    await expect(run('late')).rejects.toBeInstanceOf(NoAnswer);
  });

  it("A connection of another owner's pool goes back after every call", async () => {
    const { connected, called } = one();
    await called();
    await called();
    expect(connected).toEqual(['taken', 'given back', 'taken', 'given back']);
  });
});
