import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { connect, type Frame, hangUp, type RawClient, user } from './client.ts';

const NOT_FOUND = 'previous_response_not_found';

describe('the simulated WebSocket', () => {
  let sim: Simulator;
  let client: RawClient;

  beforeEach(async () => {
    sim = await startSimulator({ seed: 11, telemetry: false });
    client = await connect(sim.url);
  });
  afterEach(async () => {
    await hangUp(client);
    await sim.close();
  });

  const idOf = (frame: Frame): string => frame.response.id;

  it('The simulated WebSocket sends the whole event sequence, numbered without gaps', async () => {
    const { frames, types, last } = await client.turn({ input: 'hi', store: false, metadata: { a: 'b' } });
    expect(types).toEqual([
      'response.created',
      'response.in_progress',
      'response.output_item.added',
      'response.content_part.added',
      'response.output_text.delta',
      'response.output_text.done',
      'response.content_part.done',
      'response.output_item.done',
      'response.completed',
    ]);
    expect(frames.map((frame) => frame.sequence_number)).toEqual(frames.map((_, index) => index));
    expect(last.response).toMatchObject({
      object: 'response',
      status: 'completed',
      model: 'gpt-sim',
      store: false,
      metadata: { a: 'b' },
      previous_response_id: null,
    });
    const { usage } = last.response;
    expect(usage.total_tokens).toBe(usage.input_tokens + usage.output_tokens);
    const text = frames.filter(({ type }) => type.endsWith('text.delta')).map(({ delta }) => delta);
    expect(text.join('')).toBe(last.response.output[0].content[0].text);
  });

  it('A delta and a full request for the same history have the same digest', async () => {
    const first = await client.turn({ input: 'one', store: false, instructions: 'A' });
    const second = await client.turn({
      input: [user('two')],
      store: false,
      instructions: 'B',
      previous_response_id: idOf(first.last),
    });
    const items = ['one', first.last.response, 'two'];
    expect(digestOf(second.last.response)).toBe(expectedDigest({ items, instructions: 'B' }));
    expect(second.last.response.usage.input_tokens_details.cached_tokens).toBeGreaterThan(0);

    const other = await connect(sim.url);
    const input = [user('one'), ...first.last.response.output, user('two')];
    const full = await other.turn({ input, store: false, instructions: 'B' });
    expect(digestOf(full.last.response)).toBe(digestOf(second.last.response));
    // Tokens and cached prompts depend on what the model reads, not on how it was sent.
    expect(full.last.response.usage).toEqual(second.last.response.usage);
    await hangUp(other);
  });

  it('An unstored response is continued only on its own connection, and only the latest', async () => {
    const first = idOf((await client.turn({ input: 'one', store: false })).last);
    const other = await connect(sim.url);
    const foreign = await other.turn({ input: 'two', store: false, previous_response_id: first });
    expect(foreign.last).toEqual({
      type: 'error',
      status: 400,
      error: {
        type: 'invalid_request_error',
        code: NOT_FOUND,
        message: `Previous response with id '${first}' not found.`,
        param: 'previous_response_id',
      },
    });
    const second = await client.turn({ input: 'two', store: false, previous_response_id: first });
    expect(second.last.type).toBe('response.completed');
    const older = await client.turn({ input: 'fork', store: false, previous_response_id: first });
    expect(older.last.error.code).toBe(NOT_FOUND);
    await hangUp(other);
  });

  it('A stored response is continued on any connection, but under no other credential', async () => {
    const first = await client.turn({ input: 'one' });
    const again = { input: 'two', previous_response_id: idOf(first.last) };
    const other = await connect(sim.url);
    const continued = await other.turn(again);
    expect(digestOf(continued.last.response)).toBe(expectedDigest({ items: ['one', first.last.response, 'two'] }));
    const stranger = await connect(sim.url, { authorization: 'Bearer two' });
    expect((await stranger.turn(again)).last.error.code).toBe(NOT_FOUND);
    await Promise.all([hangUp(other), hangUp(stranger)]);
  });

  it('The response that a failed turn referred to is evicted', async () => {
    const first = idOf((await client.turn({ input: 'one', store: false })).last);
    sim.script.onTurn({ anchored: true }, { kind: 'error', error: { status: 400, message: 'Bad value.' } });
    const failed = await client.turn({ input: 'two', store: false, previous_response_id: first });
    expect(failed.last.error.message).toBe('Bad value.');
    const retried = await client.turn({ input: 'two', store: false, previous_response_id: first });
    expect(retried.last.error.code).toBe(NOT_FOUND);
  });

  it('A warm-up is answered without output, and can be continued', async () => {
    const warm = await client.turn({ input: [user('system')], store: false, generate: false });
    expect(warm.last.response.output).toEqual([]);
    expect(warm.types).toEqual(['response.created', 'response.in_progress', 'response.completed']);
    const next = await client.turn({ input: 'hi', store: false, previous_response_id: idOf(warm.last) });
    expect(digestOf(next.last.response)).toBe(expectedDigest({ items: [user('system'), 'hi'] }));
  });

  it('The creates of a lane run one after the other, and lanes run in parallel', async () => {
    const held = sim.script.onTurn({ input: 'slow' }, { kind: 'hold', at: 'after_created' });
    client.send({ input: 'slow', store: false });
    client.send({ input: 'queued', store: false });
    client.send({ input: 'beside', store: false, stream_id: 'b' });
    const frames: Frame[] = [await client.next()];
    while (frames.at(-1)?.type !== 'response.completed') frames.push(await client.next());
    expect(frames[0]).toMatchObject({ type: 'response.created' });
    expect(frames[0]).not.toHaveProperty('stream_id');
    expect(frames.slice(1).every(({ stream_id }) => stream_id === 'b')).toBe(true);
    held.release();
    const slow = await client.read();
    const queued = await client.read();
    expect(digestOf(slow.last.response)).toBe(expectedDigest({ items: 'slow' }));
    expect(digestOf(queued.last.response)).toBe(expectedDigest({ items: 'queued' }));
    expect(sim.journal.of('create').map(({ queuedBehind }) => queuedBehind)).toEqual([0, 1, 0]);
  });

  it('A lane can fork from the latest response of another', async () => {
    const first = await client.turn({ input: 'one', store: false });
    const fork = { input: 'two', store: false, previous_response_id: idOf(first.last) };
    const lane = await client.turn({ ...fork, stream_id: 'x' });
    const main = await client.turn(fork);
    expect(digestOf(lane.last.response)).toBe(digestOf(main.last.response));
  });

  it('32 named lanes are allowed', async () => {
    for (let n = 0; n < 32; n++) await client.turn({ input: 'x', store: false, stream_id: `lane-${n}` });
    expect((await client.turn({ input: 'x', stream_id: 'one-more' })).last.error.code).toBe(
      'websocket_stream_limit_reached',
    );
  });

  it('A frame that is no create is refused, and the connection stays', async () => {
    client.ws.send('no json');
    expect((await client.next()).error.type).toBe('invalid_request_error');
    client.ws.send(JSON.stringify({ type: 'response.append', input: [] }));
    expect((await client.next()).error.message).toContain('response.append');
    client.ws.send(JSON.stringify({ type: 'response.steer', previous_response_id: 'resp_1', input: 'x' }));
    expect(await client.next()).toMatchObject({ type: 'response.steer.failed' });
    expect((await client.turn({ input: 'x', background: true })).last.status).toBe(400);
    expect((await client.turn({ input: 'x' })).last.type).toBe('response.completed');
    expect(sim.journal.of('frame')).toHaveLength(3);
  });

  it('A connection ends at its age limit and loses its anchors', async () => {
    const first = await client.turn({ input: 'one', store: false });
    expect(sim.connections[0]!.cachedResponseIds).toEqual([idOf(first.last)]);
    sim.connections[0]!.expire();
    const limit = await client.next();
    expect(limit).toMatchObject({ type: 'error', status: 400, error: { code: 'websocket_connection_limit_reached' } });
    expect((await client.closed).code).toBe(1000);
    await sim.journal.waitFor('closed');
    expect(sim.connections[0]!.cachedResponseIds).toEqual([]);
  });

  it('The age limit also applies without further requests', async () => {
    const short = await startSimulator({ connectionLimitMs: 1 });
    const other = await connect(short.url);
    expect((await other.next()).error.code).toBe('websocket_connection_limit_reached');
    await other.closed;
    await short.close();
  });

  it('A connection can be made to lose its anchors and stay open', async () => {
    const first = idOf((await client.turn({ input: 'one', store: false })).last);
    sim.expireCaches();
    const lost = await client.turn({ input: 'two', store: false, previous_response_id: first });
    expect(lost.last.error.code).toBe(NOT_FOUND);
    const stored = idOf((await client.turn({ input: 'one' })).last);
    sim.expireCaches();
    sim.forgetStored(stored);
    expect((await client.turn({ input: 'two', previous_response_id: stored })).last.error.code).toBe(NOT_FOUND);
  });

  it('A connection whose frame is too large is closed', async () => {
    const small = await startSimulator({ maxFrameBytes: 1_000 });
    const other = await connect(small.url);
    other.send({ input: 'x'.repeat(2_000) });
    expect((await other.closed).code).toBe(1009);
    await small.close();
  });
});

describe('the handshake', () => {
  it('The handshake needs a credential, and a known one', async () => {
    const sim = await startSimulator({ credentials: ['Bearer good'] });
    await expect(connect(sim.url, {})).rejects.toThrow('refused 401');
    await expect(connect(sim.url, { authorization: 'Bearer bad' })).rejects.toThrow('refused 401');
    const client = await connect(sim.url, { authorization: 'Bearer good', 'openai-beta': 'responses_websockets=1' });
    const { headers } = await sim.journal.waitFor('opened');
    expect(headers).toMatchObject({ authorization: 'Bearer good', 'openai-beta': 'responses_websockets=1' });
    expect(sim.journal.of('upgrade').map(({ outcome }) => outcome)).toEqual([401, 401, 'accepted']);
    await hangUp(client);
    await sim.close();
  });

  it('The handshake is refused when the simulator has no WebSocket', async () => {
    const sim = await startSimulator({ webSocket: 426 });
    await expect(connect(sim.url)).rejects.toThrow('refused 426');
    await expect(connect(`${sim.url}/nowhere`)).rejects.toThrow('refused 404');
    await sim.close();
  });

  it('The handshake and the metadata issue turn state, and what comes back is recorded', async () => {
    const sim = await startSimulator({ turnState: 'both', telemetry: false });
    const client = await connect(sim.url);
    expect(client.headers['x-codex-turn-state']).toBe('ts-h1');
    const { frames } = await client.turn({ input: 'x', client_metadata: { 'x-codex-turn-state': 'mine' } });
    expect(frames[1]).toMatchObject({
      type: 'response.metadata',
      response_id: frames[0]!.response.id,
      headers: { 'x-codex-turn-state': 'ts-1' },
    });
    expect(sim.journal.of('create')[0]!.turnState).toBe('mine');
    await hangUp(client);
    await sim.close();
  });
});
