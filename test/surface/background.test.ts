import OpenAI from 'openai';
import { afterEach, expect, it } from 'vitest';
import { freshDatabase } from '../support/database.ts';
import { freePort, startWorker, type WorkerProcess } from '../support/worker-process.ts';
import { type BackgroundProvider, startBackgroundProvider } from './background-provider.ts';
import { SHARED } from './support.ts';

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

interface Fleet {
  provider: BackgroundProvider;
  workers: { process: WorkerProcess; url: string }[];
  /** Creates the SDK's client for one worker. */
  client(at: number, key?: string): OpenAI;
}

async function fleet(env: Record<string, string> = {}, count = 2): Promise<Fleet> {
  const database = await freshDatabase();
  closing.push(database.drop);
  const provider = await startBackgroundProvider();
  closing.push(provider.close);
  const workers = await Promise.all(
    Array.from({ length: count }, async () => {
      const port = await freePort();
      const process = await startWorker({
        PORT: String(port),
        DATABASE_URL: database.url,
        HOLDFAST_SECRETS: 'test:0123456789abcdef0123456789abcdef',
        HOLDFAST_UPSTREAM_URL: provider.url,
        ...env,
      });
      closing.push(process.kill);
      return { process, url: `http://127.0.0.1:${port}/v1` };
    }),
  );
  const client = (at: number, key = 'key-ann') => new OpenAI({ baseURL: workers[at]!.url, apiKey: key, maxRetries: 0 });
  return { provider, workers, client };
}

interface Numbered {
  sequence_number: number;
  type: string;
}

/** The events that one client has, over all its streams. */
function reader() {
  const events: Numbered[] = [];
  let waiting: (() => void)[] = [];
  return {
    events,
    /** Reads a stream until it ends or breaks off, or until the number of events is reached. */
    async read(stream: unknown, until = Number.POSITIVE_INFINITY): Promise<'ended' | 'broken' | 'reached'> {
      try {
        for await (const event of stream as AsyncIterable<Numbered>) {
          events.push(event);
          for (const wake of waiting.splice(0)) wake();
          if (events.length >= until) return 'reached';
        }
        return 'ended';
      } catch {
        return 'broken';
      }
    },
    async count(wanted: number): Promise<void> {
      while (events.length < wanted) await new Promise<void>((wake) => (waiting = [...waiting, wake]));
    },
  };
}

const ask = { model: 'gpt-4o', input: 'What is 2 + 2?', background: true, stream: true, store: true } as const;
const numbers = (events: readonly Numbered[]) => events.map(({ sequence_number: number }) => number);
const upTo = (count: number) => Array.from({ length: count }, (_, number) => number);

it.each([
  ["the client's own credential", {}],
  ['a credential that tenants share', SHARED],
] as const)(
  'A background stream is resumed through another worker after SIGKILL, without a gap or a repeat, with %s',
  async (_, env) => {
    const { provider, workers, client } = await fleet(env);
    const { events, read, count } = reader();
    provider.release(6);
    const first = await client(0).responses.create(ask);
    const reading = read(first);
    await count(6);
    await workers[0]!.process.kill();
    expect(await reading).toBe('broken');
    const { id } = (events[0] as unknown as { response: { id: string } }).response;
    expect(numbers(events)).toEqual(upTo(6));

    const resumed = await client(1).responses.retrieve(id, {
      stream: true,
      starting_after: events.at(-1)!.sequence_number,
    });
    provider.release(provider.total);
    expect(await read(resumed)).toBe('ended');
    expect(numbers(events)).toEqual(upTo(provider.total));
    expect(events.at(-1)!.type).toBe('response.completed');
    if (env === SHARED) {
      await expect(client(1, 'key-bob').responses.retrieve(id, { stream: true })).rejects.toMatchObject({
        status: 404,
      });
      expect((await client(1).responses.cancel(id)).id).toBe(id);
    }
  },
  240_000,
);

it('A stream that the upstream cuts, repeats or refuses for a moment goes on for its client, who notices nothing', async () => {
  const { provider, client } = await fleet({}, 1);
  for (const how of ['post', 'get'] as const) {
    provider.reset();
    const { events, read, count } = reader();
    let stream: unknown;
    provider.release(4);
    if (how === 'post') stream = await client(0).responses.create(ask);
    else {
      const { id } = await client(0).responses.create({ ...ask, stream: false });
      stream = await client(0).responses.retrieve(id, { stream: true });
    }
    const reading = read(stream);
    await count(4);
    // The next stream begins two events too early, and the one before it is refused.
    provider.misbehave({ repeat: 2, refuse: 1 });
    provider.cut();
    provider.release(provider.total);
    expect([how, await reading]).toEqual([how, 'ended']);
    expect(numbers(events)).toEqual(upTo(provider.total));
  }
}, 240_000);

it('A stream whose worker is killed goes on through the worker that holds the client', async () => {
  const { provider, workers, client } = await fleet();
  const headers = { 'thread-id': 'one-conversation' };
  const seed = await client(0).responses.create({ model: 'gpt-4o', input: 'hi', store: true }, { headers });
  provider.release(5);
  const { events, read, count } = reader();
  const next = { ...ask, previous_response_id: seed.id };
  const stream = await client(1).responses.create(next, { headers });
  const reading = read(stream);
  await count(5);
  await workers[0]!.process.kill();
  provider.release(provider.total);
  expect(await reading).toBe('ended');
  expect(numbers(events)).toEqual(upTo(provider.total));
}, 240_000);

it('A stream whose turn takes longer than the longest turn ends with that error, and is not followed at the provider', async () => {
  const { provider, client } = await fleet({ HOLDFAST_TURN_BUDGET_MS: '5000' }, 1);
  provider.release(4);
  const { events, read } = reader();
  await read(await client(0).responses.create(ask));
  expect(numbers(events).slice(0, 4)).toEqual(upTo(4));
  expect(events.at(-1)).toMatchObject({ response: { error: { code: 'bridge_turn_timeout' } } });
  expect(provider.readers).toBe(0);
}, 240_000);

it('A client that leaves a resumed stream ends it at the provider', async () => {
  const { provider, client } = await fleet({}, 1);
  provider.release(3);
  const { id } = await client(0).responses.create({ ...ask, stream: false });
  const stream = await client(0).responses.retrieve(id, { stream: true });
  await reader().read(stream, 3);
  await provider.deserted();
  expect(provider.readers).toBe(0);
}, 240_000);

it('A response that the provider does not know, or that is no stream there, is answered as the provider answers', async () => {
  const { client } = await fleet({}, 1);
  await expect(client(0).responses.retrieve('resp_unknown', { stream: true })).rejects.toMatchObject({ status: 404 });
}, 240_000);
