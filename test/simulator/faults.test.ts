import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  digestOf,
  type ErrorShape,
  expectedDigest,
  type Point,
  type Simulator,
  startSimulator,
  type TurnFault,
} from '../../src/testing/index.ts';
import { connect, type Frame, folded, hangUp, type RawClient } from './client.ts';

describe('faults of a turn', () => {
  let sim: Simulator;
  let client: RawClient;

  beforeEach(async () => {
    sim = await startSimulator({ seed: 3, telemetry: false });
    client = await connect(sim.url);
  });
  afterEach(async () => {
    await hangUp(client);
    await sim.close();
  });

  /** Returns the frames until the connection has closed. */
  async function untilClosed(body: Frame): Promise<Frame[]> {
    client.send(body);
    const frames: Frame[] = [];
    for (;;) {
      const frame = await client.next().catch(() => null);
      if (!frame) return frames;
      frames.push(frame);
    }
  }
  const fault = (...faults: TurnFault[]) => sim.script.onTurn({}, faults);

  it.each<[string, Point, string | undefined, number]>([
    ['before created', 'before_created', undefined, 0],
    ['after created', 'after_created', 'response.created', 1],
    ['after the item began', 'after_item_added', 'response.output_item.added', 1],
    ['after two deltas', { deltas: 2 }, 'response.output_text.delta', 2],
    ['after the item was done', 'after_item_done', 'response.output_item.done', 1],
    ['before the terminal event', 'before_terminal', 'response.output_item.done', 1],
    ['after the terminal event', 'after_terminal', 'response.completed', 1],
    ['after two events', { events: 2 }, 'response.in_progress', 1],
  ])('A close fault closes the connection %s', async (_where, at, lastType, count) => {
    fault({ kind: 'close', at, code: 1012, reason: 'restart' });
    const frames = await untilClosed({ input: 'x' });
    expect(frames.at(-1)?.type).toBe(lastType);
    expect(frames.filter(({ type }) => type === lastType)).toHaveLength(count);
    expect(await client.closed).toEqual({ code: 1012, reason: 'restart' });
    const { end } = await sim.journal.waitFor('end');
    expect(end).toBe(at === 'after_terminal' ? 'completed' : 'closed');
  });

  it('A reset fault resets TCP without a close frame', async () => {
    fault({ kind: 'reset', at: { deltas: 1 } });
    await untilClosed({ input: 'x' });
    expect((await client.closed).code).toBe(1006);
    expect((await sim.journal.waitFor('end')).end).toBe('reset');
  });

  it('A turn that is cut before its terminal event is not stored', async () => {
    fault({ kind: 'close', at: 'before_terminal' });
    const frames = await untilClosed({ input: 'x' });
    const other = await connect(sim.url);
    const next = await other.turn({ input: 'y', previous_response_id: frames[0]!.response.id });
    expect(next.last.error.code).toBe('previous_response_not_found');
    await hangUp(other);
  });

  it('A silence fault sends telemetry and then nothing, until the client disconnects', async () => {
    const rule = fault({ kind: 'silence', at: 'before_created', telemetry: 2 });
    client.send({ input: 'x' });
    expect(await client.next()).toMatchObject({ type: 'codex.rate_limits' });
    expect(await client.next()).toMatchObject({ type: 'codex.rate_limits' });
    expect((await sim.journal.waitFor('held')).rule).toBe(rule.id);
    await hangUp(client);
    expect((await sim.journal.waitFor('end')).end).toBe('abandoned');
  });

  it('A hold fault holds a turn until it is released, or until the next create', async () => {
    const rule = fault({ kind: 'hold', at: { deltas: 1 } });
    client.send({ input: 'x' });
    await sim.journal.waitFor('held');
    rule.release();
    expect((await client.read()).last.type).toBe('response.completed');

    fault({ kind: 'hold', at: 'after_created', until: 'next_create' });
    client.send({ input: 'first' });
    await sim.journal.count('held', 2);
    client.send({ input: 'second' });
    expect(digestOf((await client.read()).last.response)).toBe(expectedDigest({ items: 'first' }));
    expect(digestOf((await client.read()).last.response)).toBe(expectedDigest({ items: 'second' }));
  });

  it('A late_frames fault sends frames of an abandoned turn during the next turn', async () => {
    fault({ kind: 'late_frames', at: { deltas: 1 } });
    client.send({ input: 'first' });
    await sim.journal.waitFor('held');
    client.send({ input: 'second' });
    const ids: string[] = [];
    const terminals: string[] = [];
    while (terminals.length < 2) {
      const frame = await client.next();
      if (frame.type === 'response.created') ids.push(frame.response.id);
      if (frame.type === 'response.completed') terminals.push(frame.response.id);
    }
    expect(terminals).toEqual(ids);
  });

  it.each<[ErrorShape, Frame]>([
    ['nested', { type: 'error', status: 500, error: { type: 'server_error', code: 'boom', message: 'It broke.' } }],
    ['top_level', { type: 'error', code: 'boom', message: 'It broke.', param: null }],
    ['code_in_type', { type: 'error', status: 500, error: { type: 'boom', message: 'It broke.' } }],
    ['terse', { type: 'error', error: { message: 'It broke.' } }],
    ['bare', { status: 500, error: { code: 'boom' } }],
    ['multi_line', { type: 'error', error: { code: 'boom', message: 'It\nbroke.' } }],
  ])('An error fault has the shape %s', async (shape, expected) => {
    fault({ kind: 'error', shape, error: { status: 500, code: 'boom', message: 'It broke.' } });
    client.send({ input: 'x' });
    const frame = await client.next();
    expect(frame).toMatchObject(expected);
    expect(Object.keys(frame).includes('type')).toBe('type' in expected);
    expect((await client.turn({ input: 'x' })).last.type).toBe('response.completed');
  });

  it('An error fault after created has a retry hint and closes the connection', async () => {
    const error = {
      status: 429,
      type: 'rate_limit_error',
      code: 'rate_limit_exceeded',
      message: 'Slow',
      retryAfter: 2,
    };
    fault({ kind: 'error', at: 'after_created', error, thenClose: 1008 });
    const frames = await untilClosed({ input: 'x' });
    expect(folded(frames)).toEqual(['response.created', 'error']);
    expect(frames[1]).toMatchObject({ status: 429, headers: { 'retry-after': '2' } });
    expect((await client.closed).code).toBe(1008);
  });

  it('A refuse_anchor fault refuses a known anchor in the given shape, and does not affect unanchored turns', async () => {
    sim.script.onTurn({}, { kind: 'refuse_anchor', shape: 'terse' }, { times: 2 });
    const first = await client.turn({ input: 'x' });
    expect(first.last.type).toBe('response.completed');
    const anchored = { input: 'y', previous_response_id: first.last.response.id };
    expect((await client.turn(anchored)).last).toEqual({
      type: 'error',
      error: { message: 'Invalid `previous_response_id`.' },
    });
    fault({ kind: 'refuse_anchor', as: 'failed' });
    expect((await client.turn(anchored)).last.response.error.code).toBe('previous_response_not_found');
  });

  it('Failed and incomplete turns occur on demand, and only the incomplete one can be continued', async () => {
    fault({ kind: 'failed', code: 'server_error' });
    const failed = await client.turn({ input: 'x', store: false });
    expect(failed.types).toEqual(['response.created', 'response.failed']);
    expect(failed.last.response).toMatchObject({ status: 'failed', error: { code: 'server_error' } });
    fault({ kind: 'incomplete' });
    const incomplete = (await client.turn({ input: 'x', store: false })).last.response;
    expect(incomplete).toMatchObject({ incomplete_details: { reason: 'max_output_tokens' } });
    const continued = (id: string) => client.turn({ input: 'y', store: false, previous_response_id: id });
    expect((await continued(failed.last.response.id)).last.type).toBe('error');
    const { last } = await continued(incomplete.id);
    expect(digestOf(last.response)).toBe(expectedDigest({ items: ['x', incomplete, 'y'] }));
  });

  it('A steered fault sends a successor without a create, which continues the first response', async () => {
    fault({ kind: 'steered', input: 'Turn left.' });
    const steered = (await client.turn({ input: 'x' })).last.response;
    expect(steered.incomplete_details.reason).toBe('steered');
    const { frames, last } = await client.read();
    expect(frames[0]).toMatchObject({ type: 'response.created', sequence_number: 0 });
    expect(last.response.previous_response_id).toBe(steered.id);
    expect(digestOf(last.response)).toBe(expectedDigest({ items: ['x', steered, 'Turn left.'] }));
    expect(sim.journal.of('create')).toHaveLength(1);
    expect((await sim.journal.waitFor('end')).end).toBe('completed');
  });

  it('A repeated terminal event has its original sequence number', async () => {
    fault({ kind: 'duplicate_terminal' });
    const { last } = await client.turn({ input: 'x' });
    expect(await client.next()).toEqual(last);
  });

  it('A terminal event can be repeated within the next turn', async () => {
    fault({ kind: 'duplicate_terminal', until: 'next_create' });
    const first = await client.turn({ input: 'x' });
    client.send({ input: 'y' });
    expect((await client.next()).type).toBe('response.created');
    expect(await client.next()).toEqual(first.last);
    expect((await client.read()).last.response.id).not.toBe(first.last.response.id);
  });

  it('Telemetry, unknown events and frames that are no JSON can be inserted into a turn', async () => {
    fault(
      { kind: 'unknown_events', count: 1 },
      { kind: 'malformed', at: { deltas: 1 } },
      { kind: 'telemetry', count: 2, everyMs: 1 },
      { kind: 'drip', everyMs: 1 },
    );
    const { frames, types } = await client.turn({ input: 'x' });
    expect(types.slice(0, 3)).toEqual(['codex.rate_limits', 'response.created', 'response.future_feature.delta']);
    expect(types).toContain('malformed');
    const numbers = frames.map(({ sequence_number }) => sequence_number).filter((number) => number !== undefined);
    expect(numbers).toEqual(numbers.map((_, index) => index));
    expect(types.at(-1)).toBe('response.completed');
  });

  it('A huge fault sends one huge delta', async () => {
    fault({ kind: 'huge', bytes: 200_000 });
    const { frames } = await client.turn({ input: 'x' });
    const deltas = frames.filter(({ type }) => type === 'response.output_text.delta');
    expect(deltas).toHaveLength(1);
    expect(deltas[0]!.delta.length).toBeGreaterThan(200_000);
  });

  it('A terminal event can name another response, and an id can be given twice', async () => {
    fault({ kind: 'wrong_response_id', id: 'resp_other' });
    const { frames, last } = await client.turn({ input: 'x' });
    expect(last.response.id).toBe('resp_other');
    expect(frames[0]!.response.id).not.toBe('resp_other');
    const next = await client.turn({ input: 'x' });
    fault({ kind: 'reuse_response_id' });
    expect((await client.turn({ input: 'y' })).last.response.id).toBe(next.last.response.id);
  });

  it('A frames fault sends exactly the given frames, and a reply fault the given answer', async () => {
    fault({
      kind: 'frames',
      frames: [{ type: 'response.created', response: { id: 'r' } }, 'not json', { type: 'error' }],
    });
    expect((await client.turn({ input: 'x' })).types).toEqual(['response.created', 'malformed', 'error']);
    fault({ kind: 'reply', output: [{ type: 'web_search_call', status: 'completed' }] });
    expect((await client.turn({ input: 'x' })).last.response.output).toMatchObject([{ type: 'web_search_call' }]);
    fault({ kind: 'reply', output: 'As scripted.' });
    const { response } = (await client.turn({ input: 'x' })).last;
    expect(digestOf(response)).toBe(expectedDigest({ items: 'x' }));
    expect(response.output[0].content[0].text).toMatch(/^As scripted\./);
  });

  it('Every connection can be dropped at once', async () => {
    const other = await connect(sim.url);
    sim.dropAll();
    expect((await client.closed).code).toBe(1006);
    expect((await other.closed).code).toBe(1006);
    const third = await connect(sim.url);
    sim.dropAll(1001);
    expect((await third.closed).code).toBe(1001);
  });
});

describe('faults of a connection', () => {
  it('Each upgrade fault has its own effect', async () => {
    const sim = await startSimulator();
    const body = { error: { message: 'later', type: 'rate_limit_error', code: 'rate_limit_exceeded', param: null } };
    sim.script.onUpgrade({}, { kind: 'refuse', status: 429, headers: { 'retry-after': '2' }, body });
    await expect(connect(sim.url)).rejects.toThrow('refused 429');
    sim.script.onUpgrade({}, { kind: 'reset' });
    await expect(connect(sim.url)).rejects.toThrow();
    sim.script.onConnect({}, { kind: 'reset' });
    await expect(connect(sim.url)).rejects.toThrow();
    sim.script.onUpgrade({}, { kind: 'accept_then_close', code: 1013 });
    expect((await (await connect(sim.url)).closed).code).toBe(1013);
    sim.script.onUpgrade({}, { kind: 'accept_then_reset' });
    await connect(sim.url).then(
      async (client) => expect((await client.closed).code).toBe(1006),
      (error) => expect(String(error)).toMatch(/ECONNRESET|hang up/),
    );
    sim.script.onUpgrade({}, { kind: 'headers', headers: { 'x-models-etag': 'e1' } });
    const client = await connect(sim.url);
    expect(client.headers['x-models-etag']).toBe('e1');
    expect(sim.journal.of('upgrade').map(({ outcome }) => outcome)).toEqual([
      429,
      'reset',
      'accepted',
      'accepted',
      'accepted',
    ]);
    await hangUp(client);
    await sim.close();
  });

  it('A held upgrade waits until it is released', async () => {
    const sim = await startSimulator();
    const rule = sim.script.onUpgrade({}, { kind: 'hold' });
    const opening = connect(sim.url);
    await sim.journal.waitFor('fault');
    expect(sim.journal.of('upgrade')).toEqual([]);
    rule.release();
    const client = await opening;
    expect(sim.journal.of('upgrade').map(({ outcome }) => outcome)).toEqual(['accepted']);
    await hangUp(client);
    await sim.close();
  });

  it('A hanging upgrade stays unanswered until the simulator closes', async () => {
    const sim = await startSimulator();
    sim.script.onUpgrade({}, { kind: 'hang' });
    const opening = connect(sim.url).then(
      () => 'open',
      () => 'failed',
    );
    expect((await sim.journal.waitFor('upgrade')).outcome).toBe('hung');
    await sim.close();
    expect(await opening).toBe('failed');
  });
});
