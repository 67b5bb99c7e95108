import { describe, expect, it } from 'vitest';
import {
  actor,
  at,
  decide,
  expired,
  key,
  unreachable as lost,
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
  worker,
} from './support.ts';

describe('another live worker', () => {
  const world = { keyed: sessionRow(theirs), owners: [worker()] };
  const busy = { ...world, keyed: sessionRow({ ...theirs, activeTurnId: 't3' }) };
  const asked = { hardKey: key };

  it('A request goes to the live owner, busy or idle, draining or not', () => {
    const forwarded = { row: 'forwarded', do: 'forward', outcome: 'forwarded', workerId: OTHER };
    expect(decide(asked, world)).toMatchObject(forwarded);
    expect(decide(asked, busy)).toMatchObject(forwarded);
    expect(decide(asked, { ...world, owners: [worker({ state: 'draining' })] })).toMatchObject(forwarded);
    expect(decide(toOlder, { ...world, anchor: at(t1, sessionRow(theirs)) })).toMatchObject(forwarded);
  });

  it('Under the reject policy the answer names the owner and the rest of its lease for the router', () => {
    expect(decide(asked, { ...world, instancePolicy: 'reject' })).toEqual({
      row: 'wrong_instance',
      do: 'refuse',
      outcome: 'wrong_instance',
      code: 'bridge_wrong_instance',
      retryAfterSeconds: 8,
    });
  });

  it.each([
    ['could not be reached', { attempts: [lost] }],
    ['has no address', { owners: [worker({ internalUrl: null })] }],
    ['denies the session', { attempts: [{ kind: 'not_owner', sessionId: 's' }] }],
  ] as const)('An owner that %s loses an idle session at once, and a busy one is waited for', (_, change) => {
    const idle = { row: 'stale_recovery', do: 'claim', ownOrphan: false };
    const wait = { row: 'owner_awaited', do: 'await_owner', outcome: 'stale_recovery', workerId: OTHER };
    expect(decide(asked, { ...world, ...change })).toMatchObject(idle);
    expect(decide(asked, { ...busy, ...change })).toMatchObject(wait);
  });

  it.each([
    ['has an expired lease', [worker({ leaseLeftMs: -1 })]],
    ['has no row', []],
    ['has a row that only other workers wrote', [worker({ version: 'unknown', internalUrl: null })]],
  ])('An owner that %s is waited for, with or without a running turn: it may only be late', (_, owners) => {
    const wait = { row: 'owner_awaited', do: 'await_owner', outcome: 'stale_recovery', workerId: OTHER };
    expect(decide(asked, { ...world, owners })).toMatchObject(wait);
    expect(decide(asked, { ...busy, owners })).toMatchObject(wait);
    const anchored = { anchor: at(t2, sessionRow({ ...theirs, activeTurnId: 't3' })), owners };
    expect(decide(toHead, anchored).row).toBe('owner_awaited');
  });

  it('The answer gives the earliest time at which waiting for the owner can end', () => {
    expect(decide(asked, { ...busy, attempts: [lost] })).toMatchObject({ retryAfterSeconds: 8 });
    expect(decide(asked, { ...busy, owners: [worker({ leaseLeftMs: -9 })] })).toMatchObject({ retryAfterSeconds: 1 });
  });

  it('A dead owner loses a busy session too', () => {
    expect(decide(asked, { ...busy, owners: [worker({ state: 'dead' })] })).toMatchObject({
      do: 'claim',
      ownOrphan: false,
    });
  });

  it('The current owner is asked although the previous owner denied the session or did not answer', () => {
    const attempts = [
      { kind: 'unreachable', workerId: 'before' },
      { kind: 'not_owner', sessionId: 's', workerId: 'before' },
    ] as const;
    expect(decide(asked, { ...world, attempts }).row).toBe('forwarded');
  });

  it('The owner of a later epoch is asked although it denied an earlier one', () => {
    const denied = (epoch: number) => [{ kind: 'not_owner', sessionId: 's', workerId: OTHER, epoch }] as const;
    const { epoch } = sessionRow(theirs);
    expect(decide(asked, { ...world, attempts: denied(epoch - 1) }).row).toBe('forwarded');
    expect(decide(asked, { ...world, attempts: denied(epoch) }).row).toBe('stale_recovery');
  });

  it('An owner that alone may hold the anchor is waited for until its death', () => {
    const anchored = { anchor: at(t2, sessionRow(theirs)), owners: [worker()] };
    expect(decide(toHead, { ...anchored, attempts: [lost] })).toMatchObject({
      row: 'anchor_held_elsewhere',
      do: 'await_owner',
    });
    expect(decide(toHead, { ...anchored, attempts: [lost], anchorExact: true }).row).toBe('stale_recovery');
    expect(decide(toHead, { ...anchored, attempts: [{ kind: 'not_owner', sessionId: 's' }] })).toMatchObject(expired);
    expect(decide(toHead, { ...anchored, owners: [worker({ state: 'dead' })] })).toMatchObject(expired);
  });
});

describe('this worker’s own row without an actor', () => {
  it('A session that this worker owns without an actor is claimed, and its active turn is named as an orphan', () => {
    expect(decide({ hardKey: key }, { keyed: sessionRow(mine) })).toMatchObject({ do: 'claim', ownOrphan: false });
    const orphan = sessionRow({ ...mine, activeTurnId: 't3' });
    expect(decide({ hardKey: key }, { keyed: orphan })).toMatchObject({ do: 'claim', ownOrphan: true });
  });

  it('An actor of another epoch, or a stale one, counts as no actor', () => {
    const world = { keyed: sessionRow(mine) };
    expect(decide({ hardKey: key }, { ...world, local: [streaming({ epoch: 3 })] }).do).toBe('claim');
    expect(decide({ hardKey: key }, { ...world, local: [actor({ state: 'stale' })] }).do).toBe('claim');
    expect(decide({ hardKey: key }, { ...world, local: [actor({ epoch: 5 })] }).do).toBe('claim');
  });
});

describe('a busy session here', () => {
  const keyed = sessionRow({ ...mine, activeTurnId: 't3' });
  const asked = { hardKey: key };
  const same = { clientAttached: false, activeRequestFp: 'fp_new' };
  const reattached = { row: 'reattached', do: 'reattach', sessionId: 's', epoch: 4 };

  it('A busy session’s stream is taken over by the same request once its client has left', () => {
    expect(decide(asked, { keyed, local: [streaming(same)] })).toMatchObject(reattached);
    expect(decide({ token: ours }, { token: keyed, local: [streaming(same)] })).toMatchObject(reattached);
    expect(decide(toHead, { anchor: at(t2, keyed), local: [streaming(same)] })).toMatchObject(reattached);
  });

  it('The stream of an ended, undelivered turn is taken over too, though the head has moved', () => {
    const ended = actor({ ...same, bufferComplete: true, activeParentTurnId: 't1' });
    expect(decide(asked, { keyed: sessionRow(mine), local: [ended] })).toMatchObject(reattached);
    expect(decide(toOlder, { anchor: at(t1, sessionRow(mine)), local: [ended] })).toMatchObject(reattached);
  });

  it('A busy session’s stream is not taken over by a request with another parent or of another client turn', () => {
    const world = { anchor: at(t2, keyed), anchorExact: true };
    expect(decide(toHead, { ...world, local: [streaming({ ...same, activeParentTurnId: 't1' })] })).toMatchObject({
      row: 'busy_anchored',
      outcome: 'forked',
      parent: t2,
    });
    const turn = { ...same, activeClientTurnId: 'turn-1' };
    expect(decide({ ...asked, clientTurnId: 'turn-2' }, { keyed, local: [streaming(turn)] }).row).toBe('superseded');
    expect(decide(asked, { keyed, local: [streaming(turn)] }).row).toBe('superseded');
  });

  it('A request cuts an earlier connection of the same client turn or Idempotency-Key, and of no other', () => {
    const attached = { ...same, clientAttached: true };
    const turn = streaming({ ...attached, activeClientTurnId: 'turn-1' });
    expect(decide({ ...asked, clientTurnId: 'turn-1' }, { keyed, local: [turn] })).toMatchObject(reattached);
    const named = streaming({ ...attached, activeIdempotencyKey: 'i' });
    expect(decide({ ...asked, idempotencyKey: 'i' }, { keyed, local: [named] })).toMatchObject(reattached);
    expect(decide({ ...asked, idempotencyKey: 'j' }, { keyed, local: [named] }).row).toBe('parallel_lane');
    expect(decide(asked, { keyed, local: [streaming(attached)] }).row).toBe('parallel_lane');
  });

  it('An Idempotency-Key alone finds a busy session, for the same request only', () => {
    const idempotent = streaming({ ...same, clientAttached: true, activeIdempotencyKey: 'i' });
    const byKey = { row: 'same_idempotency_key', do: 'reattach', sessionId: 's' };
    expect(decide({ idempotencyKey: 'i' }, { idempotent })).toMatchObject(byKey);
    expect(decide({ idempotencyKey: 'i', requestFp: 'fp_other' }, { idempotent }).row).toBe('created');
    expect(decide({ idempotencyKey: 'i', clientTurnId: 'x' }, { idempotent }).row).toBe('created');
    expect(decide({ idempotencyKey: 'i' }, { idempotent: { ...idempotent, scope: 'globex' } }).row).toBe('created');
    expect(decide({ idempotencyKey: 'i' }, { idempotent: { ...idempotent, bufferComplete: false } }).row).toBe(
      'created',
    );
    expect(decide({ idempotencyKey: 'i', ...toHead }, { idempotent })).toMatchObject(expired);
    const keyless = { ...idempotent, activeIdempotencyKey: null, clientAttached: false };
    expect(decide({}, { idempotent: keyless }).row).toBe('created');
  });

  it('A turn whose client has left is superseded by another request, or by the same one after its buffer overflowed', () => {
    const superseded = { row: 'superseded', do: 'supersede', sessionId: 's', epoch: 4 };
    expect(decide(asked, { keyed, local: [streaming({ clientAttached: false })] })).toMatchObject(superseded);
    expect(decide(asked, { keyed, local: [streaming({ ...same, bufferComplete: false })] })).toMatchObject(superseded);
    const resending = streaming({ state: 'reconnecting.resending.dialing', clientAttached: false });
    expect(decide(asked, { keyed, local: [resending] })).toMatchObject(superseded);
  });

  it('An unanchored request runs beside a busy session whose client reads', () => {
    const beside = { row: 'parallel_lane', do: 'create', outcome: 'parallel_lane', keys: [], parent: null };
    expect(decide(asked, { keyed, local: [streaming()] })).toEqual(beside);
  });

  it('An anchored request forks a busy session, with or without its client', () => {
    const world = { anchor: at(t2, keyed), anchorExact: true };
    const forked = { row: 'busy_anchored', do: 'create', outcome: 'forked', keys: [], parent: t2 };
    expect(decide(toHead, { ...world, local: [streaming()] })).toEqual(forked);
    expect(decide(toHead, { ...world, local: [streaming({ clientAttached: false })] })).toEqual(forked);
    expect(decide(toHead, { ...world, anchorExact: false, local: [streaming()] })).toMatchObject(expired);
  });

  it.each([
    'connecting.dialing',
    'live.committing.asking',
    'live.settling.overdue',
    'reconnecting.waiting.pausing',
    'live.idle',
  ])('In state %s requests queue, up to a limit', (state) => {
    const pending = streaming({ state });
    expect(decide(asked, { keyed, local: [pending] })).toMatchObject({ row: 'queued', do: 'queue', sessionId: 's' });
    expect(decide(toHead, { anchor: at(t2, keyed), local: [pending] })).toMatchObject({ row: 'queued' });
    const full = [{ ...pending, queueFull: true }];
    expect(decide(toHead, { anchor: at(t2, keyed), local: full })).toMatchObject({ code: 'bridge_queue_full' });
    // An unanchored request is not bound to this socket.
    expect(decide(asked, { keyed, local: full })).toMatchObject({ outcome: 'parallel_lane', do: 'create', keys: [] });
  });

  it('A session is idle when its actor is idle, though the row that was read still shows a turn', () => {
    expect(decide(asked, { keyed, local: [actor()] })).toMatchObject({ row: 'live_reuse', do: 'use', anchor: null });
  });
});
