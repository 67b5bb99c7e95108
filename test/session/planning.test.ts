import { describe, expect, it } from 'vitest';
import type { TurnQueue } from '../../src/session/core.ts';
import { anchorStored, isRelated, place, planFor } from '../../src/session/planning.ts';
import type { Turn } from '../../src/session/turn.ts';
import type { TurnRow } from '../../src/store/port.ts';
import { formsOf, type Line } from '../../src/transcript/items.ts';
import { readRequest } from '../../src/transcript/read.ts';
import type { Item } from '../../src/transcript/types.ts';
import { evidence, toHead, turnRow } from '../resolve/support.ts';

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
