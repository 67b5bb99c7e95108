import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { SessionEvent } from '../../machines/session.ts';
import { MOST_LEVELS } from '../../src/json.ts';
import type { SessionCore } from '../../src/session/core.ts';
import { FrameReader } from '../../src/session/frames.ts';
import type { Turn } from '../../src/session/turn.ts';
import { bareResponse } from '../../src/transcript/items.ts';
import type { ParsedFrame } from '../../src/upstream/port.ts';

interface Shown {
  type: string;
  json: string;
  telemetry: boolean;
}

/** Returns a turn on the wire as the frame reader sees it, with what its client was shown. */
function turnOf({ stream = true, ...over }: Record<string, unknown> = {}) {
  const shown: Shown[] = [];
  const notes: string[] = [];
  const turn = {
    request: { body: { model: 'm', stream }, hostedTools: false },
    evidence: { anchor: null, passThrough: null, references: [], store: false },
    hideEncrypted: false,
    responseId: null,
    streamed: [],
    listed: null,
    steered: 0,
    kept: null as { usage: unknown } | null,
    sawOutput: false,
    inexact: false,
    heldCreated: null as { type: string; json: string } | null,
    standing: null,
    ending: null,
    wire: { form: 'full' },
    parent: null,
    continuation: null,
    history: null,
    anchorRefused: false,
    times: { firstEvent: null },
    stream: {
      push: (type: string, json: string, telemetry: boolean) => void shown.push({ type, json, telemetry }),
      get shown() {
        return shown.some(({ telemetry }) => !telemetry);
      },
      finished: false,
    },
    note: ({ type }: { type: string }) => void notes.push(type),
    showCreated() {
      const held = turn.heldCreated;
      turn.heldCreated = null;
      if (held) shown.push({ ...held, telemetry: false });
    },
    ...over,
  };
  const types = () => shown.map(({ type }) => type);
  return { turn: turn as unknown as Turn, shown, notes, types };
}

let log: string[];
let signals: [string, boolean][];
let socket: { kind: 'websocket' | 'http'; generation: number; anchor: string | null; close(code: number): void };
let current: Turn | null;
let creates: number;
let touched: number;
let now: number;
let mostBytes: number;
/** What the client was to get when the session was notified of the end. */
let terminalAtEnd: unknown;
let read: (frame: unknown, turn: Turn | null) => void;

beforeEach(() => {
  log = [];
  signals = [];
  current = null;
  creates = 1;
  touched = 0;
  now = 1_000;
  mostBytes = 1_048_576;
  socket = { kind: 'websocket', generation: 1, anchor: 'resp_0', close: (code) => void log.push(`closed ${code}`) };
  const limits = {
    get transcriptBytes() {
      return mostBytes;
    },
  };
  const session: Partial<Record<keyof SessionCore, unknown>> = {
    socket,
    env: { clock: { now: () => now, wall: () => now }, config: { limits }, store: { lineage: async () => [] } },
    turns: {
      get current() {
        return current;
      },
    },
    actor: {
      get context() {
        return { creates };
      },
      touch: (deadline: string) => {
        if (deadline === 'silence') touched += 1;
      },
    },
    signals: { take: (frame: ParsedFrame, turn: Turn | null) => void signals.push([frame.type, turn !== null]) },
    send: ({ type, ...rest }: SessionEvent) => {
      log.push([type, ...Object.values(rest)].join(' '));
      if (type === 'upstream.ended') terminalAtEnd = current?.ending?.terminal;
    },
    learnTurnState: (_turn: Turn, value: string) => void log.push(`state ${value}`),
  };
  const reader = new FrameReader(session as unknown as SessionCore);
  read = (frame, turn) => {
    current = turn;
    reader.read(typeof frame === 'string' ? frame : JSON.stringify(frame), turn);
  };
});

const created = (id: string, more: object = {}) => ({ type: 'response.created', response: { id, ...more } });
const delta = (nth = 0) => ({ type: 'response.output_text.delta', delta: `d${nth}` });
const item = (id: string, more: object = {}) => ({ type: 'message', id, role: 'assistant', content: [], ...more });
const itemDone = (id: string, index?: number) => ({
  type: 'response.output_item.done',
  ...(index === undefined ? {} : { output_index: index }),
  item: item(id),
});
const end = (id: string, more: object = {}, type = 'response.completed') => ({ type, response: { id, ...more } });

describe('the end of a response', () => {
  it('The session is notified of it before the terminal event is written for the client', () => {
    const { turn } = turnOf();
    for (const frame of [created('r'), delta(), end('r')]) read(frame, turn);
    expect(terminalAtEnd).toBeNull();
    expect(log.at(-1)).toBe('upstream.ended true');
    expect(turn.ending).toMatchObject({ state: 'completed', fault: null, error: null });
    expect(turn.ending!.terminal).toEqual({ type: 'response.completed', json: JSON.stringify(end('r')) });
  });

  it('A listed item with the text of the streamed one is that item', () => {
    const { turn } = turnOf();
    const output = [item('a'), item('b', { content: ['more'] }), item('c')];
    for (const frame of [created('r'), itemDone('a'), itemDone('b'), end('r', { output })]) read(frame, turn);
    const [a, b] = turn.streamed;
    expect(turn.listed!.map(({ json }) => json)).toEqual(output.map((each) => JSON.stringify(each)));
    expect(turn.listed![0]).toBe(a);
    expect(turn.listed![1]).not.toBe(b);
    expect(turn.listed![1]!.value).toEqual(output[1]);
  });
});

/** Runs one whole response, so that the socket is between two turns. */
function answered(id: string) {
  const done = turnOf();
  for (const frame of [created(id), delta(), end(id)]) read(frame, done.turn);
  log.length = 0;
  return done;
}

describe('the announcement of a response', () => {
  it('An announcement begins the turn and is held back until another frame follows', () => {
    const { turn, types, notes } = turnOf();
    read(created('r'), turn);
    expect([turn.responseId, turn.times.firstEvent, turn.sawOutput, touched]).toEqual(['r', 1_000, false, 1]);
    expect([types(), log, notes]).toEqual([[], ['upstream.progress'], ['acknowledge']]);
    now = 2_000;
    read(delta(), turn);
    expect([types(), turn.sawOutput, touched]).toEqual([['response.created', delta().type], true, 2]);
    read(delta(), turn);
    expect([notes, log, turn.times.firstEvent]).toEqual([['acknowledge', 'stream'], ['upstream.progress'], 1_000]);
  });

  it('An announcement without a response begins a turn that was sent as a delta', () => {
    for (const response of [undefined, null, 'r']) {
      const { turn, types } = turnOf({ wire: { form: 'delta' } });
      read({ type: 'response.created', response }, turn);
      read(delta(), turn);
      expect(types()).toEqual(['response.created', delta().type]);
    }
  });

  it('An announcement may be another event than response.created', () => {
    const { turn, types } = turnOf();
    read({ type: 'response.in_progress', response: { id: 'r' } }, turn);
    expect([types(), turn.responseId]).toEqual([[], 'r']);
    read({ type: 'response.queued', response: { id: 'r' } }, turn);
    expect(types()).toEqual(['response.in_progress', 'response.queued']);
  });

  it('An announcement after a first event is shown at once, and gives the response its id', () => {
    const { turn, types } = turnOf();
    read(delta(), turn);
    expect(turn.responseId).toBeNull();
    read(created('r'), turn);
    expect([types(), turn.responseId]).toEqual([[delta().type, 'response.created'], 'r']);
    read(created('other'), turn);
    expect([types().length, turn.responseId]).toEqual([2, 'r']);
    read({ ...delta(), response_id: 'other' }, turn);
    expect(types()).toHaveLength(2);
    const late = turnOf();
    read(end('r'), turn);
    read(delta(), late.turn);
    expect(late.types()).toEqual([]);
  });

  it('An announcement of another response during one is hidden with the frames that name it; frames without a name are shown', () => {
    const { turn, types } = turnOf();
    read(created('r'), turn);
    read(delta(), turn);
    read(created('other'), turn);
    read({ ...delta(), response_id: 'other' }, turn);
    read(end('other'), turn);
    expect([types(), turn.ending]).toEqual([['response.created', delta().type], null]);
    read({ ...delta(), response_id: 'r' }, turn);
    read(delta(), turn);
    expect(types()).toHaveLength(4);
    read(end('r'), turn);
    expect(turn.ending).toMatchObject({ state: 'completed' });
  });

  it('An announcement that is repeated, or has no id, starts no other response', () => {
    const { turn, types } = turnOf();
    read(created('r'), turn);
    read(created('r'), turn);
    read({ type: 'response.created' }, turn);
    read({ ...delta(), response_id: 'renamed' }, turn);
    expect(types()).toEqual(['response.created', delta().type]);
  });
});

describe('between two turns on a socket', () => {
  it('Late frames of an ended response begin nothing, including its terminal', () => {
    answered('r1');
    const next = turnOf();
    for (const frame of [delta(), { ...delta(), response_id: 'r1' }, itemDone('x'), end('r1'), end('unknown')])
      read(frame, next.turn);
    read({ type: 'response.in_progress', response: { id: 'r1' } }, next.turn);
    read(end('r1', {}, 'response.failed'), next.turn);
    expect([next.types(), next.turn.ending, next.turn.responseId, log]).toEqual([[], null, null, []]);
  });

  it('The next announcement begins the next turn, which ignores late frames of the ended response', () => {
    answered('r1');
    const { turn, types } = turnOf();
    read(created('r2'), turn);
    read({ ...delta(), response_id: 'r1' }, turn);
    read(end('r1'), turn);
    expect([types(), turn.ending]).toEqual([[], null]);
    read(delta(), turn);
    read(end('r2'), turn);
    expect(types()).toEqual(['response.created', delta().type]);
    expect(turn.ending).toMatchObject({ state: 'completed' });
  });

  it('A failure of a response that was not announced belongs to the current turn', () => {
    answered('r1');
    const { turn } = turnOf();
    read(end('r2', { error: { code: 'server_error', message: 'no' } }, 'response.failed'), turn);
    expect(turn.ending).toMatchObject({ state: 'failed', error: { code: 'server_error' } });
    expect(log).toEqual(['upstream.progress', 'upstream.ended false']);
  });

  it('A provider without announcements begins a turn with any event, until it has announced on this connection', () => {
    const silent = turnOf();
    read(delta(), silent.turn);
    read(end('r1'), silent.turn);
    const second = turnOf();
    read(delta(), second.turn);
    expect(second.types()).toEqual([delta().type]);
    read(end('r2'), second.turn);
    answered('r3');
    const third = turnOf();
    read(delta(), third.turn);
    expect(third.types()).toEqual([]);
    socket.generation = 2;
    read(delta(), third.turn);
    expect(third.types()).toEqual([delta().type]);
  });

  it('The ids of the last 16 ended responses are remembered, and one that ends again moves to the end', () => {
    socket.generation = 0;
    const seen = (id: string) => {
      const { turn, types } = turnOf();
      socket.generation += 1;
      read({ ...delta(), response_id: id }, turn);
      return types().length > 0;
    };
    const ends = (id: string) => {
      const { turn } = turnOf();
      read(created(id), turn);
      read(end(id), turn);
    };
    for (let nth = 0; nth < 16; nth += 1) ends(`r${nth}`);
    expect(seen('r0')).toBe(false);
    ends('r0');
    ends('r16');
    expect([seen('r0'), seen('r1'), seen('r2'), seen('r16')]).toEqual([false, true, false, false]);
  });

  it('A response that was renamed at its end is remembered by both ids', () => {
    const { turn } = turnOf();
    read(created('first'), turn);
    read(end('last'), turn);
    expect([turn.responseId, socket.anchor]).toEqual(['last', 'last']);
    socket.generation = 2;
    for (const id of ['first', 'last']) {
      const next = turnOf();
      read({ ...delta(), response_id: id }, next.turn);
      expect(next.types()).toEqual([]);
    }
  });

  it('Ended responses without an id evict no remembered one', () => {
    socket.kind = 'http';
    const ends = (id: string | null) => {
      const { turn } = turnOf();
      socket.generation += 1;
      read({ type: 'response.completed', response: id === null ? {} : { id } }, turn);
    };
    ends('first');
    ends(null);
    for (let nth = 0; nth < 15; nth += 1) ends(`r${nth}`);
    socket.kind = 'websocket';
    const late = turnOf();
    socket.generation += 1;
    read({ ...delta(), response_id: 'first' }, late.turn);
    expect(late.types()).toEqual([]);
  });

  it('The next turn may begin with another announcement than response.created', () => {
    answered('r1');
    const { turn, types } = turnOf();
    read({ type: 'response.in_progress', response: { id: 'r2' } }, turn);
    read(delta(), turn);
    expect([turn.responseId, types()]).toEqual(['r2', ['response.in_progress', delta().type]]);
  });

  it('A first event that names its response sets the id, and an announcement without an id keeps it', () => {
    const { turn } = turnOf();
    read({ ...delta(), response_id: 'r' }, turn);
    read({ type: 'response.created', response: {} }, turn);
    expect(turn.responseId).toBe('r');
  });

  it('A turn that moves to another connection begins there again', () => {
    const { turn, types } = turnOf();
    read(created('r1'), turn);
    socket.generation = 2;
    read(created('r2'), turn);
    read(delta(), turn);
    expect([turn.responseId, types()]).toEqual(['r2', ['response.created', 'response.created', delta().type]]);
  });
});

it('Over HTTP every frame belongs to the turn, whatever it names', () => {
  answered('r1');
  socket.kind = 'http';
  const { turn, types } = turnOf();
  read({ ...delta(), response_id: 'r1' }, turn);
  read(created('r2'), turn);
  read(created('r3'), turn);
  read({ ...delta(), response_id: 'r3' }, turn);
  expect(types()).toEqual([delta().type, 'response.created', delta().type]);
  read(end('r1'), turn);
  expect(turn.ending).toMatchObject({ state: 'completed' });
  expect(log.at(-1)).toBe('upstream.ended false');
});

describe('items', () => {
  const ids = ({ streamed }: Turn) => streamed.map(({ value }) => value.id);

  it('Items are stored in the order in which a streaming client saw them', () => {
    const { turn } = turnOf();
    read(created('r'), turn);
    for (const frame of [itemDone('b', 1), itemDone('a', 0), itemDone('c')]) read(frame, turn);
    expect(ids(turn)).toEqual(['b', 'a', 'c']);
    expect(turn.streamed[0]!.json).toBe(JSON.stringify(item('b')));
  });

  it('Items are stored by index for a client with a JSON answer, those without an index last', () => {
    const { turn } = turnOf({ stream: false });
    read(created('r'), turn);
    for (const frame of [itemDone('c', 2), itemDone('x'), itemDone('a', 0), itemDone('b', 1), itemDone('b2', 1)])
      read(frame, turn);
    expect(ids(turn)).toEqual(['a', 'b', 'b2', 'c', 'x']);
    read(end('r', { output: [] }), turn);
    const answer = JSON.parse(turn.ending!.terminal!.json) as { response: { output: { id: string }[] } };
    expect(answer.response.output.map(({ id }) => id)).toEqual(['a', 'b', 'b2', 'c', 'x']);
  });

  it('Invalid items are shown and not stored', () => {
    const { turn, types } = turnOf();
    read(created('r'), turn);
    for (const odd of [null, 7, 'x']) read({ type: 'response.output_item.done', item: odd }, turn);
    read({ type: 'response.output_item.done' }, turn);
    read({ type: 'response.output_item.added', item: item('a') }, turn);
    expect([turn.streamed, types().length]).toEqual([[], 6]);
  });

  it('Items that cannot be stored make the turn inexact, unless they are empty', () => {
    const inexact = (odd: unknown) => {
      socket.generation += 1;
      const { turn } = turnOf();
      read(created('r'), turn);
      read({ type: 'response.output_item.done', item: odd }, turn);
      return turn.inexact;
    };
    expect([item('a'), null, 7, 'x', []].map(inexact)).toEqual([false, false, true, true, true]);
    const listed = turnOf();
    socket.generation += 1;
    read(created('r'), listed.turn);
    read(end('r', { output: [null, item('a'), null] }), listed.turn);
    expect([ids({ streamed: listed.turn.listed } as Turn), listed.turn.inexact]).toEqual([['a'], false]);
  });

  it('Items are stored up to a byte limit and shown beyond it; the turn is then inexact', () => {
    const { turn, types } = turnOf({ stream: false });
    mostBytes = JSON.stringify(item('a')).length + JSON.stringify(item('b')).length;
    read(created('r'), turn);
    read({ type: 'response.output_item.done' }, turn);
    for (const id of ['a', 'b']) read(itemDone(id), turn);
    expect([ids(turn), turn.inexact]).toEqual([['a', 'b'], false]);
    read(itemDone('c'), turn);
    expect([ids(turn), turn.inexact, types().length]).toEqual([['a', 'b'], true, 5]);
  });

  it('The items of a response that begins with an item are stored', () => {
    socket.kind = 'http';
    const { turn } = turnOf({ stream: false });
    read(itemDone('a'), turn);
    read(end('r'), turn);
    expect(ids(turn)).toEqual(['a']);
    expect(JSON.parse(turn.ending!.terminal!.json).response.output).toEqual([item('a')]);
  });

  it('Item events are part of the answer, not telemetry', () => {
    const { turn, shown } = turnOf();
    read(created('r'), turn);
    read(itemDone('a'), turn);
    expect(shown.map(({ telemetry }) => telemetry)).toEqual([false, false]);
  });

  it('The time of a turn’s first event stays when the turn is steered', () => {
    const { turn } = turnOf();
    read(created('r1'), turn);
    now = 2_000;
    read({ type: 'response.incomplete', response: { id: 'r1', incomplete_details: { reason: 'steered' } } }, turn);
    read(created('r2'), turn);
    expect(turn.times.firstEvent).toBe(1_000);
  });

  it('Items of a terminal’s list are stored after those of steered predecessors', () => {
    const { turn, notes, types } = turnOf();
    read(created('r1'), turn);
    read(itemDone('a'), turn);
    read({ type: 'response.incomplete', response: { id: 'r1', incomplete_details: { reason: 'steered' } } }, turn);
    expect([turn.responseId, turn.steered, turn.ending, notes]).toEqual([
      null,
      1,
      null,
      ['acknowledge', 'stream', 'steer'],
    ]);
    read(created('r2'), turn);
    read(itemDone('b'), turn);
    read(end('r2', { output: [item('b2'), item('c2')], usage: { total_tokens: 7 } }), turn);
    expect(ids(turn)).toEqual(['a', 'b']);
    expect(turn.listed!.map(({ value }) => value.id)).toEqual(['a', 'b2', 'c2']);
    expect([turn.kept, turn.responseId]).toEqual([{ usage: { total_tokens: 7 } }, 'r2']);
    expect(types().filter((type) => type === 'response.created')).toHaveLength(2);
  });

  it('Items come after those of steered predecessors in a JSON answer too', () => {
    const { turn } = turnOf({ stream: false });
    read(created('r1'), turn);
    read(itemDone('a', 5), turn);
    read({ type: 'response.incomplete', response: { id: 'r1', incomplete_details: { reason: 'steered' } } }, turn);
    read(created('r2'), turn);
    read(itemDone('c', 1), turn);
    read(itemDone('b', 0), turn);
    expect(ids(turn)).toEqual(['a', 'b', 'c']);
  });

  it('Items of a terminal without a list are unknown', () => {
    for (const more of [{}, { output: null }, { output: {} }]) {
      const { turn } = turnOf();
      read(created('r'), turn);
      read(end('r', more), turn);
      expect([turn.listed, turn.kept]).toEqual([null, { usage: null }]);
    }
  });
});

describe('the terminal', () => {
  const terminalOf = (frame: object, over: Record<string, unknown> = {}) => {
    const { turn } = turnOf(over);
    read(created('r'), turn);
    read(itemDone('a', 0), turn);
    read(frame, turn);
    const { terminal, state, error } = turn.ending!;
    return { state, error, type: terminal!.type, json: JSON.parse(terminal!.json), text: terminal!.json };
  };

  it('A terminal is relayed as written under a name that clients know', () => {
    const text = '{"type":"response.completed", "response": {"id":"r","output":[],"big":12345678901234567890}}';
    const { turn, types } = turnOf();
    read(created('r'), turn);
    read(text, turn);
    expect(turn.ending!.terminal).toEqual({ type: 'response.completed', json: text });
    expect([types(), socket.anchor, log.at(-1)]).toEqual([['response.created'], 'r', 'upstream.ended true']);
  });

  it('A terminal keeps the spelling of its name', () => {
    const text = '{"type":"response.complete\\u0064","response":{"id":"r","output":[]}}';
    expect(text).toContain('\\u0064');
    const { turn } = turnOf();
    read(created('r'), turn);
    read(text, turn);
    expect(turn.ending!.terminal!.json).toBe(text);
  });

  it('A terminal ends a turn that was sent as a delta', () => {
    const { turn } = turnOf({ wire: { form: 'delta' }, parent: { id: 't' } });
    read(created('r'), turn);
    read(end('r'), turn);
    expect(turn.ending).toMatchObject({ state: 'completed' });
  });

  it('A terminal as the first frame of a short answer has its own id and no items', () => {
    socket.kind = 'http';
    for (const stream of [true, false]) {
      const { turn } = turnOf({ stream, id: '0-1' });
      read({ type: 'response.completed' }, turn);
      const { response } = JSON.parse(turn.ending!.terminal!.json) as { response: object };
      expect(response).toEqual({ ...bareResponse({ id: 'resp_holdfast_01', model: 'm', now }), status: 'completed' });
    }
  });

  it('A terminal with an unknown name gets a known one', () => {
    expect(terminalOf({ type: 'response.done', response: { id: 'r' } })).toMatchObject({
      type: 'response.completed',
      state: 'completed',
      json: { type: 'response.completed', response: { id: 'r' } },
    });
    expect(terminalOf({ type: 'response.cancelled', response: { id: 'r' } })).toMatchObject({
      type: 'response.failed',
      state: 'failed',
      json: { type: 'response.failed', response: { error: { code: 'server_error' } } },
    });
  });

  it('A failed terminal gets an error within the response, unless it has its own', () => {
    const silent = terminalOf({ type: 'response.failed', response: { id: 'r' } });
    expect(silent.json.response.error).toEqual({ code: 'server_error', message: silent.error!.message });
    const coded = { type: 'response.failed', response: { id: 'r' }, code: 'rate_limit_exceeded', message: 'slow' };
    expect(terminalOf(coded).json.response.error).toEqual({ code: 'rate_limit_exceeded', message: 'slow' });
    const error = { code: 'own', message: 'own', more: 'own' };
    expect(terminalOf({ type: 'response.failed', response: { id: 'r', error } }).json.response.error).toEqual(error);
    expect(terminalOf({ type: 'response.failed', error, response: { id: 'r' } }).json.response).toEqual({ id: 'r' });
    expect(terminalOf({ type: 'response.incomplete', response: { id: 'r' } }).json.response).toEqual({ id: 'r' });
  });

  it('A terminal without a response object gets one', () => {
    const bare = { ...bareResponse({ id: 'r', model: 'm', now }), status: 'completed' };
    for (const frame of [{ type: 'response.completed' }, { type: 'response.completed', response: null }])
      expect(terminalOf(frame).json.response).toEqual(bare);
    const json = terminalOf({ type: 'response.failed' }).json.response;
    expect(json).toEqual({ ...bare, status: 'failed', error: { code: 'server_error', message: expect.any(String) } });
    expect(terminalOf({ type: 'response.completed' }, { stream: false }).json.response.output).toEqual([item('a')]);
  });

  it('A terminal in a JSON answer lists the streamed items if it lists fewer, and never fewer than it lists', () => {
    const jsonOf = (output: object[], over: Record<string, unknown> = { stream: false }) =>
      terminalOf(end('r', { output }), over).json.response.output;
    expect(jsonOf([])).toEqual([item('a')]);
    expect(jsonOf([item('z')])).toEqual([item('z')]);
    expect(jsonOf([item('y'), item('z')])).toEqual([item('y'), item('z')]);
    expect(jsonOf([], {})).toEqual([]);
  });

  it('A terminal of a failed response leaves no anchor and no socket', () => {
    terminalOf({ type: 'response.failed', response: { id: 'r' } });
    expect([socket.anchor, log.at(-1)]).toEqual([null, 'upstream.ended false']);
    terminalOf({ type: 'response.incomplete', response: { id: 'r' } });
    expect([socket.anchor, log.at(-1)]).toEqual(['r', 'upstream.ended true']);
  });

  it('A terminal without an id keeps the announced one', () => {
    terminalOf({ type: 'response.completed', response: {} });
    expect(socket.anchor).toBe('r');
  });
});

describe('a client that requested less than the bridge', () => {
  const sealed = { type: 'reasoning', id: 'rs', encrypted_content: 'secret' };

  it('Encrypted reasoning that the client did not request is hidden and stored', () => {
    const { turn, shown } = turnOf({ stream: false, hideEncrypted: true });
    read(created('r'), turn);
    read({ type: 'response.output_item.done', output_index: 0, item: sealed }, turn);
    read(end('r', { output: [] }), turn);
    expect(turn.streamed[0]!.value).toEqual(sealed);
    expect(JSON.stringify([shown, turn.ending!.terminal])).not.toContain('secret');
    const { response } = JSON.parse(turn.ending!.terminal!.json) as { response: { output: unknown[] } };
    expect(response.output).toEqual([{ type: 'reasoning', id: 'rs' }]);
  });

  it('The client is shown its own anchor, never one that only the bridge used', () => {
    for (const anchor of [null, 'mine']) {
      const { turn, shown } = turnOf({ evidence: { anchor, passThrough: null } });
      read(created('r', { previous_response_id: 'ours' }), turn);
      read(delta(), turn);
      expect(JSON.parse(shown[0]!.json).response.previous_response_id).toBe(anchor);
    }
  });
});

it('A background turn keeps the latest state of the response and nothing else', () => {
  const background = turnOf({ evidence: { anchor: null, passThrough: 'background' } });
  read(created('r'), background.turn);
  read({ type: 'response.queued', response: { id: 'r', status: 'queued' } }, background.turn);
  read(delta(), background.turn);
  expect(JSON.parse(background.turn.standing!)).toMatchObject({ type: 'response.queued' });
  const other = turnOf();
  socket.generation = 2;
  read(created('r'), other.turn);
  read({ type: 'response.queued', response: { id: 'r' } }, other.turn);
  expect(other.turn.standing).toBeNull();
});

describe('an error frame', () => {
  const error = (code: string, status = 400, more: object = {}) => ({
    type: 'error',
    status,
    error: { type: 'invalid_request_error', code, message: 'no' },
    ...more,
  });

  it('An error frame before the response began is the answer, and a plain refusal keeps the socket', () => {
    for (const [status, kept] of [
      [400, true],
      [429, true],
      [499, true],
      [500, false],
    ] as const) {
      const { turn } = turnOf();
      read(error('invalid_prompt', status), turn);
      expect(turn.ending).toMatchObject({ state: 'failed', terminal: null, fault: null, answer: { status } });
      expect([log.pop(), socket.anchor]).toEqual([`upstream.ended ${kept}`, null]);
    }
    socket.kind = 'http';
    read(error('invalid_prompt'), turnOf().turn);
    expect(log.pop()).toBe('upstream.ended false');
  });

  it('An error frame is kept as written, unless it is nested too deeply for its readers', () => {
    const rawOf = (levels: number) => {
      const { turn } = turnOf();
      let inner: unknown = 'x';
      for (let nth = 0; nth < levels; nth += 1) inner = [inner];
      read(error('invalid_prompt', 400, { inner }), turn);
      return turn.ending!.error!.raw;
    };
    expect(rawOf(3)).not.toBeNull();
    expect(rawOf(MOST_LEVELS + 10)).toBeNull();
  });

  it('An error frame during a response ends the response and its socket', () => {
    const { turn, types } = turnOf();
    read(created('r'), turn);
    read(error('invalid_prompt'), turn);
    expect([types(), log.at(-1)]).toEqual([['response.created'], 'upstream.ended false']);
    expect(turn.ending).toMatchObject({ state: 'failed', error: { code: 'invalid_prompt' } });
  });

  it('An error frame carries its headers', () => {
    const { turn } = turnOf();
    read(error('slow_down', 503, { headers: { 'X-Request-Id': 'req' } }), turn);
    expect(turn.ending!.answer!.headers).toMatchObject({ 'x-request-id': 'req' });
  });

  it('An error frame without a turn ends the connection', () => {
    read(error('invalid_prompt'), null);
    expect(log).toEqual(['closed 1000', 'socket.lost 1 false']);
    log.length = 0;
    const { turn } = turnOf();
    read(created('r'), turn);
    read(end('r'), turn);
    log.length = 0;
    read(error('invalid_prompt'), turn);
    expect(log).toEqual(['closed 1000', 'socket.lost 1 false']);
  });

  it('An error frame about the connection’s age limit replaces the socket of a turn that can be resent', () => {
    const { turn } = turnOf();
    read(error('websocket_connection_limit_reached'), turn);
    expect([log, turn.ending]).toEqual([['closed 1000', 'socket.lost 1 true'], null]);
  });

  it('An error frame about the connection’s age limit ends a turn whose hosted tools may have acted', () => {
    const { turn } = turnOf({ request: { body: { model: 'm', stream: true }, hostedTools: true } });
    read(error('websocket_connection_limit_reached'), turn);
    expect([log, turn.ending]).toEqual([['upstream.ended true'], expect.objectContaining({ state: 'failed' })]);
  });

  describe('a refusal of the anchor', () => {
    const anchored = {
      wire: { form: 'delta' },
      parent: { id: 't', storedUpstream: false, replay: 'exact' },
      continuation: { kind: 'anchored', items: [] },
      history: ['{}'],
    };
    const refusal = error('previous_response_not_found');

    it('A refusal of an anchor before the response began makes the turn go out in full, if its history is known', async () => {
      const { turn } = turnOf(anchored);
      read(refusal, turn);
      await vi.waitFor(() => expect(log).toEqual(['upstream.anchor_refused']));
      expect([turn.ending, turn.anchorRefused, socket.anchor]).toEqual([null, true, null]);
    });

    it('A refusal of an anchor before the response began is relayed if the history is unknown', async () => {
      const { turn } = turnOf({ ...anchored, history: null });
      read(refusal, turn);
      await vi.waitFor(() => expect(log).toEqual(['upstream.ended true']));
      expect(turn.ending).toMatchObject({ state: 'failed', error: { code: 'previous_response_not_found' } });
    });

    it('A refusal of the anchor after response.created is handled only if the turn can be resent elsewhere', () => {
      const { turn } = turnOf(anchored);
      read(created('r'), turn);
      log.length = 0;
      read(refusal, turn);
      expect([log, turn.ending, turn.anchorRefused]).toEqual([['closed 1000', 'socket.lost 1 true'], null, true]);
      creates = 2;
      read(refusal, turn);
      expect(turn.ending).toMatchObject({ state: 'failed' });
      expect(log.at(-1)).toBe('upstream.ended false');
    });

    it('A refusal of the anchor as a terminal is handled like an error frame', () => {
      const failure = end('r', { error: refusal.error }, 'response.failed');
      const { turn } = turnOf(anchored);
      read(created('r'), turn);
      log.length = 0;
      read(failure, turn);
      expect([log, turn.ending]).toEqual([['closed 1000', 'socket.lost 1 true'], null]);
      creates = 2;
      read(failure, turn);
      expect(turn.ending).toMatchObject({ state: 'failed', terminal: { type: 'response.failed' } });
    });

    it.each<[string, Record<string, unknown>, object]>([
      ['the whole context was sent', { wire: { form: 'full' }, parent: { id: 't' } }, refusal],
      ['nothing was sent yet', { wire: null, parent: { id: 't' } }, refusal],
      ['the anchor is unknown here', { wire: { form: 'delta' }, parent: null }, refusal],
      ['something else is refused', anchored, error('invalid_prompt')],
    ])('A refusal of the anchor is relayed to the client when %s', (_, over, frame) => {
      const { turn } = turnOf(over);
      read(frame, turn);
      expect([log, turn.ending]).toEqual([['upstream.ended true'], expect.objectContaining({ state: 'failed' })]);
    });
  });
});

describe('frames that are no progress', () => {
  it('Telemetry is relayed beside the stream, and begins no turn', () => {
    const { turn, shown } = turnOf();
    const text = '{"type":"codex.rate_limits", "n": 1}';
    read(text, turn);
    expect(shown).toEqual([{ type: 'codex.rate_limits', json: text, telemetry: true }]);
    expect([signals, log, touched, turn.times.firstEvent]).toEqual([[['codex.rate_limits', true]], [], 0, null]);
  });

  it('A turn state of the provider is kept, and only the fields beside it are shown', () => {
    const { turn, shown } = turnOf();
    read({ type: 'response.metadata', headers: { 'X-Codex-Turn-State': 's', 'openai-model': 'm' } }, turn);
    expect(shown).toEqual([
      {
        type: 'response.metadata',
        json: '{"type":"response.metadata","headers":{"openai-model":"m"}}',
        telemetry: true,
      },
    ]);
    read({ type: 'response.metadata', headers: { 'x-codex-turn-state': 't' } }, turn);
    expect(shown).toHaveLength(1);
    expect(log).toEqual(['state s', 'state t']);
    expect(signals).toHaveLength(2);
  });

  it('The head of an HTTP answer is a signal and is not shown', () => {
    const { turn, shown } = turnOf();
    read({ type: 'holdfast.answer_head', headers: { a: 'b' } }, turn);
    expect([shown, signals, log]).toEqual([[], [['holdfast.answer_head', true]], []]);
  });

  it('An unreadable frame is no progress', () => {
    const { turn, shown } = turnOf();
    read('{"type":"response.', turn);
    expect([shown, signals, log, turn.ending]).toEqual([[], [], [], null]);
  });

  it('Without a turn neither telemetry nor an event has any effect', () => {
    for (const frame of [created('r'), delta(), end('r'), '{']) read(frame, null);
    expect([signals, log]).toEqual([[], []]);
    read({ type: 'codex.rate_limits' }, null);
    expect(signals).toEqual([['codex.rate_limits', false]]);
  });
});
