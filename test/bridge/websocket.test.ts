import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { digestOf, expectedDigest, startSimulator } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { freshDatabase } from '../support/database.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import { connectSocket, isTerminal, type SocketClient, type SocketEvent } from '../support/websocket.ts';
import { freePort, startWorker } from '../support/worker-process.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

/** A conversation as its client knows it. */
interface Talk {
  readonly history: object[];
  previous: string | null;
}
const newTalk = (): Talk => ({ history: [], previous: null });

/** Runs one turn that names the previous response, and checks that the model saw the whole conversation. */
async function say(client: SocketClient, talk: Talk, text: string, more: object = {}): Promise<SocketEvent[]> {
  const message = user(text);
  const { previous } = talk;
  const body = { model: 'm', store: false, input: [message], ...(previous && { previous_response_id: previous }) };
  const events = await client.create({ ...body, ...more });
  talk.history.push(message);
  take(talk, events);
  return events;
}

/** The same, but the client sends everything, as after a reconnect. */
async function sayAll(client: SocketClient, talk: Talk, text: string, more: object = {}): Promise<void> {
  talk.history.push(user(text));
  take(talk, await client.create({ model: 'm', store: false, input: talk.history, ...more }));
}

function take(talk: Talk, events: readonly SocketEvent[]): void {
  const last = events.at(-1)!;
  expect(last).toMatchObject({ type: 'response.completed' });
  expect(digestOf(last.response as never)).toBe(expectedDigest({ items: talk.history as never }));
  talk.previous = last.response!.id;
  talk.history.push(...last.response!.output);
}

describe('one bridge', () => {
  let at: TestBridge;
  beforeAll(async () => {
    at = await startTestBridge();
  });
  afterAll(() => at?.close());
  const createsSince = (mark: number) => at.simulator.journal.of('create').slice(mark);
  const mark = () => at.simulator.journal.of('create').length;

  it('A client that names the previous response gets each turn as a delta on one upstream socket', async () => {
    using client = await connectSocket(at.url);
    const talk = newTalk();
    const from = mark();
    for (let turn = 0; turn < 3; turn += 1) await say(client, talk, `turn ${turn}`);
    expect(createsSince(from).map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 1]);
    expect(new Set(createsSince(from).map(({ connection }) => connection)).size).toBe(1);
  });

  it.each(['/responses', '/responses?a=b', '/v1/responses', '/backend-api/codex/responses'])(
    'A client can connect at %s, and goes on over HTTP at the same path',
    async (path) => {
      using client = await connectSocket(at.url, {}, path);
      const talk = newTalk();
      await say(client, talk, `one at ${path}`);
      const answer = await fetch(at.url + path, {
        method: 'POST',
        headers: { authorization: 'Bearer sk-test', 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'm', store: false, input: [user('two')], previous_response_id: talk.previous }),
      });
      const { output } = (await answer.json()) as { output: object[] };
      expect(digestOf({ output })).toBe(expectedDigest({ items: [...talk.history, user('two')] as never }));
    },
  );

  it('Steering input continues the response that it steers, and the conversation goes on with it', async () => {
    using client = await connectSocket(at.url);
    const talk = newTalk();
    await say(client, talk, 'one');
    const hold = at.simulator.script.onTurn({ input: 'two' }, { kind: 'hold', at: { deltas: 1 } }, { times: 1 });
    const create = { model: 'm', store: false, input: [user('two')], previous_response_id: talk.previous };
    client.send({ type: 'response.create', ...create });
    const { response } = await client.next(({ type }) => type === 'response.created');
    client.send({ type: 'response.steer', previous_response_id: response!.id, input: 'Rather three.' });
    await client.next(({ type }) => type === 'response.steer.accepted');
    hold.release();
    for (const text of ['two', 'Rather three.']) {
      talk.history.push(user(text));
      take(talk, [await client.next(isTerminal)]);
    }
    await say(client, talk, 'four');
    await sayAll(client, talk, 'five');
  });

  it('A client that connects again continues with the previous response, and with everything', async () => {
    const talk = newTalk();
    const from = mark();
    {
      using first = await connectSocket(at.url);
      await say(first, talk, 'one');
    }
    using second = await connectSocket(at.url);
    await say(second, talk, 'two');
    using third = await connectSocket(at.url);
    await sayAll(third, talk, 'three');
    expect(createsSince(from).map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 1]);
  });

  it('A conversation goes on over HTTP, and back on a WebSocket', async () => {
    using client = await connectSocket(at.url);
    const talk = newTalk();
    await say(client, talk, 'one');
    const message = user('two');
    const body = { model: 'm', store: false, stream: true, input: [message], previous_response_id: talk.previous };
    const answer = await post(at.url, body);
    talk.history.push(message);
    take(
      talk,
      answer.events.map(({ data }) => data as unknown as SocketEvent),
    );
    await say(client, talk, 'three');
  });

  it('A warm-up has no output and is continued', async () => {
    using client = await connectSocket(at.url);
    const developer = { type: 'message', role: 'developer', content: [{ type: 'input_text', text: 'Be brief.' }] };
    const warm = await client.create({ model: 'm', store: false, generate: false, input: [developer] });
    expect(warm.at(-1)).toMatchObject({ type: 'response.completed', response: { output: [] } });
    const talk: Talk = { history: [developer], previous: warm.at(-1)!.response!.id };
    const from = mark();
    await say(client, talk, 'one');
    expect(createsSince(from)).toMatchObject([{ itemsReceived: 1, previousResponseId: expect.any(String) }]);
  });

  it('A warm-up has no output where the upstream has no WebSocket either, and is continued', async () => {
    await using http = await startTestBridge({ env: { HOLDFAST_UPSTREAM_TRANSPORT: 'http' } });
    using client = await connectSocket(http.url);
    const developer = { type: 'message', role: 'developer', content: [{ type: 'input_text', text: 'Be brief.' }] };
    const warm = await client.create({ model: 'm', store: false, generate: false, input: [developer] });
    expect(warm.at(-1)).toMatchObject({ type: 'response.completed', response: { output: [] } });
    const talk: Talk = { history: [developer], previous: warm.at(-1)!.response!.id };
    await say(client, talk, 'one');
    await say(client, talk, 'two');
  });

  it('Conversations in lanes run at the same time, each with its own context', async () => {
    using client = await connectSocket(at.url);
    const talks = Array.from({ length: 6 }, newTalk);
    for (let turn = 0; turn < 3; turn += 1) {
      await Promise.all(
        talks.map((talk, n) => say(client, talk, `conversation ${n}, turn ${turn}`, { stream_id: `lane-${n}` })),
      );
    }
    const { sockets } = { sockets: new Set(createsSince(0).map(({ connection }) => connection)).size };
    expect(sockets).toBeGreaterThan(1);
  });

  it('Two lanes that continue the same response get a branch each', async () => {
    using client = await connectSocket(at.url);
    const talk = newTalk();
    await say(client, talk, 'common');
    const branches = ['left', 'right'].map((name) => ({
      name,
      talk: { history: [...talk.history], previous: talk.previous },
    }));
    await Promise.all(branches.map(({ name, talk: own }) => say(client, own, `${name} 1`, { stream_id: name })));
    await Promise.all(branches.map(({ name, talk: own }) => say(client, own, `${name} 2`, { stream_id: name })));
  });

  it('An unknown previous response leads to the error that clients know, and the client goes on with everything', async () => {
    await using shared = await startTestBridge({ env: { HOLDFAST_UPSTREAM_KEY: 'up' }, beside: at });
    using client = await connectSocket(shared.url);
    const talk = newTalk();
    await say(client, talk, 'one');
    const refused = await client.create({
      model: 'm',
      store: false,
      input: [user('x')],
      previous_response_id: 'resp_nobody',
    });
    expect(refused).toMatchObject([
      {
        type: 'error',
        status: 400,
        error: { type: 'invalid_request_error', code: 'previous_response_not_found', param: 'previous_response_id' },
      },
    ]);
    await sayAll(client, talk, 'two');
  });

  it('A refusal of the provider reaches the client with its status, and the next turn runs', async () => {
    const error = { status: 400, code: 'context_length_exceeded', message: 'too long', param: 'input' };
    at.simulator.script.onTurn({ input: 'refuse me' }, { kind: 'error', error } as never, { times: 1 });
    using client = await connectSocket(at.url);
    const events = await client.create({ model: 'm', store: false, input: [user('refuse me')] });
    expect(events.at(-1)).toMatchObject({ type: 'error', status: 400, error: { code: 'context_length_exceeded' } });
    await say(client, newTalk(), 'and now');
  });

  it('A client that was cut off and repeats its turn gets the stream of the first attempt', async () => {
    const hold = at.simulator.script.onTurn({ input: 'repeat me' }, { kind: 'hold', at: 'before_terminal' });
    const body = {
      model: 'm',
      store: false,
      input: [user('repeat me')],
      client_metadata: { turn_id: crypto.randomUUID(), thread_id: crypto.randomUUID() },
    };
    const from = mark();
    const first = await connectSocket(at.url);
    first.send({ type: 'response.create', ...body });
    await first.next(({ type }) => type === 'response.output_text.delta');
    first.ws.terminate();
    using second = await connectSocket(at.url);
    const whole = second.create(body);
    await second.next(({ type }) => type === 'response.created');
    hold.release();
    const last = (await whole).at(-1)!;
    expect(digestOf(last.response as never)).toBe(expectedDigest({ items: body.input as never }));
    expect(createsSince(from)).toHaveLength(1);
  });

  it('Turns on WebSockets are counted as such', async () => {
    using client = await connectSocket(at.url);
    await say(client, newTalk(), 'count me');
    const text = await (await fetch(`${at.url}/metrics`)).text();
    expect(text).toMatch(/holdfast_client_turns_total\{transport="websocket",terminal="completed"\} \d/);
    expect(text).toMatch(/holdfast_client_websockets [1-9]/);
  });

  it('A client that does not read holds its turn back upstream, and gets every event when it reads again', async () => {
    await using slow = await startTestBridge({ env: { HOLDFAST_TURN_BUFFER_BYTES: '200000' } });
    const response = { id: 'resp_much', object: 'response', model: 'm', status: 'in_progress', output: [] };
    const deltas = Array.from({ length: 400 }, (_, n) => ({
      type: 'response.output_text.delta',
      delta: `${n} ${'z'.repeat(50_000)}`,
    }));
    slow.simulator.script.onTurn(
      {},
      {
        kind: 'frames',
        frames: [
          { type: 'response.created', response },
          ...deltas,
          { type: 'response.completed', response: { ...response, status: 'completed' } },
        ],
      },
    );
    using client = await connectSocket(slow.url);
    client.ws.pause();
    client.send({ type: 'response.create', model: 'm', store: false, input: [user('much')] });
    const unread = async () => {
      const text = await (await fetch(`${slow.url}/metrics`)).text();
      return Number(/^holdfast_unread_bytes (\d+)/m.exec(text)?.[1]);
    };
    await until(async () => (await unread()) > 200_000);
    expect(await unread()).toBeLessThan(2_000_000);
    client.ws.resume();
    expect((await client.next(isTerminal)).type).toBe('response.completed');
    const shown = client.events
      .filter(({ type }) => type.endsWith('.delta'))
      .map(({ delta }) => parseInt(String(delta), 10));
    expect(shown).toEqual(deltas.map((_, n) => n));
  });
});

describe('access', () => {
  it('A page of another origin, and a name that is not of this bridge, open no WebSocket', async () => {
    await using at = await startTestBridge({ env: { HOLDFAST_CORS_ORIGINS: 'https://listed.example' } });
    await expect(connectSocket(at.url, { origin: 'https://evil.example' })).rejects.toThrow(
      /403.*bridge_forbidden_origin/,
    );
    await expect(connectSocket(at.url, { host: 'evil.example' })).rejects.toThrow(/403.*bridge_forbidden_host/);
    using client = await connectSocket(at.url, { origin: 'https://listed.example' });
    await say(client, newTalk(), 'from a listed page');
  });
});

describe('tenants', () => {
  it('A tenant cannot continue the response of another one on its own connection', async () => {
    await using at = await startTestBridge({
      env: { HOLDFAST_UPSTREAM_KEY: 'up', HOLDFAST_API_KEYS: 'a:key-a,b:key-b' },
    });
    using a = await connectSocket(at.url, { authorization: 'Bearer key-a' });
    using b = await connectSocket(at.url, { authorization: 'Bearer key-b' });
    const talk = newTalk();
    await say(a, talk, 'mine');
    for (const stream_id of [undefined, 'lane']) {
      const [refused] = await b.create({
        ...{ model: 'm', store: false, input: [user('yours')], previous_response_id: talk.previous },
        ...(stream_id && { stream_id }),
      });
      expect(refused).toMatchObject({ type: 'error', error: { code: 'previous_response_not_found' } });
    }
    const stolen = { ...newTalk(), history: [...talk.history] };
    await sayAll(b, stolen, 'resent by another tenant');
    await say(a, talk, 'still mine');
    const sessions = await at.store.sessions(9);
    expect(sessions.map(({ scope }) => scope).sort()).toEqual(['tenant:a', 'tenant:b']);
  });
});

describe('several workers', () => {
  const running: { close(): Promise<void> }[] = [];
  afterEach(async () => {
    for (const each of running.splice(0).reverse()) await each.close();
  });

  it('Conversations of one connection go on wherever their sessions are', async () => {
    await using one = await startTestBridge();
    await using other = await startTestBridge({ beside: one });
    const talks = Array.from({ length: 3 }, newTalk);
    {
      using at = await connectSocket(one.url);
      for (const talk of talks) await say(at, talk, 'here');
    }
    const from = one.simulator.journal.of('create').length;
    using there = await connectSocket(other.url);
    for (let turn = 0; turn < 2; turn += 1) {
      await Promise.all([
        ...talks.map((talk, n) => say(there, talk, `from elsewhere ${turn}`, { stream_id: `${n}` })),
        say(there, newTalk(), 'a new one there'),
      ]);
    }
    expect(other.bridge.sessions().length).toBeGreaterThan(0);
    const creates = one.simulator.journal.of('create').slice(from);
    expect(creates.map(({ itemsReceived }) => itemsReceived)).toEqual(Array.from({ length: 8 }, () => 1));
  });

  it('A worker is killed in the middle of a turn, and its client connects to another one and goes on', async () => {
    const simulator = await startSimulator();
    running.push(simulator);
    const database = await freshDatabase();
    running.push({ close: database.drop });
    const launch = async () => {
      const port = await freePort();
      const worker = await startWorker({
        PORT: String(port),
        DATABASE_URL: database.url,
        HOLDFAST_SECRETS: 'test:0123456789abcdef0123456789abcdef',
        HOLDFAST_UPSTREAM_URL: simulator.url,
      });
      const url = `http://127.0.0.1:${port}`;
      let ended = false;
      const end = (how: 'kill' | 'stop') => async () => {
        if (!ended) await worker[how]();
        ended = true;
      };
      running.push({ close: end('kill') });
      return { url, kill: end('kill'), stop: end('stop') };
    };
    const [first, second] = await Promise.all([launch(), launch()]);
    const anchored = newTalk();
    const resent = newTalk();
    const client = await connectSocket(first.url);
    await say(client, anchored, 'one', { stream_id: 'a' });
    await sayAll(client, resent, 'eins', { stream_id: 'b' });
    const hold = simulator.script.onTurn({ input: 'in the middle' }, { kind: 'hold', at: { deltas: 1 } });
    client.send({
      type: 'response.create',
      model: 'm',
      store: false,
      input: [user('in the middle')],
      previous_response_id: anchored.previous,
    });
    await client.next(({ type }) => type === 'response.output_text.delta');
    await first.kill();
    expect((await client.closed).code).toBe(1006);
    hold.release();
    using again = await connectSocket(second.url);
    await Promise.all([
      say(again, anchored, 'two', { stream_id: 'a' }),
      sayAll(again, resent, 'zwei', { stream_id: 'b' }),
    ]);
    // Both ways of going on lead to the same conversations, and these to their own turns.
    await say(again, resent, 'drei');
    await sayAll(again, anchored, 'three');

    const third = await launch();
    const late = simulator.script.onTurn({ input: 'last here' }, { kind: 'hold', at: 'before_terminal' });
    again.send({
      type: 'response.create',
      model: 'm',
      store: false,
      input: [user('last here')],
      previous_response_id: anchored.previous,
    });
    await again.next(({ type }) => type === 'response.output_text.delta');
    const stopped = second.stop();
    late.release();
    const last = await again.next(isTerminal);
    expect(last.type).toBe('response.completed');
    expect((await again.closed).code).toBe(1001);
    await stopped;
    anchored.history.push(user('last here'));
    take(anchored, [last]);
    using final = await connectSocket(third.url);
    await say(final, anchored, 'four');
    await say(final, resent, 'vier');
  });
});
