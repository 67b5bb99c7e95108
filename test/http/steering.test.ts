import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connectSocket, type SocketClient } from '../support/websocket.ts';
import { type Face, openFace } from './face.ts';

let face: Face;
beforeEach(async () => {
  face = await openFace();
});
afterEach(() => face.close());

type Taken = Awaited<ReturnType<Face['next']>>;
const created = (id: string) => JSON.stringify({ type: 'response.created', response: { id, status: 'in_progress' } });
const item = (item: object) => JSON.stringify({ type: 'response.output_item.done', output_index: 0, item });
const ended = (id: string, output: object[] = [], type = 'completed') =>
  JSON.stringify({ type: `response.${type}`, response: { id, status: type, output } });
const call = { type: 'function_call', id: 'fc_1', call_id: 'call_1', name: 'look', arguments: '{}' };
const steer = (id: string, input: unknown = 'Rather this.') => ({
  type: 'response.steer',
  previous_response_id: id,
  input,
});
const body = ({ request }: Taken) => JSON.parse(String(request.text)) as Record<string, unknown>;
const message = (text: string) => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });

/** Starts a turn whose response has begun. */
async function running(client: SocketClient, id: string, more: object = {}): Promise<Taken> {
  client.send({ type: 'response.create', model: 'm', input: 'one', temperature: 0.5, ...more });
  const turn = await face.next();
  turn.sink.event('response.created', created(id), false);
  await client.next(({ type }) => type === 'response.created');
  return turn;
}

describe('input for a response that runs', () => {
  it('is accepted, and continues the response when it has ended, with the settings of its request', async () => {
    using client = await connectSocket(face.url);
    const first = await running(client, 'r1', { stream_id: 'a' });
    client.send(steer('r1'));
    const accepted = await client.next();
    expect(accepted).toMatchObject({
      type: 'response.steer.accepted',
      stream_id: 'a',
      steer: { previous_response_id: 'r1' },
    });
    client.send(steer('r1', [{ role: 'user', content: 'And 9223372036854775807.' }]));
    expect(await client.next()).toMatchObject({ type: 'response.steer.accepted' });
    // A request of the client that waits for the lane comes after it.
    client.send({ type: 'response.create', model: 'm', input: 'later', stream_id: 'a' });
    first.sink.end('response.completed', ended('r1'));
    expect(await client.next()).toMatchObject({ type: 'response.completed' });
    const second = await face.next();
    expect(body(second)).toEqual({
      ...{ model: 'm', temperature: 0.5, stream: true, previous_response_id: 'r1' },
      input: [message('Rather this.'), { role: 'user', content: 'And 9223372036854775807.' }],
    });
    second.sink.event('response.created', created('r2'), false);
    expect(await client.next()).toMatchObject({ type: 'response.created', stream_id: 'a', response: { id: 'r2' } });
    // The response that follows can be steered too.
    client.send(steer('r2'));
    expect(await client.next()).toMatchObject({ type: 'response.steer.accepted' });
    second.sink.end('response.completed', ended('r2'));
    const third = await face.next();
    expect(body(third)).toMatchObject({ previous_response_id: 'r2', input: [message('Rather this.')] });
    third.sink.event('response.created', created('r3'), false);
    third.sink.end('response.completed', ended('r3'));
    expect(body(await face.next())).toMatchObject({ input: 'later' });
  });

  it('waits for results of tools, and goes before them into the request that brings them', async () => {
    using client = await connectSocket(face.url);
    const first = await running(client, 'r1');
    client.send(steer('r1'));
    const { steer: mine } = (await client.next()) as unknown as { steer: { id: string } };
    first.sink.event('response.output_item.done', item(call), false);
    first.sink.end('response.completed', ended('r1', []));
    expect(await client.next(({ type }) => type === 'response.steer.pending')).toMatchObject({
      type: 'response.steer.pending',
      reason: 'waiting_for_required_input',
      required_input: [{ type: 'function_call_output', call_id: 'call_1' }],
      steer: { id: mine.id, previous_response_id: 'r1' },
    });
    const result = { type: 'function_call_output', call_id: 'call_1', output: 'seen' };
    client.send({ type: 'response.create', model: 'n', previous_response_id: 'r1', input: [result] });
    const second = await face.next();
    expect(body(second)).toMatchObject({ model: 'n', input: [message('Rather this.'), result] });
    second.sink.event('response.created', created('r2'), false);
    second.sink.end('response.completed', ended('r2'));
    await client.next(({ type }) => type === 'response.completed');
    for (const { lease } of face.taken) lease.end();
    expect(face.quota.inHand).toEqual({ waiting: 0, running: 0, bytes: 0 });
  });

  it.each([
    ['fails', 'response.failed'],
    ['is incomplete', 'response.incomplete'],
  ] as const)('is given back when the response %s', async (_how, type) => {
    using client = await connectSocket(face.url);
    const first = await running(client, 'r1');
    client.send(steer('r1', [{ role: 'user', content: 'more' }]));
    await client.next(({ type }) => type === 'response.steer.accepted');
    first.sink.end(type, ended('r1', [], type.slice('response.'.length)));
    await client.next((event) => event.type === type);
    expect(await client.next()).toMatchObject({
      type: 'response.steer.failed',
      error: { code: 'successor_creation_failed' },
      steer: { previous_response_id: 'r1', input: [{ role: 'user', content: 'more' }] },
    });
  });

  it('is given back instead of an error when the response that takes it is refused', async () => {
    using client = await connectSocket(face.url);
    const first = await running(client, 'r1');
    client.send(steer('r1'));
    await client.next(({ type }) => type === 'response.steer.accepted');
    first.sink.end('response.completed', ended('r1'));
    await client.next(({ type }) => type === 'response.completed');
    const second = await face.next();
    second.sink.relay({
      status: 429,
      headers: {},
      body: Buffer.from('{"error":{"message":"no","type":"t","code":"c"}}'),
    });
    second.lease.end();
    expect(await client.next()).toMatchObject({ type: 'response.steer.failed', steer: { input: 'Rather this.' } });
    // The next turn is that of the client, and its error is its own.
    client.send({ type: 'response.create', model: 'm', input: 'x', previous_response_id: 'r1' });
    const third = await face.next();
    expect(body(third)).toMatchObject({ input: 'x' });
    third.lease.end();
    first.lease.end();
    expect(face.quota.inHand).toEqual({ waiting: 0, running: 0, bytes: 0 });
  });

  it('is given back before the connection is closed', async () => {
    using client = await connectSocket(face.url);
    const first = await running(client, 'r1');
    client.send(steer('r1'));
    first.sink.event('response.output_item.done', item(call), false);
    await client.next(({ type }) => type === 'response.steer.accepted');
    first.sink.end('response.completed', ended('r1'));
    await client.next(({ type }) => type === 'response.steer.pending');
    face.sockets.leave(0);
    const failed = await client.next(({ type }) => type === 'response.steer.failed');
    expect(failed).toMatchObject({ error: { code: 'successor_creation_failed' }, steer: { input: 'Rather this.' } });
    expect((await client.closed).code).toBe(1001);
  });

  it.each([
    ['names no response of this connection', steer('r9'), 'response_not_found'],
    ['names a response that has ended', steer('r0'), 'response_already_completed'],
    ['has another member', { ...steer('r1'), stream_id: 'a' }, 'invalid_input'],
    ['is empty', steer('r1', []), 'invalid_input'],
    ['is no message of the user', steer('r1', [{ role: 'developer', content: 'x' }]), 'invalid_input'],
    ['has a message with an id', steer('r1', [{ id: 'msg_1', role: 'user', content: 'x' }]), 'invalid_input'],
    [
      'is the output of a tool',
      steer('r1', [{ type: 'function_call_output', call_id: 'c', output: 'x' }]),
      'invalid_input',
    ],
    [
      'has other content',
      steer('r1', [{ role: 'user', content: [{ type: 'output_text', text: 'x' }] }]),
      'invalid_input',
    ],
  ])('is refused when it %s', async (_why, event, code) => {
    using client = await connectSocket(face.url);
    const before = await running(client, 'r0');
    before.sink.end('response.completed', ended('r0'));
    await client.next(({ type }) => type === 'response.completed');
    await running(client, 'r1');
    client.send(event);
    const failed = await client.next();
    expect(failed).toMatchObject({ type: 'response.steer.failed', error: { code }, steer: { input: event.input } });
    expect(failed.steer).not.toHaveProperty('id');
  });

  it('is refused for a response that its id alone does not continue, and beyond sixteen', async () => {
    using client = await connectSocket(face.url);
    const first = await running(client, 'r1', {
      context_management: [{ type: 'compaction', compact_threshold: 1_000 }],
    });
    client.send(steer('r1'));
    expect(await client.next()).toMatchObject({ error: { code: 'steering_not_supported' } });
    first.sink.end('response.completed', ended('r1'));
    await client.next(({ type }) => type === 'response.completed');
    await running(client, 'r2');
    for (let n = 0; n < 17; n += 1) client.send(steer('r2', `input ${n}`));
    for (let n = 0; n < 16; n += 1) expect(await client.next()).toMatchObject({ type: 'response.steer.accepted' });
    expect(await client.next()).toMatchObject({ error: { code: 'too_many_pending_steers' } });
    client.close();
    await client.closed;
  });
});
