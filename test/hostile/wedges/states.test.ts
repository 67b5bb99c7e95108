import { afterEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config.ts';
import type { BridgeError } from '../../../src/errors.ts';
import type { ClientSink } from '../../../src/session/port.ts';
import { systemClock } from '../../../src/system.ts';
import { createMemoryStore } from '../../../src/testing/memory-store/index.ts';
import { parseSecrets } from '../../../src/token/keyring.ts';
import { readRequest } from '../../../src/transcript/read.ts';
import type { ConnectionHandlers, DialResult, UpstreamConnection } from '../../../src/upstream/port.ts';
import { startWorker, type Worker } from '../../../src/worker.ts';
import { until } from '../../support/until.ts';

/** Creates a worker whose in-memory store, upstream and client can each be broken by the test. */
async function open() {
  const store = createMemoryStore({ clock: systemClock });
  const states: string[] = [];
  const logged: string[] = [];
  const upstream = {
    /** Results of the next handshakes. */
    dial: [] as (() => Promise<DialResult>)[],
    send: (_: string) => true,
    close: () => {},
    handlers: null as ConnectionHandlers | null,
  };
  const connection = (): UpstreamConnection => {
    let isOpen = true;
    return {
      kind: 'websocket',
      get open() {
        return isOpen;
      },
      attach(handlers) {
        upstream.handlers = handlers;
      },
      send: (frame) => upstream.send(frame),
      pause: () => {},
      resume: () => {},
      close() {
        isOpen = false;
        upstream.close();
      },
    };
  };
  let ids = 0;
  const worker: Worker = await startWorker({
    config: readConfig({
      HOLDFAST_UPSTREAM_URL: 'http://upstream.invalid/v1',
      HOLDFAST_UPSTREAM_TRANSPORT: 'websocket',
      HOLDFAST_DRAIN_MS: '100',
    }),
    store,
    transport: {
      dial: () => upstream.dial.shift()?.() ?? Promise.resolve({ kind: 'open', connection: connection(), headers: {} }),
      exchange: connection,
      call: () => Promise.reject(new Error('not scripted')),
      shutdown: async () => {},
    },
    clock: systemClock,
    ids: { uuid: () => `00000000-0000-4000-8000-${String(++ids).padStart(12, '0')}` },
    random: () => 0.5,
    secrets: parseSecrets('test:0123456789abcdef0123456789abcdef'),
    version: 'test',
    livenessPath: null,
    shared: false,
    listen: null,
    forwarder: () => ({ close: async () => {} }) as never,
    logger: { info() {}, warn() {}, error: (fields, text) => void logged.push(`${text} ${JSON.stringify(fields)}`) },
    inspect: {
      step({ event, value }) {
        if (event.type === 'effect.failed') states.push(JSON.stringify(value));
      },
    },
  });
  workers.push(worker);

  let requests = 0;
  /** Sends a request; resolves with its result for the client in one word. */
  function ask(more: object = {}, breaks: Partial<ClientSink> = {}) {
    const answer = Promise.withResolvers<string>();
    const delivered: (() => void)[] = [];
    let ended = false;
    const end = (what: string) => {
      if (ended) return;
      ended = true;
      answer.resolve(what);
      for (const listener of delivered) listener();
    };
    const sink: ClientSink = {
      head: () => {},
      event: () => true,
      open: () => {},
      end,
      fail: (error: BridgeError) => end(error.code),
      relay: ({ status }) => end(String(status)),
      cut: () => end('cut'),
      attached: true,
      shown: false,
      committed: false,
      onGone: () => {},
      onDrain: () => {},
      onDelivered: (listener) => void delivered.push(listener),
      ...breaks,
    };
    const text = JSON.stringify({
      model: 'm',
      stream: true,
      store: false,
      input: [{ role: 'user', content: 'hello' }],
      ...more,
    });
    worker.dispatcher.accept(
      {
        requestId: `r${++requests}`,
        caller: { scope: 's', credentialFp: 'f', upstreamAuthorization: 'Bearer x', credentialIsClients: true },
        headers: { 'thread-id': 't' },
        ...readRequest(JSON.parse(text), text, text.length),
        receivedAt: systemClock.now(),
      },
      sink,
    );
    return answer.promise;
  }
  let answers = 0;
  const frame = (value: object) => upstream.handlers!.frame(JSON.stringify(value));
  /** Makes the upstream answer whatever is sent to it. */
  const answering = () => {
    upstream.send = () => {
      const id = `resp_${++answers}`;
      queueMicrotask(() => {
        frame({ type: 'response.created', response: { id, status: 'in_progress', output: [] } });
        const item = { type: 'message', id: `msg_${id}`, role: 'assistant', content: [] };
        frame({ type: 'response.output_item.done', output_index: 0, item });
        frame({ type: 'response.completed', response: { id, status: 'completed', output: [item], usage: null } });
      });
      return true;
    };
  };
  answering();
  /** Checks that the session serves again, and that no turn stays active. */
  const servesAgain = async () => {
    answering();
    upstream.close = () => {};
    expect(await ask({ input: [{ role: 'user', content: 'again' }] })).toBe('response.completed');
    await until(() => [...worker.registry.all()].every((session) => !session.view().busy));
    const active = (await store.sessions(9)).filter(({ activeTurnId }) => activeTurnId !== null);
    expect(active).toEqual([]);
  };
  const idle = () => until(() => [...worker.registry.all()].some((session) => session.view().state === 'live.idle'));
  return { worker, store, upstream, frame, ask, states, logged, servesAgain, idle };
}

const workers: Worker[] = [];
afterEach(async () => {
  for (const worker of workers.splice(0)) await worker.close();
});

const secret = 'what-a-person-said';
const broken = (): never => {
  throw new Error(`broken over ${secret}`);
};
const brokenLater = () => Promise.reject(new Error(`broken over ${secret}`));

describe('a part that throws', () => {
  it('A throw while the first socket is opened answers the client and leaves no session', async () => {
    const { upstream, ask, states, logged, servesAgain } = await open();
    upstream.dial.push(brokenLater);
    expect(await ask()).toBe('bridge_internal');
    expect(states).toEqual(['"closed"']);
    expect(logged).toHaveLength(1);
    expect(logged.join()).not.toContain(secret);
    await servesAgain();
  });

  it.each([
    ['the socket throws on send', ({ upstream }: Awaited<ReturnType<typeof open>>) => (upstream.send = broken)],
    [
      'the socket throws on send and on close',
      ({ upstream }: Awaited<ReturnType<typeof open>>) => {
        upstream.send = broken;
        upstream.close = broken;
      },
    ],
  ])('A throw while a turn is on the wire settles it as failed (%s)', async (_, breaks) => {
    const all = await open();
    breaks(all);
    expect(await all.ask()).toBe('bridge_internal');
    await until(() => all.worker.dispatcher.inFlight === 0);
    expect(all.states[0]).toBe('{"live":{"settling":"asking"}}');
    await all.servesAgain();
    const [session] = await all.store.sessions(1);
    expect((await all.store.turnsOf(session!.id, 9)).map(({ state }) => state)).toContain('failed');
  });

  it('A throw in the client’s end of a stream answers the client and settles the turn', async () => {
    const { ask, states, servesAgain } = await open();
    expect(await ask({}, { event: broken })).toBe('bridge_internal');
    await servesAgain();
    expect(states[0]).toBe('{"live":{"settling":"asking"}}');
  });

  it('A throw while the client is given its terminal cuts the client and releases the session', async () => {
    const { ask, states, worker, servesAgain } = await open();
    expect(await ask({}, { end: broken })).toBe('cut');
    await until(() => worker.registry.size === 0);
    expect(states).toEqual(['"stale"']);
    await servesAgain();
  });

  it('A throw while a known session waits for a socket answers the client and leaves the session stale', async () => {
    const { upstream, ask, states, worker, idle, servesAgain } = await open();
    expect(await ask()).toBe('response.completed');
    await idle();
    upstream.handlers!.closed({ code: 1006 } as never);
    await until(() => worker.registry.size === 0);
    upstream.dial.push(brokenLater);
    expect(await ask({ input: [{ role: 'user', content: 'next' }] })).toBe('bridge_internal');
    await until(() => worker.registry.size === 0);
    expect(states).toEqual(['"stale"']);
    await servesAgain();
  });

  it('A throw while a turn is prepared for a resend settles it as failed', async () => {
    const { upstream, ask, states, servesAgain } = await open();
    upstream.send = () => {
      upstream.dial.push(brokenLater);
      queueMicrotask(() => upstream.handlers!.closed({ code: 1006 } as never));
      return true;
    };
    expect(await ask()).toBe('bridge_internal');
    expect(states).toEqual(['{"reconnecting":{"settling":"asking"}}']);
    await servesAgain();
  });

  it('A session whose upstream close throws is still released, and the next request is served', async () => {
    const { worker, upstream, ask, idle, servesAgain } = await open();
    expect(await ask()).toBe('response.completed');
    await idle();
    upstream.close = broken;
    for (const session of [...worker.registry.all()]) session.send({ type: 'operator.release' });
    expect(worker.registry.size).toBe(0);
    await servesAgain();
  });
});
