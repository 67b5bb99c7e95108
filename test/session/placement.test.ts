import { describe, expect, it } from 'vitest';
import { anchorStored, place, planFor } from '../../src/session/placement.ts';
import type { Turn } from '../../src/session/turn.ts';
import { readRequest } from '../../src/transcript/read.ts';
import { evidence, toHead, turnRow } from '../resolve/support.ts';

const text = '{"model":"m","input":"more"}';
const request = readRequest(JSON.parse(text), text, text.length);

/** An anchored turn on its way, as far as placing it goes; its parent is stored at the provider. */
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

describe('an anchor that the provider keeps', () => {
  it('can be named on any socket', () => {
    expect(anchorStored(turnOf())).toBe(true);
  });

  it.each<[string, object]>([
    ['it was made with another credential', { evidence: evidence({ ...toHead, credentialFp: 'another' }) }],
    ['it was not stored', { parent: turnRow('t2') }],
    ['the provider refused it', { anchorRefused: true }],
    ['it is not known here', { parent: null }],
  ])('cannot be named when %s', (_, over) => {
    expect(anchorStored(turnOf(over))).toBe(false);
    if ('parent' in over && over.parent === null) return;
    expect(planFor(turnOf(over), null)).toMatchObject({ form: 'full' });
    expect(planFor(turnOf({ ...over, history: null }), null)).toMatchObject({ form: 'impossible' });
  });
});

describe('a head that cannot be read', () => {
  const lane = { headId: 'gone', head: null, line: null };

  it('is what the start expects, so that the next head takes its place', () => {
    const turn = turnOf({ evidence: evidence() });
    expect(place(turn, lane)).toBe(true);
    expect(turn).toMatchObject({ expectedHead: 'gone', parent: null });
    expect(planFor(turn, 'resp_gone')).toMatchObject({ form: 'full' });
  });

  it('is not what an anchor names', () => {
    expect(place(turnOf({ anchor: turnRow('t2') }), lane)).toBe(false);
  });
});

it('a socket that holds an equal id of another turn does not hold the anchor', () => {
  const unstored = { parent: turnRow('t2'), expectedHead: 't3' };
  expect(planFor(turnOf(unstored), 'resp_t2')).toMatchObject({ form: 'full' });
});
