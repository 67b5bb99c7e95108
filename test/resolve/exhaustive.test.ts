import { beforeAll, describe, expect, it } from 'vitest';
import { explain, rows } from '../../src/resolve/table.ts';
import type { Decision, Evidence } from '../../src/resolve/types.ts';
import { type Case, cases } from './cases.ts';
import { OTHER, SCOPE } from './support.ts';

type Check = (c: Case, decision: Decision) => boolean | null;

const anchorIn = ({ evidence: { anchor }, facts: { rows } }: Case) =>
  anchor !== null && rows.anchor?.turn.scope === SCOPE ? rows.anchor.turn : null;
const isUnknown = (c: Case) => c.evidence.anchor !== null && anchorIn(c) === null;
const answerable = (c: Case) => {
  const turn = anchorIn(c);
  if (turn?.state !== 'completed') return false;
  return c.facts.anchorExact === true || (turn.storedUpstream && turn.credentialFp === c.evidence.credentialFp);
};
/** Returns the sessions for which the request has hard evidence, the strongest last. */
const provenSessions = ({ evidence, facts: { rows, apart } }: Case) => {
  const { token } = evidence;
  const proven = [rows.anchor?.session, evidence.hardKey && !apart ? rows.keyed : null];
  if (token.kind === 'ours' && rows.token?.epoch === token.epoch) proven.push(rows.token);
  return proven.flatMap((session) => (session ? [session.id] : []));
};

const invariants: Record<string, Check> = {
  'an invalid token opens nothing, and only it is reported': ({ evidence }, d) =>
    (evidence.token.kind === 'invalid') === (d.do === 'refuse' && d.outcome === 'token_invalid'),

  'an anchored request gets no parent but its anchor': (c, d) => {
    if (c.evidence.anchor === null) return true;
    const turn = anchorIn(c);
    if (d.do === 'create') return d.parent === turn;
    if (d.do === 'use' || d.do === 'claim') return turn !== null && d.anchor === turn;
    if (d.do === 'reattach') return c.facts.local.get(d.sessionId)?.activeParentTurnId === turn?.id;
    return d.do !== 'supersede';
  },

  'an anchored request continues a session at its head only': (c, d) => {
    const turn = anchorIn(c);
    if (!turn) return true;
    if (d.do === 'use') return c.session.id === d.sessionId && c.session.headTurnId === turn.id;
    return d.do !== 'claim' || d.session.headTurnId === turn.id;
  },

  'an anchor is answered exactly or not at all': (c, d) => {
    if (!anchorIn(c) || !['create', 'claim', 'use'].includes(d.do)) return true;
    if (answerable(c)) return true;
    const socket = d.do === 'use' ? c.facts.local.get(d.sessionId) : undefined;
    return c.evidence.passThrough === null && socket?.socketAnchor === c.evidence.anchor;
  },

  'a lost head is never continued by its anchor': (c, d) =>
    c.facts.rows.anchor?.session?.anchorLost !== true ||
    anchorIn(c)?.id !== c.session.headTurnId ||
    !('anchor' in d || 'parent' in d),

  'an unknown anchor goes upstream under the own credential only, unchanged and without keys': (c, d) => {
    if (!isUnknown(c)) return true;
    if (d.do === 'create') return c.evidence.credentialIsClients && d.parent === null && d.keys.length === 0;
    return ['refuse', 'queue', 'forward', 'await_owner'].includes(d.do);
  },

  'a request without an anchor is given none': (c, d) =>
    c.evidence.anchor !== null || !('anchor' in d) || d.anchor === null,

  'forks, lanes and sessions for anchors carry no keys; others only the one hard key, when it has no session': (
    c,
    d,
  ) => {
    if (d.do !== 'create' || d.keys.length === 0) return true;
    const isNew = c.evidence.anchor === null && c.facts.rows.keyed === null;
    return isNew && d.outcome !== 'forked' && d.outcome !== 'parallel_lane' && d.keys[0] === c.evidence.hardKey;
  },

  'a session is used only through an actor of its epoch, owned here': (c, d) => {
    if (!['use', 'queue', 'reattach', 'supersede'].includes(d.do) || !('sessionId' in d)) return true;
    if (d.do === 'queue' && isUnknown(c)) return c.facts.local.has(d.sessionId);
    return c.owner === 'me' && c.facts.local.get(d.sessionId)?.epoch === d.epoch && d.epoch === c.session.epoch;
  },

  'a busy session is claimed from no worker that may be alive': (c, d) => {
    if (d.do !== 'claim' || d.session.activeTurnId === null) return true;
    return c.owner === 'me' || c.owner === 'dead';
  },

  'an idle session is claimed from no worker that can be asked, nor from one that is merely late': (c, d) =>
    d.do !== 'claim' || !['alive', 'expired', 'missing'].includes(c.owner),

  'a session with a live actor here is never claimed': (c, d) => {
    const live = d.do === 'claim' && c.owner === 'me' ? c.facts.local.get(d.session.id) : undefined;
    return !live || live.epoch !== c.session.epoch || live.state === 'stale';
  },

  'an own orphan is named as one': (c, d) =>
    d.do !== 'claim' || d.ownOrphan === (c.owner === 'me' && d.session.activeTurnId !== null),

  'a transcript that is only like the request is never its parent, and lends a free socket at its head': (c, d) => {
    const { like } = c.facts;
    if (!like || like.exact) return true;
    if (d.do === 'create') return d.parent !== like.turn;
    if (provenSessions(c).length > 0 || d.do !== 'use') return true;
    return like.turn.id === c.session.headTurnId && c.facts.local.get(d.sessionId)?.busy === false;
  },

  'the session of a header that holds another conversation is left alone, and keeps its key': (c, d) => {
    if (!c.facts.apart) return true;
    if (d.do === 'create') return d.keys.length === 0;
    const id = 'sessionId' in d ? d.sessionId : 'session' in d ? d.session.id : null;
    return id !== c.facts.rows.keyed?.id || c.evidence.token.kind === 'ours';
  },

  'nothing crosses scopes': (_, d) => {
    const named: ({ scope: string } | null)[] = [];
    if (d.do === 'create') named.push(d.parent);
    if (d.do === 'use' || d.do === 'claim') named.push(d.anchor);
    if (d.do === 'claim' || d.do === 'forward' || d.do === 'await_owner') named.push(d.session);
    return named.every((row) => row === null || row.scope === SCOPE);
  },

  'a running turn is taken up or cancelled by hard evidence only, and never under its reader': (c, d) => {
    if (d.do !== 'reattach' && d.do !== 'supersede') return true;
    const running = c.facts.local.get(d.sessionId);
    return running?.clientAttached === false && provenSessions(c).includes(d.sessionId);
  },

  'a stream is shared by equal requests only, from its first event': (c, d) => {
    const running = d.do === 'reattach' ? c.facts.local.get(d.sessionId) : null;
    return !running || (running.activeRequestFp === c.evidence.requestFp && running.bufferComplete);
  },

  'the same request takes up the stream it could, and starts no second generation': (c, d) => {
    const { evidence, facts } = c;
    const running = facts.local.get('s');
    if (c.owner !== 'me' || running?.epoch !== 4 || running.activeRequestFp !== evidence.requestFp) return true;
    if (running.clientAttached || !running.bufferComplete) return true;
    const parent = anchorIn(c);
    const meant =
      evidence.anchor === null ? provenSessions(c).at(-1) === 's' : parent?.id === running.activeParentTurnId;
    const found = evidence.anchor === null || facts.rows.anchor?.session?.state !== 'closed';
    return (
      !meant || !found || (parent && facts.rows.anchor?.session === null) || d.do === 'reattach' || d.do === 'refuse'
    );
  },

  'requests are forwarded to a worker that can be asked, under that policy': (c, d) =>
    d.do !== 'forward' || (c.owner === 'alive' && c.facts.instancePolicy === 'forward' && d.workerId === OTHER),

  'a refusal for the wrong instance says how long the lease still runs': (_, d) =>
    d.do !== 'refuse' || d.outcome !== 'wrong_instance' || d.retryAfterSeconds === 8,

  'only the death of another worker that may be alive is waited for': (c, d) =>
    d.do !== 'await_owner' || ['unreachable', 'denies', 'expired', 'missing'].includes(c.owner),

  'a request over plain HTTP is marked as such wherever a session serves it': ({ evidence }, d) => {
    const serves = d.do === 'create' || d.do === 'use' || d.do === 'claim';
    return !serves || (d.outcome === 'passed_through') === (evidence.passThrough !== null);
  },

  'a conversation of the provider never goes out under a shared credential': ({ evidence }, d) =>
    evidence.passThrough !== 'conversation' || evidence.credentialIsClients || d.do === 'refuse',

  'weaker evidence never changes what a known anchor gets': (c, d) => {
    if (!anchorIn(c) || c.evidence.token.kind === 'invalid') return true;
    const alone: Evidence = { ...c.evidence, token: { kind: 'none' }, hardKey: null };
    return JSON.stringify(explain(alone, c.facts).decision) === JSON.stringify(d);
  },

  'a token of an older epoch is as good as none': (c, d) => {
    const { token } = c.evidence;
    if (token.kind !== 'ours' || token.epoch === 4) return true;
    const without: Evidence = { ...c.evidence, token: { kind: 'none' } };
    return JSON.stringify(explain(without, c.facts).decision) === JSON.stringify(d);
  },
};

describe('every combination of evidence, rows, liveness, attempts and policy', () => {
  const violations = new Map<string, string>();
  const reached = new Map<string, number>();
  const done = new Map<string, number>();
  let count = 0;

  beforeAll(() => {
    for (const each of cases()) {
      count += 1;
      const { row, decision } = explain(each.evidence, each.facts);
      reached.set(row.id, (reached.get(row.id) ?? 0) + 1);
      done.set(decision.do, (done.get(decision.do) ?? 0) + 1);
      for (const [name, holds] of Object.entries(invariants)) {
        if (violations.has(name) || holds(each, decision)) continue;
        const { evidence, facts, session, owner } = each;
        const world = { ...facts, rows: facts.rows.anchor, local: [...facts.local.values()] };
        violations.set(name, JSON.stringify({ row: row.id, decision, evidence, session, owner, world }, null, 1));
      }
    }
  });

  it('Every combination is decided, and all kinds of decision and all rows occur except the four with tests of their own', () => {
    expect(count).toBeGreaterThan(100_000);
    expect([...done.keys()].sort()).toEqual(
      ['await_owner', 'claim', 'create', 'forward', 'queue', 'reattach', 'refuse', 'supersede', 'use'].sort(),
    );
    expect(rows.map(({ id }) => id).filter((id) => !reached.has(id))).toEqual([
      'same_idempotency_key',
      'repeat_unread',
      'repeat_elsewhere',
      'foreign_object',
    ]);
  });

  it.each(Object.keys(invariants))('Invariant over all combinations: %s', (name) => {
    expect(violations.get(name)).toBeUndefined();
  });

  it('A decision does not modify its input', () => {
    let at = 0;
    for (const { evidence, facts } of cases()) {
      if (at++ % 997 !== 0) continue;
      const before = structuredClone({ evidence, facts });
      explain(evidence, facts);
      expect({ evidence, facts }).toEqual(before);
    }
  });
});
