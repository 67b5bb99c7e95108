import { describe, expect, it } from 'vitest';
import type { TurnQueue } from '../../src/session/core.ts';
import {
  anchorStored,
  canSendFull,
  forgetFrame,
  frameOf,
  isRelated,
  itemsOf,
  loadContents,
  loadHistory,
  madeBy,
  mayResend,
  place,
  planFor,
  referencesTo,
  storedInput,
} from '../../src/session/planning.ts';
import type { Turn } from '../../src/session/turn.ts';
import type { SessionReads, TurnItems, TurnRow } from '../../src/store/port.ts';
import { formsOf, type Line } from '../../src/transcript/items.ts';
import { MOST_NAMES } from '../../src/transcript/provider-ids.ts';
import { readRequest } from '../../src/transcript/read.ts';
import type { Item } from '../../src/transcript/types.ts';
import { evidence, SCOPE, toHead, turnRow } from '../resolve/support.ts';

const text = '{"model":"m","input":"more"}';
const request = readRequest(JSON.parse(text), text, text.length);

/** Returns an anchored turn as far as placement uses it; its parent is stored at the provider. */
function turnOf(over: object = {}): Turn {
  return {
    evidence: evidence(toHead),
    request,
    items: request.items,
    parent: turnRow('t2', { storedUpstream: true }),
    expectedHead: 't2',
    continuation: { kind: 'anchored', items: [] },
    anchorRefused: false,
    history: ['{"type":"message","role":"user","content":"one"}'],
    contents: new Map(),
    ...over,
  } as unknown as Turn;
}

describe('an anchor that the provider stores', () => {
  it('A stored anchor can be used on any socket', () => {
    expect(anchorStored(turnOf())).toBe(true);
  });

  it.each<[string, object]>([
    ['it was made with another credential', { evidence: evidence({ ...toHead, credentialFp: 'another' }) }],
    ['it was not stored', { parent: turnRow('t2') }],
    ['the provider refused it', { anchorRefused: true }],
    ['it is not known here', { parent: null }],
  ])('A stored anchor cannot be used when %s', (_, over) => {
    expect(anchorStored(turnOf(over))).toBe(false);
    if ('parent' in over && over.parent === null) return;
    expect(planFor(turnOf(over), null)).toMatchObject({ form: 'full' });
    expect(planFor(turnOf({ ...over, history: null }), null)).toMatchObject({ form: 'impossible' });
  });
});

it('A socket that holds an equal id of another turn does not hold the anchor', () => {
  const unstored = { parent: turnRow('t2'), expectedHead: 't3' };
  expect(planFor(turnOf(unstored), 'resp_t2')).toMatchObject({ form: 'full' });
});

const user = (content: string): Item => ({ type: 'message', role: 'user', content });
const said = (content: string): Item => ({ type: 'message', role: 'assistant', content });

function asking(items: readonly Item[], over: Parameters<typeof evidence>[0] = {}, more: object = {}): Turn {
  const text = JSON.stringify({ model: 'm', input: items });
  const read = readRequest(JSON.parse(text), text, text.length, { whole: true });
  return {
    evidence: evidence(over),
    request: read,
    items: read.items,
    anchor: null,
    ancestor: null,
    parent: null,
    parentLine: null,
    expectedHead: 'unset',
    continuation: null,
    anchorRefused: false,
    history: null,
    contents: new Map(),
    ...more,
  } as unknown as Turn;
}

function lineAfter(
  turnId: string,
  asked: readonly Item[],
  answered: readonly Item[],
  parent: Line | null = null,
): Line {
  const { items } = asking(asked);
  return { turnId, forms: formsOf({ input: items.list, streamed: answered, listed: null }), parent };
}

/** Returns a lane with this head. */
const laneOf = (head: TurnRow | null, line: Line | null) => ({ headId: head?.id ?? null, head, line });

describe('a head whose row cannot be read', () => {
  const lane = { headId: 'gone', head: null, line: null };

  it('An unreadable head is the expected head of the start, so that the next head replaces it', () => {
    const turn = turnOf({ evidence: evidence() });
    expect(place(turn, lane)).toBe(true);
    expect(turn).toMatchObject({ expectedHead: 'gone', parent: null });
    expect(planFor(turn, 'resp_gone')).toMatchObject({ form: 'full' });
  });

  it('An unreadable head is not matched by an anchor', () => {
    expect(place(turnOf({ anchor: turnRow('t2') }), lane)).toBe(false);
  });
});

describe('a turn that is admitted to a lane', () => {
  const first = lineAfter('t1', [user('one')], [said('1')]);
  const second = lineAfter('t2', [user('two')], [said('2')], first);
  const whole = [user('one'), said('1'), user('two'), said('2'), user('three')];

  it('An admitted turn continues the head whose items it begins with, and adds the rest', () => {
    const turn = asking(whole);
    expect(place(turn, laneOf(turnRow('t2'), second))).toBe(true);
    expect([turn.parent?.id, turn.expectedHead, turn.parentLine]).toEqual(['t2', 't2', second]);
    expect(turn.continuation).toMatchObject({ kind: 'extends', deltaAllowed: true, items: [{ value: user('three') }] });
    expect(planFor(turn, 'resp_t2')).toMatchObject({ form: 'delta', previousResponseId: 'resp_t2', items: 1 });
    expect(planFor(turn, null)).toMatchObject({ form: 'full', items: 5 });
  });

  it('An admitted turn is a root where nothing shows what it continues', () => {
    for (const [head, line] of [
      [null, null],
      [turnRow('t2'), null],
      [turnRow('t2'), lineAfter('t2', [user('other')], [said('2')])],
    ] as const) {
      const turn = asking(whole);
      expect(place(turn, laneOf(head, line))).toBe(true);
      expect([turn.parent, turn.parentLine, turn.expectedHead]).toEqual([null, null, head?.id ?? null]);
      expect(turn.continuation).toMatchObject({ kind: 'root' });
      expect(planFor(turn, 'resp_t2')).toMatchObject({ form: 'full', items: 5 });
    }
  });

  it('An admitted turn continues a known ancestor elsewhere only if that is deeper than the head', () => {
    const deeper = { row: turnRow('t2'), line: second };
    const shallower = { row: turnRow('t1'), line: first };
    const apart = asking(whole, {}, { ancestor: deeper });
    place(apart, laneOf(turnRow('t1'), first));
    expect([apart.parent?.id, apart.expectedHead, apart.parentLine]).toEqual(['t2', 't1', second]);
    // The socket holds the head, not this ancestor.
    expect(planFor(apart, 'resp_t2')).toMatchObject({ form: 'full' });
    const own = asking(whole, {}, { ancestor: shallower });
    place(own, laneOf(turnRow('t2'), second));
    expect([own.parent?.id, own.parentLine]).toEqual(['t2', second]);
    const equal = asking(whole, {}, { ancestor: { row: turnRow('copy'), line: second } });
    place(equal, laneOf(turnRow('t2'), second));
    expect(equal.parent?.id).toBe('t2');
  });

  it('An admitted turn is sent whole if a context field changed or the head has no response id', () => {
    for (const over of [{ contextFp: 'changed' }, { responseId: null }]) {
      const turn = asking(whole);
      place(turn, laneOf(turnRow('t2', over), second));
      expect(turn.continuation).toMatchObject({ kind: 'extends', deltaAllowed: false });
      expect(planFor(turn, 'resp_t2')).toMatchObject({ form: 'full' });
    }
  });

  it('An admitted turn with an anchor continues it, and is resolved again if it is not the head', () => {
    const anchored = (anchor: object | null) => asking([user('more')], toHead, { anchor });
    const atHead = anchored(turnRow('t2'));
    expect(place(atHead, laneOf(turnRow('t2'), null))).toBe(true);
    expect([atHead.parent?.id, atHead.continuation?.kind]).toEqual(['t2', 'anchored']);
    expect(planFor(atHead, 'resp_t2')).toMatchObject({ form: 'delta', previousResponseId: 'resp_t2', items: 1 });
    expect(place(anchored(turnRow('t1')), laneOf(turnRow('t2'), second))).toBe(false);
    expect(place(anchored(turnRow('t1')), laneOf(null, null))).toBe(false);
  });

  it('An admitted turn with an anchor that only the provider can know passes it through', () => {
    const turn = asking([user('more')], toHead);
    expect(place(turn, laneOf(null, null))).toBe(true);
    expect(turn.parent).toBeNull();
    expect(planFor(turn, null)).toMatchObject({ form: 'delta', previousResponseId: 'resp_t2', items: 1 });
  });
});

describe('a request related to the conversation of a lane', () => {
  const lane = (over: object = {}) =>
    ({ current: null, undelivered: null, waiting: [], line: null, ...over }) as unknown as TurnQueue;
  const other = (over: Parameters<typeof evidence>[0] = {}, items = [user('quite'), user('other')]) =>
    asking(items, { requestFp: 'fp_other', clientTurnId: 'other', ...over });
  const asked = asking([user('one'), user('two')], { requestFp: 'fp_one', clientTurnId: 'turn' });

  it.each<[string, Turn]>([
    ['it repeats one', other({ requestFp: 'fp_one' })],
    ['it carries the turn id of one', other({ clientTurnId: 'turn' })],
    ['it extends one', other({}, [user('one')])],
    ['it is the beginning of one', other({}, [user('one'), user('two'), user('three')])],
  ])('A request is related to a lane with pending requests when %s', (_, one) => {
    expect(isRelated(asked, lane({ current: one }))).toBe(true);
    expect(isRelated(asked, lane({ undelivered: one }))).toBe(true);
    expect(isRelated(asked, lane({ current: other(), waiting: [other(), one] }))).toBe(true);
    expect(isRelated(asked, lane({ current: other(), undelivered: one }))).toBe(false);
  });

  it.each<[string, Turn]>([
    ['other items', other()],
    ['other items from the second on', other({}, [user('one'), user('2')])],
    ['no items', other({}, [])],
    ['an anchor before its items', other({ anchor: 'resp_t1' }, [user('one')])],
    ['no turn id', other({ clientTurnId: null })],
  ])('A request is not related to a lane whose pending one has %s', (_, one) => {
    expect(isRelated(asked, lane({ current: one }))).toBe(false);
    const nameless = asking([user('one'), user('two')], { requestFp: 'fp_one' });
    expect(isRelated(nameless, lane({ current: one }))).toBe(false);
  });

  it('A request is related to a lane when its items continue or end within the line', () => {
    const line = lineAfter('t1', [user('one'), user('two')], [said('2')]);
    expect(isRelated(asked, lane({ line }))).toBe(true);
    expect(isRelated(asking([user('one'), user('two'), said('2'), user('3')]), lane({ line }))).toBe(true);
    expect(isRelated(asking([user('other')]), lane({ line }))).toBe(false);
    expect(isRelated(asked, lane())).toBe(false);
  });
});

describe('a turn whose socket was lost', () => {
  const lost = (body: object = {}, over: object = {}, stream: object = {}) =>
    ({
      request: { body: { model: 'm', ...body }, hostedTools: false },
      sawOutput: false,
      stream: { shown: false, finished: false, ...stream },
      ...over,
    }) as unknown as Turn;

  it('A lost turn without any effect is sent once more', () => {
    expect(mayResend(lost())).toBe(true);
    expect(mayResend(lost({ conversation: null, background: false }))).toBe(true);
  });

  it.each<[string, Turn]>([
    ['uses a conversation at the provider', lost({ conversation: 'conv_1' })],
    ['runs in the background at the provider', lost({ background: true })],
    ['may have used a hosted tool', lost({}, { request: { body: {}, hostedTools: true } })],
  ])('A lost turn is sent once more only if the provider did not take it, when it %s', (_, turn) => {
    expect(mayResend(turn)).toBe(false);
    expect(mayResend(turn, true)).toBe(true);
  });

  it.each<[string, Turn]>([
    ['the provider sent output', lost({}, { sawOutput: true })],
    ['the client was shown something', lost({}, {}, { shown: true })],
    ['the client was answered', lost({}, {}, { finished: true })],
  ])('A lost turn is not sent again after %s', (_, turn) => {
    expect(mayResend(turn)).toBe(false);
    expect(mayResend(turn, true)).toBe(false);
  });
});

describe('the whole context of a turn', () => {
  it.each<[boolean, string, object]>([
    [
      true,
      'the client sent it',
      { continuation: { kind: 'extends' }, history: null, parent: turnRow('t2', { replay: 'never' }) },
    ],
    [true, 'it is not placed yet', { continuation: null, history: null, parent: turnRow('t2', { replay: 'never' }) }],
    [true, 'only the provider knows the anchor', { parent: null, history: null }],
    [true, 'it was loaded', { parent: turnRow('t2', { replay: 'anchor_only' }) }],
    [true, 'its lineage is exact', { parent: turnRow('t2', { replay: 'exact' }), history: null }],
    [false, 'its lineage is not exact', { parent: turnRow('t2', { replay: 'anchor_only' }), history: null }],
  ])('The whole context can be sent: %s, when %s', (can, _, over) => {
    expect(canSendFull(turnOf(over))).toBe(can);
  });
});

describe('encrypted reasoning', () => {
  const composed = (body: object) => {
    const text = JSON.stringify({ model: 'gpt-5', store: false, input: 'x', ...body });
    const continuation = { kind: 'root', items: [] };
    const turn = turnOf({
      request: readRequest(JSON.parse(text), text, text.length),
      continuation,
      hideEncrypted: null,
    });
    const { frame } = frameOf(turn, null, null);
    return { include: JSON.parse(frame!).include, hidden: turn.hideEncrypted };
  };
  const ENCRYPTED = 'reasoning.encrypted_content';

  it.each<[string, object]>([
    ['gpt-5', {}],
    ['gpt-9-mini', { model: 'gpt-9-mini' }],
    ['o1', { model: 'o1' }],
    ['o3-mini', { model: 'o3-mini' }],
    ['codex-mini-latest', { model: 'codex-mini-latest' }],
    ['a model that the request asks to reason', { model: 'other', reasoning: { effort: 'low' } }],
  ])('Encrypted reasoning of an unstored turn is requested and hidden: %s', (_, body) => {
    expect(composed(body)).toEqual({ include: [ENCRYPTED], hidden: true });
  });

  it.each<[string, object]>([
    ['the provider stores the response', { store: true }],
    ['the provider stores the response by default', { store: undefined }],
    ['the model does not reason', { model: 'gpt-4.1' }],
    ['the model has a number of another kind', { model: 'my-o1' }],
    ['the model is made for chats', { model: 'gpt-5-chat-latest' }],
    ['the model is unknown and reasoning is null', { model: 'other', reasoning: null }],
    ['no model is named', { model: undefined }],
  ])('Encrypted reasoning is not requested when %s', (_, body) => {
    expect(composed(body)).toEqual({ include: undefined, hidden: false });
  });

  it('Encrypted reasoning that the client requested is not hidden from it', () => {
    expect(composed({ include: ['x'] })).toEqual({ include: ['x', ENCRYPTED], hidden: true });
    expect(composed({ include: [ENCRYPTED] })).toEqual({ include: [ENCRYPTED], hidden: false });
  });
});

describe('the frame of a turn', () => {
  const delta = () => turnOf({ parent: turnRow('t2', { responseId: 'resp_2' }) });

  it('A turn without a way to send it has no frame', () => {
    const { wire, frame } = frameOf(turnOf({ parent: turnRow('t2'), history: null }), null, null);
    expect([wire.form, frame]).toEqual(['impossible', null]);
  });

  it('A frame that was composed before is returned as long as nothing has changed', () => {
    const turn = delta();
    const first = frameOf(turn, 'resp_2', 'state');
    expect(first.wire.form).toBe('delta');
    expect(JSON.parse(first.frame!)).toMatchObject({ previous_response_id: 'resp_2' });
    expect(first).toMatchObject({ bytes: Buffer.byteLength(first.frame!) });
    expect(frameOf(turn, 'resp_2', 'state').wire).toBe(first.wire);
    expect(planFor(turn, 'resp_2')).toBe(first.wire);
    forgetFrame(turn);
    expect(frameOf(turn, 'resp_2', 'state').wire).not.toBe(first.wire);
    expect(frameOf(turn, 'resp_2', 'state')).toEqual(first);
  });

  it.each<[string, (turn: Turn) => ReturnType<typeof frameOf>, object]>([
    ['the socket holds another response', (turn) => frameOf(turn, null, null), { form: 'full' }],
    [
      'the anchor was refused',
      (turn) => frameOf(Object.assign(turn, { anchorRefused: true, parent: turnRow('t2') }), 'resp_2', null),
      { form: 'full' },
    ],
    [
      'its history was loaded again',
      (turn) => frameOf(Object.assign(turn, { history: null }), null, null),
      { form: 'impossible' },
    ],
    [
      'it was placed elsewhere',
      (turn) => frameOf(Object.assign(turn, { continuation: { kind: 'root', items: [] } }), 'resp_2', null),
      { form: 'full' },
    ],
  ])('It is composed again when %s', (_, again, wire) => {
    const turn = delta();
    expect(frameOf(turn, 'resp_2', null).wire).toMatchObject({ form: 'delta' });
    expect(again(turn).wire).toMatchObject(wire);
  });

  it('It is composed again with another turn state of the provider', () => {
    const turn = delta();
    expect(frameOf(turn, 'resp_2', null).frame).not.toContain('client_metadata');
    expect(frameOf(turn, 'resp_2', 'sticky').frame).toContain('sticky');
    expect(frameOf(turn, 'resp_2', null).frame).not.toContain('client_metadata');
  });
});

const json = JSON.stringify;
const stored = (id: string, over: { turn?: Partial<TurnRow>; input?: string | null; output?: string | null } = {}) => {
  const { turn, input = json([user(`ask ${id}`)]), output = json([said(`answer ${id}`)]) } = over;
  return { turn: turnRow(id, turn), input, output } satisfies TurnItems;
};

/** A store in which each turn has a lineage; `reads` records what was read. */
function storeOf(lineages: Record<string, readonly TurnItems[]>) {
  const reads: [string, string][] = [];
  const lineage = async (scope: string, turnId: string) => {
    reads.push([scope, turnId]);
    return lineages[turnId] ?? [];
  };
  return { store: { lineage } as unknown as SessionReads, reads };
}

describe('the history of a line', () => {
  const second = stored('t2', { turn: { parentTurnId: 't1' } });

  it('The history of a line is the texts of its items from the root on, without the provider’s ids', () => {
    const output = '[{"type":"message", "id":"msg_1","role":"assistant","status":"completed","content":"1"}]';
    const items = itemsOf([stored('t1', { output }), second])!;
    expect(items.map((each) => JSON.parse(each))).toEqual([
      user('ask t1'),
      said('1'),
      user('ask t2'),
      said('answer t2'),
    ]);
    expect(items[0]).toBe(json(user('ask t1')));
  });

  it.each<[string, readonly TurnItems[]]>([
    ['there are no turns', []],
    ['its first turns are missing', [second]],
    ['an input is no longer stored', [stored('t1', { input: null }), second]],
    ['an output is no longer stored', [stored('t1'), { ...second, output: null }]],
    ['an output is no JSON', [stored('t1', { output: '[{' })]],
    ['an output is no list', [stored('t1', { output: '{}' })]],
    ['an output contains null', [stored('t1', { output: '[{},null]' })]],
    ['an output contains a list', [stored('t1', { output: '[[]]' })]],
    ['an output contains a text', [stored('t1', { output: '["x"]' })]],
    ['its end cannot be repeated exactly', [stored('t1', { turn: { replay: 'anchor_only' } })]],
  ])('The history of a line is unknown when %s', (_, turns) => {
    expect(itemsOf(turns)).toBeNull();
  });

  it('The history of a turn is that of its parent, read in its own scope', async () => {
    const { store, reads } = storeOf({ t2: [stored('t1'), second] });
    expect(await loadHistory(store, turnOf())).toHaveLength(4);
    expect(reads).toEqual([[SCOPE, 't2']]);
    expect(await loadHistory(store, turnOf({ parent: null }))).toBeNull();
    expect(reads).toHaveLength(1);
  });
});

describe('the contents of named items', () => {
  const call = (id: string, name = 'f') => ({ type: 'function_call', id, call_id: 'c', name, arguments: '{}' });
  const bare = (id: string, name = 'f') => json({ ...call(id, name), id: undefined });

  it('Contents are found in the inputs and outputs of the given lines, without the provider’s ids', async () => {
    const { store, reads } = storeOf({
      t1: [stored('t1', { input: json([call('a')]), output: json([call('b'), call('unasked')]) })],
      t2: [
        stored('t2', { input: null, output: json([call('c')]) }),
        stored('t3', { input: json([call('d')]), output: null }),
      ],
    });
    const contents = await loadContents(store, SCOPE, ['t1', 't2'], ['a', 'b', 'c', 'd', 'missing']);
    expect([...contents]).toEqual(['a', 'b', 'c', 'd'].map((id) => [id, bare(id)]));
    expect(reads).toEqual([
      [SCOPE, 't1'],
      [SCOPE, 't2'],
    ]);
  });

  it('An id has a content only if every item of that id has the same', async () => {
    const { store } = storeOf({
      t1: [stored('t1', { output: json([call('same'), call('other')]) })],
      t2: [stored('t2', { output: json([call('same'), call('other', 'g')]) })],
    });
    const contents = await loadContents(store, SCOPE, ['t1', 't2'], ['same', 'other']);
    expect([...contents]).toEqual([['same', bare('same')]]);
  });

  it('Items that only name their content, and damaged ones, have none', async () => {
    for (const output of [
      '[{"type":"item_reference","id":"a"}]',
      '[{"type":"reasoning","id":"a","summary":[]}]',
      '[null,"a",7,["a"]]',
      '[{"id":"a","type":"message",}]',
    ]) {
      const { store } = storeOf({ t1: [stored('t1', { output })] });
      expect([...(await loadContents(store, SCOPE, ['t1'], ['a']))], output).toEqual([]);
    }
  });
});

it('References are looked up in parts, and only as many as a request may name', async () => {
  const asked: [string, readonly string[]][] = [];
  const references = async (scope: string, ids: readonly string[]) => {
    asked.push([scope, ids]);
    return ids.slice(0, 1).map((itemId) => ({ itemId, turnId: 't1', storedUpstream: false, credentialFp: 'cred' }));
  };
  const ids = Array.from({ length: MOST_NAMES + 5 }, (_, nth) => `id_${nth}`);
  const rows = await referencesTo({ references }, SCOPE, ids);
  expect(asked.flatMap(([, each]) => each)).toEqual(ids.slice(0, MOST_NAMES));
  expect(Math.max(...asked.map(([, each]) => each.length))).toBe(1_000);
  expect(asked.every(([scope]) => scope === SCOPE)).toBe(true);
  expect(rows.map(({ itemId }) => itemId)).toEqual(asked.map(([, each]) => each[0]));
  expect(await referencesTo({ references }, SCOPE, [])).toEqual([]);
  expect(asked).toHaveLength(Math.ceil(MOST_NAMES / 1_000));
});

it('Objects of other calls are looked up in parts, and only those that no turn has made', async () => {
  const asked: [string, readonly string[]][] = [];
  const ownObjects = async (scope: string, ids: readonly string[]) => {
    asked.push([scope, ids]);
    return ids.slice(0, 1);
  };
  const ids = Array.from({ length: 2_001 }, (_, nth) => `id_${nth}`);
  const made = await madeBy({ ownObjects }, SCOPE, ids, [{ itemId: 'id_0' }]);
  expect(asked.map(([scope, each]) => [scope, each.length])).toEqual([
    [SCOPE, 1_000],
    [SCOPE, 1_000],
  ]);
  expect(asked.flatMap(([, each]) => each)).toEqual(ids.slice(1));
  expect([...made]).toEqual(['id_0', 'id_1', 'id_1001']);
  const many = Array.from({ length: MOST_NAMES + 5 }, (_, nth) => `id_${nth}`);
  asked.length = 0;
  await madeBy({ ownObjects }, SCOPE, many, []);
  expect(asked.flatMap(([, each]) => each)).toEqual(many.slice(0, MOST_NAMES));
});

describe('the stored input of a response', () => {
  const first = stored('t1');
  const second = stored('t2', { turn: { parentTurnId: 't1' } });
  const inputOf = async (line: readonly TurnItems[], over: Partial<TurnRow> | null = {}) => {
    const { store } = storeOf({ t2: line });
    const anchor = over === null ? null : { turn: turnRow('t2', { parentTurnId: 't1', ...over }) };
    const lookup = async () => ({ anchor });
    const asked = { scope: SCOPE, credentialFp: 'cred', responseId: 'resp_t2' };
    return storedInput({ ...store, lookup } as unknown as SessionReads, asked);
  };
  const whole = [user('ask t1'), said('answer t1'), user('ask t2')].map((item) => json(item));

  it('It is everything before the output of the response, from the root of its line', async () => {
    expect(await inputOf([first, second])).toEqual(whole);
  });

  it('It is what the provider lists where that stores the response under the same credential', async () => {
    expect(await inputOf([first, second], { storedUpstream: true })).toBeNull();
    expect(await inputOf([first, second], { storedUpstream: true, credentialFp: 'other' })).toEqual(whole);
    expect(await inputOf([first, second], { credentialFp: 'other' })).toEqual(whole);
  });

  it.each<[string, readonly TurnItems[], null?]>([
    ['the response is unknown', [first, second], null],
    ['the line is not stored', []],
    ['the line does not begin at its root', [second]],
    ['the input of a turn is gone', [stored('t1', { input: null }), second]],
    ['the output of a turn is gone', [stored('t1', { output: null }), second]],
  ])('It is unknown if %s', async (_, line, known) => {
    expect(await inputOf(line, known === null ? null : {})).toBeNull();
  });
});
