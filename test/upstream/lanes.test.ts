import { describe, expect, it } from 'vitest';
import { addressed, chooseSocket, LaneTable, MOST_NAMED, MOST_RUNNING, withLane } from '../../src/upstream/lanes.ts';

const frame = (type: string, more: object = {}) => JSON.stringify({ type, ...more });
const completed = (id: string) => frame('response.completed', { response: { id, status: 'completed', output: [] } });
const begun = frame('response.in_progress', { response: { id: 'r' } });
const failed = frame('error', { status: 400, error: { code: 'invalid_value', message: 'no' } });

/** Returns a table with a lane that rests at response `id`. */
function resting(id: string) {
  const table = new LaneTable();
  const source = table.join()!;
  table.send(source, null);
  table.hear(source, completed(id));
  return { table, source };
}

describe('the name of a lane in a frame', () => {
  it.each([
    ['as the last member', '{"type":"x","delta":"a","stream_id":"h1"}', '{"type":"x","delta":"a"}'],
    ['as the first member', '{"stream_id":"h1","type":"x"}', '{"type":"x"}'],
    ['between others, with spaces', '{"type":"x", "stream_id" : "h1", "delta":"a"}', '{"type":"x", "delta":"a"}'],
    [
      'repeated: the last one counts',
      '{"stream_id":"h2","type":"x","stream_id":"h1"}',
      '{"stream_id":"h2","type":"x"}',
    ],
  ])('A lane is read %s, and is not part of what the session gets', (_, text, rest) => {
    const found = addressed(text);
    expect(found.name).toBe('h1');
    if (_ !== 'repeated: the last one counts') expect(JSON.parse(found.text)).toEqual(JSON.parse(rest));
  });

  it.each([
    ['in a string', JSON.stringify({ type: 'x', delta: ',"stream_id":"h1"}' })],
    ['at the end of a string', String.raw`{"type":"x","delta":",\"stream_id\":\"h1"}`],
    ['in an inner object', '{"type":"x","response":{"stream_id":"h1"}}'],
    ['that is no text', '{"type":"x","stream_id":123}'],
    ['that is empty', '{"type":"x","stream_id":""}'],
    ['with other characters', '{"type":"x","stream_id":"h 1"}'],
    ['in a frame that is no object', '["stream_id","h1"]'],
    ['in a frame that is cut', '{"type":"x","stream_id":"h1'],
  ])('A lane %s is none', (_, text) => {
    expect(addressed(text)).toEqual({ name: null, text });
  });

  it('A frame gets the name as its last member, so that no other member can replace it', () => {
    const lane = new LaneTable().join()!;
    const named = withLane('{"type":"response.create","stream_id":null,"input":"}"}', lane);
    expect(JSON.parse(named)).toEqual({ type: 'response.create', stream_id: 'h1', input: '}' });
    expect(addressed(named).name).toBe('h1');
  });
});

describe('the lanes of a connection', () => {
  it('32 names are given out, each once, whatever becomes of their sessions', () => {
    const table = new LaneTable();
    const names = new Set<string>();
    for (let n = 0; n < MOST_NAMED; n += 1) {
      const lane = table.join()!;
      names.add(lane.name);
      table.leave(lane);
    }
    expect(names.size).toBe(32);
    expect(table.join()).toBeNull();
    expect(table.used).toBe(0);
  });

  it('An answer is on the wire from its frame to its end, also after its session has left', () => {
    const table = new LaneTable();
    const lane = table.join()!;
    table.send(lane, null);
    table.hear(lane, frame('response.created', { response: { id: 'r' } }));
    expect(lane.phase).toBe('sent');
    table.hear(lane, begun);
    table.leave(lane);
    expect(table.onWire).toBe(1);
    table.hear(lane, completed('r'));
    expect(table.onWire).toBe(0);
  });

  it.each([
    ['a part of the response', frame('response.output_item.added', { item: {} }), 'running'],
    ['its place in the queue', frame('response.queued', { response: { id: 'r' } }), 'sent'],
    ['telemetry', frame('codex.rate_limits', { rate_limits: {} }), 'sent'],
    ['a failed tool call', frame('response.mcp_call.failed', { item_id: 'x' }), 'running'],
    [
      'a steered response',
      frame('response.incomplete', { response: { incomplete_details: { reason: 'steered' } } }),
      'running',
    ],
    ['an error', failed, 'resting'],
    [
      'the end under a type of its own',
      frame('response.done', { response: { id: 'r', status: 'completed', output: [] } }),
      'resting',
    ],
  ])('The state of a lane follows %s', (_, text, phase) => {
    const table = new LaneTable();
    const lane = table.join()!;
    table.send(lane, null);
    table.hear(lane, text);
    expect(lane.phase).toBe(phase);
  });

  it('A response is lent while its lane rests, also after its session has left, and never to its own lane', () => {
    const { table, source } = resting('p');
    expect(table.lends('p', null)).toBe(true);
    expect(table.lends('p', source.name)).toBe(false);
    table.leave(source);
    expect(table.lends('p', 'other')).toBe(true);
  });

  it('A response is not lent while its lane runs a turn', () => {
    const { table, source } = resting('p');
    table.send(source, null);
    expect(table.lends('p', null)).toBe(false);
  });

  it('A failed continuation on the same lane evicts the response, a failed fork on another lane does not', () => {
    const { table, source } = resting('p');
    const fork = table.join()!;
    table.send(fork, 'p');
    table.hear(fork, failed);
    expect(table.lends('p', fork.name)).toBe(true);
    table.send(source, null);
    table.hear(source, failed);
    expect(table.lends('p', fork.name)).toBe(false);
  });

  it('A lane does not advance before the fork of its latest response has begun', () => {
    const { table, source } = resting('p');
    const fork = table.join()!;
    expect(table.send(fork, 'p')).toBe(true);
    expect(table.send(source, null)).toBe(false);
    expect(table.hear(fork, frame('response.created', { response: { id: 'f' } }))).toEqual([]);
    expect(table.onWire).toBe(1);
    expect(table.hear(fork, begun)).toEqual([source]);
    expect(source.phase).toBe('sent');
  });

  it.each([
    ['fails', (table: LaneTable, fork: ReturnType<LaneTable['join']>) => table.hear(fork!, failed)],
    ['leaves', (table: LaneTable, fork: ReturnType<LaneTable['join']>) => table.leave(fork!)],
  ])('A held lane goes on when the fork %s', (_, ends) => {
    const { table, source } = resting('p');
    const fork = table.join()!;
    table.send(fork, 'p');
    table.send(source, null);
    expect(ends(table, fork)).toEqual([source]);
  });

  it('A held lane that leaves has sent nothing', () => {
    const { table, source } = resting('p');
    const fork = table.join()!;
    table.send(fork, 'p');
    table.send(source, null);
    table.leave(source);
    expect(source.phase).toBe('resting');
    expect(table.hear(fork, begun)).toEqual([]);
    expect(table.release(source)).toBe(false);
  });
});

describe('the choice of a socket', () => {
  const socket = (over: object = {}) => ({ retired: false, proven: true, ageMs: 0, table: new LaneTable(), ...over });
  const used = (count: number) => {
    const table = new LaneTable();
    for (let n = 0; n < count; n += 1) table.join();
    return table;
  };
  const wish = { most: 32, oldestMs: 1_000, continues: null };

  it.each([
    ['retired', { retired: true }],
    ['not known to have lanes', { proven: false }],
    ['old', { ageMs: 1_000 }],
    ['out of names', { table: used(32) }],
  ])('A socket that is %s is not chosen', (_, over) => {
    expect(chooseSocket([socket(over)], wish)).toBeNull();
  });

  it('A socket takes only as many sessions as wished, and none while as many answers run as the provider allows', () => {
    const few = socket({ table: used(3) });
    expect(chooseSocket([few], { ...wish, most: 3 })).toBeNull();
    const table = used(MOST_RUNNING);
    for (const lane of table.all()) table.send(lane, null);
    expect(chooseSocket([socket({ table })], wish)).toBeNull();
  });

  it('The fullest socket is chosen, but before it one that holds the response', () => {
    const full = socket({ table: used(9) });
    const holder = socket({ table: resting('p').table });
    expect(chooseSocket([socket(), full, holder], wish)).toBe(full);
    expect(chooseSocket([socket(), full, holder], { ...wish, continues: 'p' })).toBe(holder);
  });
});
