import { describe, expect, it } from 'vitest';
import { rows } from '../../src/resolve/table.ts';
import type { Evidence, LocalSession } from '../../src/resolve/types.ts';
import {
  actor,
  at,
  decide,
  expired,
  header,
  key,
  unreachable as lost,
  ME,
  mine,
  OTHER,
  ours,
  sessionRow,
  streaming,
  t1,
  t2,
  theirs,
  toHead,
  toOlder,
  turnRow,
  type World,
  worker,
} from './support.ts';

describe('the token', () => {
  it('An invalid token is refused whatever other evidence there is', () => {
    const asked = { token: { kind: 'invalid', reason: 'signature' }, hardKey: key, passThrough: 'background' } as const;
    expect(decide(asked, { keyed: sessionRow() })).toEqual({
      row: 'token_invalid',
      do: 'refuse',
      outcome: 'token_invalid',
      code: 'bridge_token_invalid',
    });
  });

  it('A token finds its session at its epoch, and nothing at an older epoch', () => {
    expect(decide({ token: ours }, { token: sessionRow() })).toMatchObject({ row: 'stale_recovery', do: 'claim' });
    expect(decide({ token: { ...ours, epoch: 3 } }, { token: sessionRow() }).row).toBe('created');
    expect(decide({ token: ours }, { token: null }).row).toBe('created');
  });

  it('A token is stronger than the hard key', () => {
    const world = { token: sessionRow(), keyed: sessionRow({ id: 'keyed' }) };
    expect(decide({ token: ours, hardKey: key }, world)).toMatchObject({ do: 'claim', session: { id: 's' } });
    const old = { ...ours, epoch: 3 };
    expect(decide({ token: old, hardKey: key }, world)).toMatchObject({ do: 'claim', session: { id: 'keyed' } });
  });

  it('A token of another system leaves the decision to the other evidence', () => {
    const token = { kind: 'ignored', reason: 'foreign' } as const;
    expect(decide({ token, hardKey: key }, { keyed: sessionRow() }).row).toBe('stale_recovery');
  });
});

describe('no evidence', () => {
  it('Without evidence a session is created under the one hard key', () => {
    expect(decide({})).toEqual({ row: 'created', do: 'create', outcome: 'created', keys: [], parent: null });
    expect(decide({ hardKey: key })).toMatchObject({ row: 'created', keys: [key] });
  });

  it('A closed session and one of another scope are no evidence', () => {
    expect(decide({ hardKey: key }, { keyed: sessionRow({ state: 'closed' }) }).row).toBe('created');
    expect(decide({ hardKey: key }, { keyed: sessionRow({ scope: 'globex' }) }).row).toBe('created');
    const foreign = at(turnRow('t2', { scope: 'globex' }), sessionRow({ scope: 'globex' }));
    expect(decide(toHead, { anchor: foreign }).row).toBe('anchor_unknown_shared_credential');
  });
});

describe('an unknown anchor', () => {
  it('An unknown anchor goes upstream unchanged under the client’s own credential, in a session without keys', () => {
    const asked = { ...toHead, hardKey: key, credentialIsClients: true };
    expect(decide(asked, { keyed: sessionRow() })).toEqual({
      row: 'anchor_unknown_own_credential',
      do: 'create',
      outcome: 'created',
      keys: [],
      parent: null,
    });
    expect(decide({ ...asked, passThrough: 'background' })).toMatchObject({ outcome: 'passed_through', keys: [] });
  });

  it('An unknown anchor fails closed under a shared credential, over plain HTTP too', () => {
    expect(decide({ ...toHead, hardKey: key }, { keyed: sessionRow() })).toMatchObject(expired);
    expect(decide({ ...toHead, passThrough: 'no_websocket' })).toMatchObject(expired);
  });

  it('An unknown anchor waits for a settle that may record it, in its own scope only', () => {
    const settling = actor({ state: 'live.settling', busy: true, unsettledResponseIds: ['resp_t2'] });
    const queued = { row: 'anchor_unsettled', do: 'queue', sessionId: 's', epoch: 4 };
    expect(decide(toHead, { local: [settling] })).toMatchObject(queued);
    expect(decide(toHead, { local: [{ ...settling, scope: 'globex' }] })).toMatchObject(expired);
    expect(decide(toHead, { local: [{ ...settling, queueFull: true }] })).toMatchObject({
      do: 'refuse',
      outcome: 'refused',
      code: 'bridge_queue_full',
    });
    expect(decide({ ...toHead, hardKey: key }, { local: [settling], keyed: sessionRow(mine) })).toMatchObject(queued);
  });

  it('A known anchor does not wait for another session that is settling an equal id', () => {
    const settling = actor({ sessionId: 'second', busy: true, unsettledResponseIds: ['resp_t2'] });
    expect(decide(toHead, { anchor: at(t2, sessionRow(mine)), local: [actor(), settling] })).toMatchObject({
      row: 'live_reuse',
      sessionId: 's',
    });
  });

  it('An unknown anchor is not replaced by a turn that the items, the token or a running request could name', () => {
    const like = { turn: t1, session: sessionRow(mine), exact: true };
    expect(decide({ ...toHead, credentialIsClients: true }, { like })).toMatchObject({ do: 'create', parent: null });
    const running = streaming({ activeRequestFp: 'fp_new', activeParentTurnId: null, clientAttached: false });
    const token = sessionRow({ ...mine, activeTurnId: 't3' });
    expect(decide({ ...toHead, token: ours }, { token, local: [running], repeated: running })).toMatchObject(expired);
  });

  it('An unknown anchor is forwarded to the live worker at which its conversation is busy, then decided here', () => {
    const asked = { ...toHead, hardKey: key };
    const world = { keyed: sessionRow({ ...theirs, activeTurnId: 't3' }), owners: [worker()] };
    expect(decide(asked, world)).toMatchObject({ row: 'anchor_unknown_owner_busy', do: 'forward', workerId: OTHER });
    expect(decide(asked, { ...world, instancePolicy: 'reject' })).toMatchObject({ outcome: 'wrong_instance' });
    const waits = { row: 'anchor_unknown_owner_awaited', do: 'await_owner', workerId: OTHER };
    expect(decide(asked, { ...world, owners: [worker({ leaseLeftMs: -1 })] })).toMatchObject(waits);
    expect(decide(asked, { ...world, owners: [] })).toMatchObject(waits);
    expect(decide(asked, { ...world, attempts: [{ kind: 'unreachable', workerId: OTHER }] })).toMatchObject(waits);
    expect(decide(asked, { ...world, attempts: [{ kind: 'not_owner', sessionId: 's' }] })).toMatchObject(expired);
    for (const attempts of [[], [{ kind: 'unreachable', workerId: OTHER }] as const])
      expect(decide(asked, { ...world, attempts, keyed: sessionRow(theirs) })).toMatchObject(expired);
  });
});

describe('an anchor', () => {
  it('An anchor at the head continues on the socket that holds it, exact or not', () => {
    const world = { anchor: at(t2, sessionRow(mine)), local: [actor()] };
    expect(decide(toHead, world)).toEqual({
      row: 'live_reuse',
      do: 'use',
      outcome: 'live_reuse',
      sessionId: 's',
      epoch: 4,
      anchor: t2,
    });
  });

  it('An anchor that its socket lost needs an exact or stored context', () => {
    const world = { anchor: at(t2, sessionRow(mine)), local: [actor({ socketAnchor: null })] };
    expect(decide(toHead, world)).toMatchObject({ row: 'anchor_expired', ...expired });
    expect(decide(toHead, { ...world, anchorExact: true }).row).toBe('live_reuse');
    const stored = turnRow('t2', { storedUpstream: true });
    expect(decide(toHead, { ...world, anchor: at(stored, sessionRow(mine)) }).row).toBe('live_reuse');
    const otherCredential = { ...toHead, credentialFp: 'cred-2' };
    expect(decide(otherCredential, { ...world, anchor: at(stored, sessionRow(mine)) })).toMatchObject(expired);
  });

  it('An anchor without a live owner is recovered exactly or not at all', () => {
    const world = { anchor: at(t2, sessionRow()) };
    expect(decide(toHead, world)).toMatchObject({ row: 'anchor_expired', ...expired });
    expect(decide(toHead, { ...world, anchorExact: true })).toMatchObject({
      row: 'stale_recovery',
      do: 'claim',
      outcome: 'stale_recovery',
      anchor: t2,
      ownOrphan: false,
    });
  });

  it('An anchor at an older turn gets its own session without keys', () => {
    const world = { anchor: at(t1, sessionRow(mine)), local: [actor()], anchorExact: true };
    const forked = { row: 'anchor_not_head', do: 'create', outcome: 'forked', keys: [], parent: t1 };
    expect(decide({ ...toOlder, hardKey: key }, { ...world, keyed: sessionRow(mine) })).toEqual(forked);
    expect(decide(toOlder, { ...world, anchorExact: false })).toMatchObject(expired);
    const dead = { anchor: at(t1, sessionRow({ ...theirs, activeTurnId: 't3' })), owners: [worker({ state: 'dead' })] };
    expect(decide(toOlder, { ...dead, anchorExact: true })).toEqual(forked);
    expect(decide(toOlder, { ...dead, owners: [worker()], attempts: [lost], anchorExact: true })).toEqual(forked);
  });

  it('An anchor whose session is gone starts its own session', () => {
    expect(decide(toHead, { anchor: at(t2, null), anchorExact: true })).toMatchObject({
      row: 'anchor_without_session',
      outcome: 'forked',
      parent: t2,
      keys: [],
    });
    expect(decide(toHead, { anchor: at(t2, sessionRow({ state: 'closed' })) })).toMatchObject(expired);
  });

  it('An anchor at a turn that did not succeed is not a parent', () => {
    for (const state of ['failed', 'cancelled', 'lost', 'active'] as const) {
      const world = { anchor: at(turnRow('t2', { state }), sessionRow()), anchorExact: true };
      expect(decide(toHead, world)).toMatchObject({ row: 'anchor_not_a_parent', ...expired });
    }
    const incomplete = at(turnRow('t2', { state: 'incomplete' }), sessionRow());
    expect(decide(toHead, { anchor: incomplete, anchorExact: true }).row).toBe('stale_recovery');
  });

  it('An anchor that is marked lost fails closed, while its session still serves a full resend', () => {
    const session = sessionRow({ anchorLost: true });
    expect(decide(toHead, { anchor: at(t2, session), anchorExact: true })).toMatchObject({
      row: 'anchor_lost',
      ...expired,
    });
    expect(decide({ hardKey: key }, { keyed: session }).row).toBe('stale_recovery');
  });

  it('An anchor decides alone: token and key of another session change nothing', () => {
    const world = { anchor: at(t2, sessionRow()), anchorExact: true };
    const elsewhere = sessionRow({ id: 'elsewhere', ...mine });
    const asked = { ...toHead, hardKey: key, token: { ...ours, sessionId: 'elsewhere' } };
    expect(decide(asked, { ...world, keyed: elsewhere, token: elsewhere })).toEqual(decide(toHead, world));
  });
});

describe('evidence by transcript only', () => {
  const like = { turn: t2, session: sessionRow(mine), exact: true };

  it('A transcript continues an idle session at its head', () => {
    expect(decide({}, { like, local: [actor()] })).toMatchObject({ row: 'prefix_live', do: 'use', anchor: null });
    expect(decide({}, { like })).toMatchObject({ row: 'prefix_stale', do: 'claim', anchor: null });
    const away = { turn: t2, session: sessionRow(theirs) };
    expect(decide({}, { like: { ...away, exact: true }, owners: [worker()] })).toMatchObject({
      row: 'prefix_elsewhere',
      do: 'forward',
    });
  });

  it('Under a session header an edited transcript goes to the worker that holds the conversation', () => {
    const older = { turn: t1, session: sessionRow(theirs), exact: true };
    const world = { like: older, owners: [worker()] };
    expect(decide({ hardKey: { kind: 'session', hash: 'h' } }, { ...world, apart: true })).toMatchObject({
      row: 'prefix_elsewhere',
      do: 'forward',
    });
    expect(decide({}, world)).toMatchObject({ row: 'prefix_older' });
  });

  it('A transcript starts its own session at an older turn, or where the owner may not be asked', () => {
    const forked = { row: 'prefix_older', do: 'create', outcome: 'forked', keys: [] };
    expect(decide({}, { like: { ...like, turn: t1 }, local: [actor()] })).toEqual({ ...forked, parent: t1 });
    const away = {
      like: { turn: t2, session: sessionRow(theirs), exact: true },
      owners: [worker()],
      instancePolicy: 'reject',
    } as const;
    expect(decide({}, away)).toEqual({ ...forked, parent: t2 });
  });

  it('A transcript never takes over, cancels or claims a running turn', () => {
    const idle = { activeRequestFp: 'fp_new', clientAttached: false };
    const beside = { row: 'prefix_busy', do: 'create', outcome: 'parallel_lane', keys: [], parent: t2 };
    expect(decide({}, { like, local: [streaming(idle)] })).toEqual(beside);
    const busy = sessionRow({ ...theirs, activeTurnId: 't3' });
    expect(decide({}, { like: { turn: t2, session: busy, exact: true }, owners: [worker({ state: 'dead' })] })).toEqual(
      beside,
    );
  });

  it('A transcript waits for a settle that may be its own, unless the queue is full', () => {
    const settling = streaming({ state: 'live.settling.asking' });
    expect(decide({}, { like, local: [settling] })).toMatchObject({ row: 'prefix_settling', do: 'queue' });
    expect(decide({}, { like, local: [{ ...settling, queueFull: true }] }).row).toBe('prefix_busy');
  });

  it('A transcript gives a new hard key its parent, but never the session', () => {
    expect(decide({ hardKey: key }, { like, local: [actor()] })).toEqual({
      row: 'created',
      do: 'create',
      outcome: 'created',
      keys: [key],
      parent: t2,
    });
  });

  it('A transcript that matches inexactly uses a free socket at its head, and is no parent', () => {
    const alike = { ...like, exact: false };
    expect(decide({}, { like: alike, local: [actor()] })).toMatchObject({ row: 'prefix_live', do: 'use' });
    const apart = { row: 'created', do: 'create', outcome: 'created', parent: null };
    expect(decide({}, { like: alike, local: [streaming()] })).toMatchObject(apart);
    expect(decide({}, { like: { ...alike, turn: t1 }, local: [actor()] })).toMatchObject(apart);
  });

  it('A transcript is no evidence across scopes, behind an anchor, or at a failed turn', () => {
    const foreign = { turn: turnRow('t2', { scope: 'globex' }), session: sessionRow({ scope: 'globex' }) };
    expect(decide({}, { like: { ...foreign, exact: true } })).toMatchObject({ row: 'created', parent: null });
    expect(decide(toHead, { like })).toMatchObject(expired);
    const failed = { turn: turnRow('t2', { state: 'failed' }), session: sessionRow() };
    expect(decide({}, { like: { ...failed, exact: true } })).toMatchObject({ row: 'created', parent: null });
  });
});

describe('a session header whose session holds another conversation', () => {
  const other = sessionRow({ ...mine, id: 'second' });
  const world = { keyed: other, apart: true, local: [actor()] };

  it('A session header leaves a session with another conversation and its key alone', () => {
    expect(decide({ hardKey: header }, world)).toEqual({
      row: 'created',
      do: 'create',
      outcome: 'created',
      keys: [],
      parent: null,
    });
  });

  it('A session header is overruled by the conversation that the items continue', () => {
    const like = { turn: t2, session: sessionRow(mine), exact: true };
    expect(decide({ hardKey: header }, { ...world, like })).toMatchObject({ row: 'prefix_live', sessionId: 's' });
    const edited = decide({ hardKey: header }, { ...world, like: { ...like, turn: t1 } });
    expect(edited).toMatchObject({ row: 'prefix_edited', do: 'use', sessionId: 's' });
  });
});

describe('a repeated request whose first client has left', () => {
  const running = streaming({ activeRequestFp: 'fp_new', activeParentTurnId: null, clientAttached: false });

  const taken = { row: 'repeat_unread', do: 'reattach', sessionId: 's' };

  it('A repeat takes over the running stream when it is marked as a repeat', () => {
    expect(decide({ repeats: true }, { repeated: running })).toMatchObject(taken);
    const byTurn = { ...running, activeClientTurnId: 'turn' };
    expect(decide({ clientTurnId: 'turn' }, { repeated: byTurn })).toMatchObject(taken);
  });

  it('A request without a mark and without names is a request of its own', () => {
    expect(decide({}, { repeated: running })).toMatchObject({ row: 'created', do: 'create' });
  });

  it('A repeat takes over an ended, undelivered turn of its own session, also while the old connection still looks open', () => {
    const ended = { ...running, state: 'stale', busy: false };
    expect(decide({ hardKey: key }, { keyed: sessionRow(), repeated: ended })).toMatchObject(taken);
    expect(decide({ hardKey: key }, { keyed: sessionRow({ id: 'x' }), repeated: ended }).do).toBe('claim');
    const read = { ...ended, clientAttached: true, activeClientTurnId: 'turn' };
    const asked = { hardKey: key, clientTurnId: 'turn' };
    expect(decide(asked, { keyed: sessionRow(), repeated: read })).toMatchObject(taken);
    expect(decide({ hardKey: key }, { keyed: sessionRow(), repeated: { ...ended, clientAttached: true } }).do).toBe(
      'claim',
    );
  });

  it.each<[string, Partial<LocalSession>]>([
    ['while a client reads it', { clientAttached: true }],
    ['when its beginning is no longer kept', { bufferComplete: false }],
    ['of another client turn', { activeClientTurnId: 'turn_9' }],
    ['of another Idempotency-Key', { activeIdempotencyKey: 'key_9' }],
    ['of another scope', { scope: 'globex' }],
  ])('A repeat does not take over a turn %s', (_, more) => {
    expect(decide({ repeats: true }, { repeated: { ...running, ...more } }).row).not.toBe('repeat_unread');
  });
});

describe('a repeat of a request that another worker has started', () => {
  const turn = turnRow('t9', { sessionId: 'there', requestFp: 'fp_new', state: 'active', authorWorkerId: OTHER });
  const remoteRepeats = [{ turn, author: worker() }];
  const forwarded = { row: 'repeat_elsewhere', do: 'forward', workerId: OTHER, session: { id: 'there', epoch: 4 } };

  it('A repeat is forwarded to the worker that started it when it is marked as a repeat, or names that session', () => {
    expect(decide({ repeats: true }, { remoteRepeats })).toMatchObject(forwarded);
    expect(decide({ idempotencyKey: 'i' }, { remoteRepeats })).toMatchObject(forwarded);
    expect(decide({ hardKey: key }, { remoteRepeats, keyed: sessionRow({ id: 'there' }) })).toMatchObject(forwarded);
    expect(decide({ repeats: true, passThrough: 'no_websocket' }, { remoteRepeats })).toMatchObject(forwarded);
  });

  it.each<[string, Partial<Evidence>, World]>([
    ['when it has no mark of a repeat and no names', { repeats: false }, {}],
    ['when it names another session', { repeats: false, hardKey: key }, { keyed: sessionRow() }],
    ['where requests are not forwarded', {}, { instancePolicy: 'reject' }],
    ['when its turn is of another client turn', { clientTurnId: 'turn_9' }, {}],
    ['when its turn has another request', { requestFp: 'fp_other' }, {}],
    ['of another scope', { scope: 'globex' }, {}],
    ['that is dead', {}, { remoteRepeats: [{ turn, author: worker({ state: 'dead' }) }] }],
    ['without an address', {}, { remoteRepeats: [{ turn, author: worker({ internalUrl: null }) }] }],
    ['whose lease has expired', {}, { remoteRepeats: [{ turn, author: worker({ leaseLeftMs: -1 }) }] }],
    ['that is the current worker', {}, { remoteRepeats: [{ turn, author: worker({ id: ME }) }] }],
    ['that could not be reached', {}, { attempts: [lost] }],
    ['that denied the session', {}, { attempts: [{ kind: 'not_owner', sessionId: 'there', workerId: OTHER }] }],
  ])('A repeat is not forwarded to a worker %s', (_, asked, world) => {
    expect(decide({ repeats: true, ...asked }, { remoteRepeats, ...world }).row).not.toBe('repeat_elsewhere');
  });

  it('A repeat must have the same parent', () => {
    const behind = [{ turn: { ...turn, parentTurnId: 't2' }, author: worker() }];
    const world = { anchor: at(t2, sessionRow()) };
    expect(decide({ ...toHead, repeats: true }, { ...world, remoteRepeats: behind })).toMatchObject(forwarded);
    expect(decide({ ...toHead, repeats: true }, { ...world, remoteRepeats }).row).not.toBe('repeat_elsewhere');
  });
});

describe('requests over plain HTTP', () => {
  const asked = { hardKey: key, passThrough: 'no_websocket' } as const;

  it('Over plain HTTP the session is found as over WebSocket', () => {
    expect(decide(asked)).toMatchObject({ do: 'create', outcome: 'passed_through', keys: [key] });
    expect(decide(asked, { keyed: sessionRow() })).toMatchObject({ do: 'claim', outcome: 'passed_through' });
    expect(decide(asked, { keyed: sessionRow(mine), local: [actor()] })).toMatchObject({
      do: 'use',
      outcome: 'passed_through',
    });
  });

  it('Over plain HTTP a socket does not help', () => {
    const anchored = { ...toHead, passThrough: 'oversize' } as const;
    const world = { anchor: at(t2, sessionRow(mine)), local: [actor()] };
    expect(decide(anchored, world)).toMatchObject(expired);
    expect(decide(anchored, { ...world, anchorExact: true })).toMatchObject({ do: 'use', outcome: 'passed_through' });
  });

  it('Over plain HTTP no other worker is asked or waited for', () => {
    const aside = { row: 'passed_through_aside', do: 'create', outcome: 'passed_through', keys: [] };
    const world = { owners: [worker()] };
    expect(decide(asked, { ...world, keyed: sessionRow(theirs) })).toEqual({ ...aside, parent: null });
    const busy = sessionRow({ ...theirs, activeTurnId: 't3' });
    expect(decide(asked, { ...world, keyed: busy, attempts: [lost] })).toEqual({ ...aside, parent: null });
    const anchored = { ...toHead, passThrough: 'background' } as const;
    expect(decide(anchored, { ...world, anchor: at(t2, busy), anchorExact: true })).toEqual({ ...aside, parent: t2 });
    expect(decide(anchored, { ...world, anchor: at(t2, busy) })).toMatchObject(expired);
  });

  it('Over plain HTTP an object at the provider may be named only with the client’s own credential', () => {
    const named = { foreign: 'tools[0].vector_store_ids[0]' } as const;
    const refused = { row: 'foreign_object', do: 'refuse', code: 'bridge_foreign_object' };
    expect(decide(named)).toMatchObject({ ...refused, param: named.foreign });
    expect(decide({}, { foreignReference: 'input[0].id' })).toMatchObject({ ...refused, param: 'input[0].id' });
    expect(decide({ ...named, credentialIsClients: true })).toMatchObject({ outcome: 'created' });
  });

  it('Over plain HTTP a provider conversation is sent only with the client’s own credential, or if its scope made it', () => {
    const conversation = { passThrough: 'conversation' } as const;
    expect(decide(conversation)).toMatchObject({ row: 'foreign_conversation', ...expired });
    expect(decide({ ...conversation, credentialIsClients: true })).toMatchObject({ outcome: 'passed_through' });
    expect(decide(conversation, { ownsConversation: true })).toMatchObject({ outcome: 'passed_through' });
  });
});

describe('the decision table', () => {
  it('The decision table names every row once, with full sentences', () => {
    const ids = rows.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { when, does } of rows) for (const text of [when, does]) expect(text).toMatch(/^[A-Z].*\.$/);
  });
});
