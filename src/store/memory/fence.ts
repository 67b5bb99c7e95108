import type {
  ClaimCall,
  ClaimVerdict,
  CloseCall,
  CloseVerdict,
  CreateCall,
  CreateVerdict,
  ReleaseCall,
  ReleaseVerdict,
  SavedState,
  StartCall,
  StartVerdict,
  TurnStart,
  Writer,
} from '../port.ts';
import {
  asStored,
  insertMissingOwner,
  type MemoryDatabase,
  type SessionRecord,
  scoped,
  type TurnRecord,
} from './database.ts';
import { sessionRow } from './rows.ts';

/** Returns whether the caller still owns the session: owner, nonce and epoch all match. */
export const holds = (session: SessionRecord, { me, nonce }: Writer, epoch: number): boolean =>
  session.ownerWorkerId === me && session.ownerNonce === nonce && session.epoch === epoch;

/**
 * Applies the columns that every write sets, and raises the revision.
 *
 * @param now milliseconds of the store's clock
 */
export function write(session: SessionRecord, saved: SavedState, now: number): void {
  session.state = saved.state;
  session.snapshot = asStored(saved.snapshot);
  session.machineVersion = saved.machineVersion;
  session.revision += 1;
  session.updatedAt = now;
}

/**
 * Creates the fence as plain functions over maps. Each runs to completion synchronously, which replaces the row lock of the
 * database. Checks are in the order of the SQL functions.
 *
 * @param now returns the store's clock in milliseconds
 */
export function createFence(db: MemoryDatabase, now: () => number) {
  /** Returns the remaining milliseconds of a worker's lease; null when the worker is dead or unknown. */
  function leaseLeft(id: string): number | null {
    const worker = db.workers.get(id);
    return worker && worker.state !== 'dead' ? Math.floor(worker.heartbeatExpiresAt - now()) : null;
  }

  function insertTurn(turn: TurnStart, session: SessionRecord, { me }: Writer): void {
    db.started += 1;
    const record: TurnRecord = {
      ...turn,
      ordinal: db.started,
      sessionId: session.id,
      scope: session.scope,
      epoch: session.epoch,
      authorWorkerId: me,
      state: 'active',
      responseId: null,
      transcriptFp: null,
      clientFp: null,
      secondFp: null,
      thirdFp: null,
      forms: null,
      itemIds: [],
      itemCount: null,
      replay: 'never',
      branched: false,
      usage: null,
      error: null,
      facts: null,
      startedAt: now(),
      endedAt: null,
    };
    db.turns.set(turn.id, record);
  }

  return {
    create(call: CreateCall): CreateVerdict {
      const leaseLeftMs = leaseLeft(call.me);
      if (leaseLeftMs === null) return { verdict: 'fenced' };
      const known = db.sessions.get(call.sessionId);
      if (known) {
        const same = holds(known, call, 1) && known.activeTurnId === call.turn.id;
        if (!same) return { verdict: 'fenced' };
        return { verdict: 'already', leaseLeftMs, epoch: known.epoch, revision: known.revision };
      }
      const keys = call.keys.map(({ kind, hash }) => scoped(call.scope, kind, hash));
      if (keys.some((key) => db.keys.has(key))) return { verdict: 'key_taken' };
      if (db.turns.has(call.turn.id)) throw new Error(`turn ${call.turn.id} exists in another session`);
      const session: SessionRecord = {
        id: call.sessionId,
        scope: call.scope,
        state: call.saved.state,
        snapshot: asStored(call.saved.snapshot),
        machineVersion: call.saved.machineVersion,
        revision: 1,
        ownerWorkerId: call.me,
        ownerNonce: call.nonce,
        epoch: 1,
        activeTurnId: call.turn.id,
        headTurnId: call.headTurnId,
        lostTurnId: null,
        upstreamId: call.upstreamId,
        model: call.model,
        anchorLost: false,
        createdAt: now(),
        updatedAt: now(),
      };
      db.sessions.set(session.id, session);
      for (const key of keys) db.keys.set(key, session.id);
      insertTurn(call.turn, session, call);
      return { verdict: 'ok', leaseLeftMs, epoch: 1, revision: 1 };
    },

    start(call: StartCall): StartVerdict {
      const session = db.sessions.get(call.sessionId);
      const leaseLeftMs = leaseLeft(call.me);
      if (!session || !holds(session, call, call.epoch) || leaseLeftMs === null) return { verdict: 'fenced' };
      if (db.turns.has(call.turn.id)) {
        if (session.activeTurnId !== call.turn.id) return { verdict: 'ended' };
        return { verdict: 'already', leaseLeftMs, revision: session.revision };
      }
      if (session.activeTurnId !== null) return { verdict: 'busy' };
      if (session.headTurnId !== call.expectedHead) return { verdict: 'head_moved' };
      insertTurn(call.turn, session, call);
      session.activeTurnId = call.turn.id;
      write(session, call.saved, now());
      return { verdict: 'ok', leaseLeftMs, revision: session.revision };
    },

    claim(call: ClaimCall): ClaimVerdict {
      const session = db.sessions.get(call.sessionId);
      if (!session || session.state === 'closed') return { verdict: 'lost_race' };
      if (leaseLeft(call.me) === null) return { verdict: 'fenced' };
      const answer = (): ClaimVerdict => ({
        verdict: 'row',
        row: sessionRow(session),
        lostTurnId: session.lostTurnId,
      });
      if (holds(session, call, call.epochRead + 1)) return answer();
      if (session.epoch !== call.epochRead || session.revision !== call.revisionRead) return { verdict: 'lost_race' };
      const { activeTurnId, ownerWorkerId } = session;
      if (activeTurnId !== null && ownerWorkerId !== null) {
        if (!db.workers.has(ownerWorkerId)) insertMissingOwner(db, ownerWorkerId, now());
        if (db.workers.get(ownerWorkerId)?.state !== 'dead') return { verdict: 'busy' };
        const turn = db.turns.get(activeTurnId);
        if (turn?.state === 'active') Object.assign(turn, { state: 'lost', branched: true, endedAt: now() });
      }
      session.ownerWorkerId = call.me;
      session.ownerNonce = call.nonce;
      session.epoch += 1;
      session.activeTurnId = null;
      session.lostTurnId = activeTurnId;
      session.state = 'stale';
      session.revision += 1;
      session.updatedAt = now();
      return answer();
    },

    release(call: ReleaseCall): ReleaseVerdict {
      const session = db.sessions.get(call.sessionId);
      if (!session || session.epoch !== call.epoch) return { verdict: 'fenced' };
      if (session.ownerWorkerId === null) return { verdict: 'already' };
      if (!holds(session, call, call.epoch)) return { verdict: 'fenced' };
      if (session.activeTurnId !== null) return { verdict: 'busy' };
      session.ownerWorkerId = null;
      session.ownerNonce = null;
      write(session, call.saved, now());
      return { verdict: 'ok' };
    },

    close(call: CloseCall): CloseVerdict {
      const session = db.sessions.get(call.sessionId);
      if (!session || session.epoch !== call.epoch) return { verdict: 'fenced' };
      if (session.state === 'closed') return { verdict: 'already' };
      if (!holds(session, call, call.epoch)) return { verdict: 'fenced' };
      if (session.activeTurnId !== null) return { verdict: 'busy' };
      for (const [key, id] of db.keys) if (id === session.id) db.keys.delete(key);
      session.ownerWorkerId = null;
      session.ownerNonce = null;
      write(session, { ...call.saved, state: 'closed' }, now());
      return { verdict: 'ok' };
    },
  };
}
