import { once } from 'node:events';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { connectSocket, type SocketClient } from '../support/websocket.ts';
import { type Face, openFace } from './face.ts';

const CODEX = { 'openai-beta': 'responses_websockets=2026-02-06' };
type Taken = Awaited<ReturnType<Face['next']>>;

let face: Face;
beforeEach(async () => {
  face = await openFace();
});
afterEach(() => face.close());

const created = (id: string) => JSON.stringify({ type: 'response.created', sequence_number: 0, response: { id } });
const delta = (text: string) =>
  JSON.stringify({ type: 'response.output_text.delta', sequence_number: 1, delta: text, logprobs: [] });
const completed = (id: string) => JSON.stringify({ type: 'response.completed', sequence_number: 2, response: { id } });
const create = (input: string, more: object = {}) => ({ type: 'response.create', model: 'm', input, ...more });
const answer = ({ sink }: Taken, id: string) => {
  sink.event('response.created', created(id), false);
  sink.end('response.completed', completed(id));
};
const inputOf = ({ request }: Taken) => (request.items.list[0]!.value.content as { text: string }[])[0]!.text;

/** Waits until the connection has read everything that was sent so far. */
async function settled(client: SocketClient): Promise<void> {
  client.send({ type: 'response.steer', previous_response_id: 'mark', input: [] });
  await client.next(({ type }) => type === 'response.steer.failed');
}

describe('frames', () => {
  it.each(['/v1/responses', '/v1/responses/?a=b', '/backend-api/codex/responses'])(
    'A response.create at %s becomes a turn, and its events come back one a message',
    async (path) => {
      using client = await connectSocket(face.url, {}, path);
      client.send('{"type":"response.create","model":"m","n":9223372036854775807,"stream_id":null,"input":"hi"}');
      const turn = await face.next();
      expect(turn.request).toMatchObject({ bytes: 92, clientTransport: 'websocket', body: { stream: true } });
      expect(turn.request.text).toBe('{"model":"m","n":9223372036854775807,"input":"hi","stream":true}');
      turn.sink.head({ outcome: 'created', sessionId: 's', token: 't' });
      turn.sink.event('response.created', created('r1'), false);
      turn.sink.event('response.output_text.delta', delta('a'), false);
      turn.sink.end('response.completed', completed('r1'));
      expect(await client.next()).toEqual(JSON.parse(created('r1')));
      expect(await client.next()).toEqual(JSON.parse(delta('a')));
      expect(await client.next()).toEqual(JSON.parse(completed('r1')));
    },
  );

  it('Codex gets turn state and headers as an event after the first one, and sends the turn state back in its metadata', async () => {
    using client = await connectSocket(face.url, { ...CODEX, 'thread-id': 'thread-of-the-upgrade' });
    client.send(create('one', { client_metadata: { 'x-codex-turn-state': 'state-0', turn_id: 'u1' } }));
    const first = await face.next();
    expect(first.request.headers).toMatchObject({
      'x-codex-turn-state': 'state-0',
      'thread-id': 'thread-of-the-upgrade',
    });
    first.sink.head({
      outcome: 'created',
      sessionId: 's',
      token: 'state-1',
      headers: { 'x-reasoning-included': 'true' },
    });
    first.sink.event('codex.rate_limits', '{"type":"codex.rate_limits"}', true);
    answer(first, 'r1');
    const types = [];
    for (let n = 0; n < 4; n += 1) types.push(await client.next());
    expect(types.map(({ type }) => type)).toEqual([
      'codex.rate_limits',
      'response.created',
      'response.metadata',
      'response.completed',
    ]);
    expect(types[2]!.headers).toMatchObject({
      'x-codex-turn-state': 'state-1',
      'x-reasoning-included': 'true',
      'x-holdfast-outcome': 'created',
    });
    const metadata = { thread_id: 'thread-of-the-turn', session_id: 's2', 'x-codex-turn-metadata': '{"turn_id":"u2"}' };
    client.send(create('two', { client_metadata: metadata }));
    const second = await face.next();
    expect(second.request.headers).toMatchObject({
      'thread-id': 'thread-of-the-turn',
      'session-id': 's2',
      'x-codex-turn-metadata': '{"turn_id":"u2"}',
    });
    expect(second.request.headers).not.toHaveProperty('x-codex-turn-state');
  });

  it('Once the provider has reported that it counts past reasoning, each upgrade reports it', async () => {
    using first = await connectSocket(face.url, CODEX);
    expect(first.upgrade).not.toHaveProperty('x-reasoning-included');
    first.send(create('one'));
    const { sink } = await face.next();
    sink.head({ outcome: 'created', sessionId: 's', token: null, headers: { 'x-reasoning-included': 'true' } });
    using second = await connectSocket(face.url, CODEX);
    expect(second.upgrade['x-reasoning-included']).toBe('true');
  });

  it('A message that crosses the close of the connection starts no turn', async () => {
    using client = await connectSocket(face.url);
    client.ws.pause();
    const closed = face.sockets.close();
    client.send(create('too late'));
    client.ws.resume();
    await closed;
    expect(face.taken).toEqual([]);
  });

  it('Headers of the upgrade that mark one request do not apply to the turns of its connection', async () => {
    using client = await connectSocket(face.url, {
      'idempotency-key': 'k',
      'x-stainless-retry-count': '2',
      'x-codex-turn-state': 'old',
      'x-codex-window-id': 'w',
      'x-codex-turn-metadata': '{}',
    });
    client.send(create('one'));
    const { headers } = (await face.next()).request;
    expect(headers).toMatchObject({ 'x-codex-window-id': 'w' });
    const unusable = { thread_id: 'a\r\nb', session_id: 'é', 'x-codex-turn-metadata': 'x'.repeat(20_000) };
    client.send(create('two', { stream_id: 'a', client_metadata: unusable }));
    const second = (await face.next()).request.headers;
    for (const name of ['thread-id', 'session-id', 'x-codex-turn-metadata']) expect(second).not.toHaveProperty(name);
    for (const name of ['idempotency-key', 'x-stainless-retry-count', 'x-codex-turn-state'])
      expect(headers).not.toHaveProperty(name);
  });

  it('response.processed is dropped, and steering input for a response that does not run comes back', async () => {
    using client = await connectSocket(face.url);
    client.send({ type: 'response.processed', response_id: 'r' });
    client.send({ type: 'response.steer', previous_response_id: 'r', input: [{ role: 'user', content: 'more' }] });
    expect(await client.next()).toMatchObject({
      type: 'response.steer.failed',
      steer: { previous_response_id: 'r', input: [{ role: 'user', content: 'more' }] },
      error: { code: 'response_not_found' },
    });
    expect(client.events).toHaveLength(1);
    expect(face.quota.inHand).toEqual({ waiting: 0, running: 0, bytes: 0 });
  });

  it('A large message is read in a thread', async () => {
    using client = await connectSocket(face.url);
    const text = 'x'.repeat(300_000);
    client.send(create(text, { stream_id: 'a' }));
    const turn = await face.next();
    expect(inputOf(turn)).toBe(text);
    expect(turn.request.text).not.toContain('stream_id');
    answer(turn, 'r');
    expect(await client.next()).toMatchObject({ type: 'response.created', stream_id: 'a' });
  });

  it.each([
    ['no JSON', '{"type":', 'bridge_invalid_json', undefined],
    ['no object', '[1]', 'bridge_invalid_request', undefined],
    ['no type', '{}', 'bridge_unknown_event', 'type'],
    ['an unknown type', '{"type":"response.append"}', 'bridge_unknown_event', 'type'],
    ['a type that is no text', '{"type":{"a":1}}', 'bridge_unknown_event', 'type'],
    ['a field of a wrong type', '{"type":"response.create","input":7}', 'bridge_invalid_request', 'input'],
    [
      'too many levels',
      `{"type":"response.create","input":${'['.repeat(500)}${']'.repeat(500)}}`,
      'bridge_invalid_request',
      undefined,
    ],
    ['a binary message', Buffer.from('{"type":"response.create"}'), 'bridge_unknown_event', undefined],
  ])('A message with %s gets an error event, and the connection stays usable', async (_, message, code, param) => {
    using client = await connectSocket(face.url);
    client.ws.send(message);
    const error = await client.next();
    expect(error).toMatchObject({
      type: 'error',
      status: 400,
      error: { bridge_code: code, type: 'invalid_request_error' },
    });
    if (param) expect(error.error!.param).toBe(param);
    expect(error).not.toHaveProperty('stream_id');
    client.send(create('after it'));
    answer(await face.next(), 'r');
    expect((await client.next()).type).toBe('response.created');
    expect(face.taken).toHaveLength(1);
  });
});

describe('failures of a turn', () => {
  it.each([
    ['an SDK', {}, 'bridge_queue_full', { type: 'error', status: 429, error: { code: 'bridge_queue_full' } }],
    [
      'an SDK',
      {},
      'bridge_session_expired',
      { type: 'error', status: 400, error: { code: 'previous_response_not_found', param: 'previous_response_id' } },
    ],
    [
      'Codex',
      CODEX,
      'bridge_session_expired',
      { type: 'error', status: 400, error: { code: 'previous_response_not_found' } },
    ],
    ['Codex', CODEX, 'bridge_invalid_request', { type: 'error', status: 400 }],
  ] as const)('%s gets an error event: %j %s', async (_, headers, code, wanted) => {
    using client = await connectSocket(face.url, headers);
    client.send(create('one', { stream_id: 'a' }));
    (await face.next()).sink.fail(new BridgeError(code));
    expect(await client.next()).toMatchObject({ ...wanted, stream_id: 'a' });
  });

  it('Codex gets an error that it may repeat as response.failed, with the time to wait in the message', async () => {
    using client = await connectSocket(face.url, CODEX);
    client.send(create('one'));
    (await face.next()).sink.fail(new BridgeError('bridge_queue_full'));
    expect((await client.next()).type).toBe('response.created');
    const failed = await client.next();
    expect(failed).toMatchObject({ type: 'response.failed', response: { status: 'failed', model: 'm' } });
    expect(failed.response!.error).toMatchObject({ code: 'rate_limit_exceeded', bridge_code: 'bridge_queue_full' });
    expect(failed.response!.error!.message).toMatch(/try again in 2s/);
  });

  it('A failure after the first event is response.failed of the same response', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one'));
    const { sink } = await face.next();
    sink.event('response.created', created('r1'), false);
    sink.fail(new BridgeError('bridge_upstream_lost'));
    await client.next();
    expect(await client.next()).toMatchObject({ type: 'response.failed', sequence_number: 1, response: { id: 'r1' } });
  });

  it("The provider's refusal is relayed with its status, its error and its headers", async () => {
    using client = await connectSocket(face.url);
    client.send(create('one'));
    const error = { message: 'slow down', type: 'rate_limit_error', code: 'rate_limit_exceeded', param: null };
    const body = Buffer.from(JSON.stringify({ error }));
    (await face.next()).sink.relay({ status: 429, headers: { 'retry-after': '3', 'set-cookie': 'x' }, body } as never);
    const event = await client.next();
    expect(event).toMatchObject({ type: 'error', status: 429, error, headers: { 'retry-after': '3' } });
    expect(event.headers).not.toHaveProperty('set-cookie');
    client.send(create('two'));
    (await face.next()).sink.relay({ status: 502, headers: {}, body: Buffer.from('<html>') } as never);
    expect(await client.next()).toMatchObject({ type: 'error', status: 502, error: { code: 'server_error' } });
  });

  it('A turn that another connection reads on ends with an error, and the connection stays open', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one'));
    (await face.next()).sink.cut();
    expect(await client.next()).toMatchObject({ type: 'error', error: { bridge_code: 'bridge_turn_cancelled' } });
    client.send(create('two'));
    expect(inputOf(await face.next())).toBe('two');
  });

  it('A client that leaves is reported to each of its turns, and what waits is given up', async () => {
    const client = await connectSocket(face.url);
    client.send(create('one', { stream_id: 'a' }));
    client.send(create('two', { stream_id: 'b' }));
    client.send(create('three', { stream_id: 'b' }));
    const turns = [await face.next(), await face.next()];
    await settled(client);
    const left = turns.map(({ sink }) => new Promise<void>((gone) => sink.onGone(gone)));
    client.ws.terminate();
    await Promise.all(left);
    for (const { sink, lease } of turns) {
      expect(sink.attached).toBe(false);
      lease.end();
    }
    expect(face.taken).toHaveLength(2);
    expect(face.quota.inHand).toEqual({ waiting: 0, running: 0, bytes: 0 });
  });
});

describe('lanes', () => {
  it('Turns of one lane run in their order, those of different lanes at the same time, and events name the lane', async () => {
    using client = await connectSocket(face.url);
    for (const [input, stream_id] of [['a1', 'a'], ['a2', 'a'], ['b1', 'b'], ['d1'], ['d2']])
      client.send(create(input!, stream_id ? { stream_id } : {}));
    await settled(client);
    expect(face.taken.map(inputOf)).toEqual(['a1', 'b1', 'd1']);
    const turns = [await face.next(), await face.next(), await face.next()] as const;
    answer(turns[2], 'd');
    expect(inputOf(await face.next())).toBe('d2');
    answer(turns[0], 'a');
    expect(inputOf(await face.next())).toBe('a2');
    await settled(client);
    const shown = client.events
      .filter(({ response }) => response)
      .map(({ stream_id, response }) => [stream_id, response!.id]);
    expect(shown).toEqual([
      [undefined, 'd'],
      [undefined, 'd'],
      ['a', 'a'],
      ['a', 'a'],
    ]);
  });

  it('An event that already names a lane gets the name of its own lane', async () => {
    using client = await connectSocket(face.url);
    client.send(create('a', { stream_id: 'mine' }));
    const { sink } = await face.next();
    sink.event('x', '{"type":"x","stream_id":"other","text":"\\"stream_id\\""}', false);
    expect(await client.next()).toEqual({ type: 'x', stream_id: 'mine', text: '"stream_id"' });
  });

  it('An error waits for the turn before it in its lane', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one', { stream_id: 'a' }));
    client.send({ type: 'response.create', input: 7, stream_id: 'a' });
    const turn = await face.next();
    await settled(client);
    answer(turn, 'r');
    expect((await client.next()).type).toBe('response.created');
    expect((await client.next()).type).toBe('response.completed');
    expect(await client.next()).toMatchObject({ type: 'error', stream_id: 'a', error: { param: 'input' } });
  });

  it('At most 16 turns run at the same time', async () => {
    using client = await connectSocket(face.url);
    for (let n = 0; n < 18; n += 1) client.send(create(`${n}`, { stream_id: `lane-${n}` }));
    await settled(client);
    expect(face.taken).toHaveLength(16);
    answer(face.taken[3]!, 'r');
    await settled(client);
    expect(face.taken.map(inputOf).slice(16)).toEqual(['16']);
  });

  it('A connection has 32 named lanes and the default lane', async () => {
    using client = await connectSocket(face.url);
    for (let n = 0; n < 32; n += 1) {
      client.send(create('x', { stream_id: `lane-${n}` }));
      answer(await face.next(), 'r');
    }
    client.send(create('x', { stream_id: 'one-too-many' }));
    expect(await client.next(({ type }) => type === 'error')).toMatchObject({
      stream_id: 'one-too-many',
      error: { code: 'websocket_stream_limit_reached', param: 'stream_id' },
    });
    client.send(create('known', { stream_id: 'lane-7' }));
    client.send(create('default'));
    expect(inputOf(await face.next())).toBe('known');
    expect(inputOf(await face.next())).toBe('default');
  });

  it.each(['', 'a b', 'é', 'x'.repeat(257), 7, {}])('%j is no lane', async (stream_id) => {
    using client = await connectSocket(face.url);
    client.send(create('x', { stream_id }));
    const error = await client.next();
    expect(error).toMatchObject({ type: 'error', error: { code: 'invalid_stream_id', param: 'stream_id' } });
    expect(error).not.toHaveProperty('stream_id');
  });

  it('A thread of the upgrade is the conversation of the default lane only', async () => {
    using client = await connectSocket(face.url, { 'thread-id': 't' });
    client.send(create('a', { stream_id: 'a' }));
    client.send(create('b', { stream_id: 'b', client_metadata: { thread_id: 'own' } }));
    client.send(create('d'));
    expect((await face.next()).request.headers).not.toHaveProperty('thread-id');
    expect((await face.next()).request.headers['thread-id']).toBe('own');
    expect((await face.next()).request.headers['thread-id']).toBe('t');
  });

  it('Over HTTP there are no lanes', async () => {
    const refused = await fetch(`${face.url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'm', input: 'x', stream_id: 'a' }),
    });
    expect(refused.status).toBe(400);
    expect(await refused.json()).toMatchObject({ error: { code: 'invalid_stream_id', param: 'stream_id' } });
  });

  it('With many messages waiting the connection is not read, and goes on when lanes are free', async () => {
    using client = await connectSocket(face.url);
    for (let n = 0; n < 200; n += 1) client.send(create(`${n}`, { metadata: { a: 'x'.repeat(4_000) } }));
    for (let n = 0; n < 200; n += 1) {
      const turn = await face.next();
      expect(inputOf(turn)).toBe(`${n}`);
      expect(face.quota.inHand.waiting).toBeLessThan(150);
      turn.lease.end();
      answer(turn, 'r');
    }
    await client.next(({ type }) => type === 'response.completed');
  });
});

describe('the life of a connection', () => {
  const env = async (over: Record<string, string>) => {
    await face.close();
    face = await openFace(over);
  };

  it('A connection without turns is closed after the idle time, one with a turn is not', async () => {
    using idle = await connectSocket(face.url);
    using busy = await connectSocket(face.url);
    busy.send(create('one'));
    const turn = await face.next();
    face.clock.advance(1_800_000);
    expect((await idle.closed).code).toBe(1001);
    answer(turn, 'r');
    await busy.next(({ type }) => type === 'response.completed');
    face.clock.advance(1_800_000);
    expect((await busy.closed).code).toBe(1001);
  });

  it('A connection that has reached its age is closed when its turn has ended', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one'));
    const turn = await face.next();
    face.clock.advance(3_000_000);
    answer(turn, 'r');
    expect((await client.closed).code).toBe(1001);
    expect(client.events.map(({ type }) => type)).toEqual(['response.created', 'response.completed']);
  });

  it('A connection that is never idle accepts no turn after its age and the extension', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one', { stream_id: 'a' }));
    const turn = await face.next();
    face.clock.advance(3_000_000);
    face.clock.advance(600_000);
    client.send(create('two', { stream_id: 'b' }));
    const error = await client.next();
    expect(error).toMatchObject({ type: 'error', status: 400, error: { code: 'websocket_connection_limit_reached' } });
    expect(error).not.toHaveProperty('stream_id');
    answer(turn, 'r');
    expect((await client.closed).code).toBe(1001);
  });

  it('A worker that leaves closes idle connections within the given time, and others when their turns have ended', async () => {
    using idle = await connectSocket(face.url);
    using busy = await connectSocket(face.url);
    busy.send(create('one'));
    const turn = await face.next();
    face.sockets.leave(5_000);
    using late = await connectSocket(face.url);
    late.send(create('two'));
    const second = await face.next();
    face.clock.advance(5_000);
    expect((await idle.closed).code).toBe(1001);
    answer(turn, 'r');
    expect((await busy.closed).code).toBe(1001);
    answer(second, 'r');
    expect((await late.closed).code).toBe(1001);
    expect(late.events.at(-1)!.type).toBe('response.completed');
  });

  it('A worker that refuses new turns answers them with the error, and refuses upgrades', async () => {
    using client = await connectSocket(face.url);
    face.service.shutdown = { leaving: true, refusing: true };
    client.send(create('one'));
    expect(await client.next()).toMatchObject({
      type: 'error',
      status: 503,
      error: { bridge_code: 'bridge_draining' },
    });
    await expect(connectSocket(face.url)).rejects.toThrow(/refused 503.*bridge_draining/);
  });

  it('A client that takes nothing holds its turn back, and is disconnected after a while', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one'));
    const { sink } = await face.next();
    client.ws.pause();
    const gone = new Promise<void>((left) => sink.onGone(left));
    const large = delta('x'.repeat(1_000_000));
    for (let n = 0; n < 100 && sink.event('response.output_text.delta', large, false); n += 1)
      await new Promise((next) => setImmediate(next));
    expect(sink.event('response.output_text.delta', large, false)).toBe(false);
    face.clock.advance(60_000);
    await gone;
    expect(sink.attached).toBe(false);
  });

  it('A client that catches up is written to again', async () => {
    using client = await connectSocket(face.url);
    client.send(create('one'));
    const { sink } = await face.next();
    client.ws.pause();
    const large = delta('x'.repeat(1_000_000));
    let sent = 1;
    while (sink.event('response.output_text.delta', large, false)) sent += 1;
    const drained = new Promise<void>((again) => sink.onDrain(again));
    client.ws.resume();
    await drained;
    face.clock.advance(60_000);
    const delivered = new Promise<void>((done) => sink.onDelivered(done));
    sink.end('response.completed', completed('r'));
    await delivered;
    await client.next(({ type }) => type === 'response.completed');
    expect(client.events).toHaveLength(sent + 1);
  });

  it('A message above the limit ends the connection with an error', async () => {
    await env({ HOLDFAST_MAX_BODY_BYTES: '100000' });
    using client = await connectSocket(face.url);
    client.send(create('x'.repeat(100_001)));
    expect(await client.next()).toMatchObject({
      type: 'error',
      status: 413,
      error: { bridge_code: 'bridge_body_too_large' },
    });
    expect((await client.closed).code).toBe(1009);
  });

  it('Bytes of an unfinished message count, and a message that would exceed all bodies ends its connection', async () => {
    await env({ HOLDFAST_BODIES_BYTES: '1000000' });
    using client = await connectSocket(face.url);
    client.ws.send('{"type":"response.create","input":"', { fin: false });
    client.ws.send('x'.repeat(400_000), { fin: false });
    await expect.poll(() => face.quota.inHand.bytes).toBeGreaterThan(300_000);
    client.ws.send('x'.repeat(700_000), { fin: false });
    expect(await client.next()).toMatchObject({
      type: 'error',
      status: 429,
      error: { bridge_code: 'bridge_tenant_busy' },
    });
    expect((await client.closed).code).toBe(1013);
    await expect.poll(() => face.quota.inHand.bytes).toBe(0);
  });

  it('A message that does not arrive in time ends its connection', async () => {
    using client = await connectSocket(face.url);
    client.ws.send('{"type":"response.create","input":"', { fin: false });
    client.ws.send('x'.repeat(400_000), { fin: false });
    await expect.poll(() => face.quota.inHand.bytes).toBeGreaterThan(300_000);
    face.clock.advance(120_000);
    expect(await client.next()).toMatchObject({ type: 'error', status: 408 });
    expect((await client.closed).code).toBe(1013);
  });

  it('A message that is no UTF-8, and a frame against the protocol, end the connection', async () => {
    using one = await connectSocket(face.url);
    one.ws.send(Buffer.from([0xff, 0xfe]), { binary: false });
    expect((await one.closed).code).toBe(1007);
    using other = await connectSocket(face.url);
    (other.ws as unknown as { _socket: NodeJS.WritableStream })._socket.write(Buffer.from([0xff, 0xff, 0xff]));
    expect((await other.closed).code).toBe(1002);
  });

  it('A connection counts for its network only while no turn runs on it', async () => {
    await env({ HOLDFAST_PEER_CONNECTIONS: '2' });
    using busy = await connectSocket(face.url);
    busy.send(create('one'));
    const turn = await face.next();
    const idle = [await connectSocket(face.url), await connectSocket(face.url)];
    using _last = await connectSocket(face.url);
    expect((await idle[0]!.closed).code).toBe(1006);
    answer(turn, 'r');
    await busy.next(({ type }) => type === 'response.completed');
    for (const each of idle) each.ws.terminate();
  });
});

describe('access', () => {
  it('An upgrade without a valid key is refused before the connection exists', async () => {
    await face.close();
    face = await openFace({ HOLDFAST_UPSTREAM_KEY: 'up', HOLDFAST_API_KEYS: 'a:key-a,b:key-b' });
    await expect(connectSocket(face.url)).rejects.toThrow(/refused 401.*bridge_unauthorized/);
    using client = await connectSocket(face.url, { authorization: 'Bearer key-b' });
    client.send(create('one'));
    const { request } = await face.next();
    expect(request.caller).toMatchObject({ scope: 'tenant:b', upstreamAuthorization: 'Bearer up' });
  });

  it('A turn beyond the requests per minute gets the error, and the connection stays open', async () => {
    await face.close();
    face = await openFace({ HOLDFAST_TENANT_REQUESTS_PER_MINUTE: '1' });
    using client = await connectSocket(face.url);
    client.send({ type: 'response.processed' });
    client.send(create('one'));
    answer(await face.next(), 'r');
    client.send(create('two'));
    expect(await client.next(({ type }) => type === 'error')).toMatchObject({
      status: 429,
      error: { code: 'rate_limit_exceeded' },
      headers: { 'retry-after': '60' },
    });
    face.clock.advance(60_000);
    client.send(create('three'));
    expect(inputOf(await face.next())).toBe('three');
  });

  it('An upgrade that is none is refused with an error envelope', async () => {
    const url = new URL(face.url);
    const { connect } = await import('node:net');
    const socket = connect(Number(url.port), '127.0.0.1');
    socket.write(
      'GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 99\r\n\r\n',
    );
    const [first] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    expect(first.toString()).toMatch(/^HTTP\/1\.1 400 [\s\S]*bridge_malformed_request/);
  });
});
