import { arrayText } from '../../json.ts';
import { endColumns } from '../../store/entities.ts';
import { usableItemIds } from '../../store/items.ts';
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
  SessionRef,
  SettleCall,
  SettleVerdict,
  StartCall,
  StartVerdict,
  TurnMetrics,
  TurnStart,
  Writer,
} from '../../store/port.ts';
import {
  judgeClaim,
  judgeClose,
  judgeCreate,
  judgeRelease,
  judgeSettle,
  judgeStart,
  movesHead,
} from '../../store/rules.ts';
import {
  asStored,
  emptyTurn,
  forgetIndex,
  freeKeys,
  indexTurn,
  insertMissingOwner,
  keyOf,
  type MemoryDatabase,
  type SessionRecord,
  scoped,
  sessionRow,
  type TurnRecord,
} from './database.ts';

/**
 * Creates the fence over maps, by the rules of `src/store/rules.ts`. Each call runs to completion synchronously, which
 * replaces the row lock of the database.
 *
 * @param now returns the store's clock in milliseconds
 */
export function createFence(db: MemoryDatabase, now: () => number) {
  /** Returns the remaining milliseconds of a worker's lease; null when the worker is dead or unknown. */
  function leaseLeft(id: string): number | null {
    const worker = db.workers.get(id);
    return worker && worker.state !== 'dead' ? Math.floor(worker.heartbeatExpiresAt - now()) : null;
  }

  const sessionOf = ({ scope, sessionId }: SessionRef) => db.sessions.get(scoped(scope, sessionId)) ?? null;

  /** Applies the columns that every write sets, and raises the revision. */
  function write(session: SessionRecord, saved: SavedState): void {
    session.state = saved.state;
    session.snapshot = asStored(saved.snapshot);
    session.machineVersion = saved.machineVersion;
    session.revision += 1;
    session.updatedAt = now();
  }

  function insertTurn(turn: TurnStart, session: SessionRecord, { me }: Writer): void {
    db.started += 1;
    const record: TurnRecord = {
      ...emptyTurn,
      ...turn,
      ordinal: db.started,
      sessionId: session.id,
      scope: session.scope,
      epoch: session.epoch,
      authorWorkerId: me,
      state: 'active',
      itemIds: [],
      replay: 'never',
      branched: false,
      startedAt: now(),
    };
    db.turns.set(keyOf(record), record);
  }

  /** Moves a response id from a turn's former end to its new one. */
  function nameResponse(turn: TurnRecord, responseId: string | null): void {
    if (responseId !== null) {
      const key = scoped(turn.scope, responseId);
      const holder = db.responses.get(key);
      if (holder !== undefined && holder !== turn.id) throw new Error(`response id ${responseId} is taken`);
      db.responses.set(key, turn.id);
    }
    if (turn.responseId !== null && turn.responseId !== responseId) {
      db.responses.delete(scoped(turn.scope, turn.responseId));
    }
  }

  return {
    create(call: CreateCall): CreateVerdict {
      const known = sessionOf(call);
      const leaseLeftMs = leaseLeft(call.me);
      const keys = call.keys.map(({ kind, hash }) => scoped(call.scope, kind, hash));
      const isTaken = keys.some((key) => db.keys.has(key));
      const verdict = judgeCreate(known, { ...call, epoch: 1 }, call.turn.id, leaseLeftMs !== null, isTaken);
      if (verdict === 'fenced' || verdict === 'key_taken') return { verdict };
      if (verdict === 'already') {
        return { verdict, leaseLeftMs: leaseLeftMs!, epoch: known!.epoch, revision: known!.revision };
      }
      if (db.turns.has(scoped(call.scope, call.turn.id)))
        throw new Error(`turn ${call.turn.id} exists in another session`);
      const session: SessionRecord = {
        id: call.sessionId,
        scope: call.scope,
        ...call.saved,
        snapshot: asStored(call.saved.snapshot),
        revision: 1,
        ownerWorkerId: call.me,
        ownerNonce: call.nonce,
        epoch: 1,
        activeTurnId: call.turn.id,
        headTurnId: call.headTurnId,
        forkTurnId: call.headTurnId,
        lostTurnId: null,
        upstreamId: call.upstreamId,
        model: call.model,
        anchorLost: false,
        createdAt: now(),
        updatedAt: now(),
      };
      db.sessions.set(keyOf(session), session);
      for (const key of keys) db.keys.set(key, keyOf(session));
      insertTurn(call.turn, session, call);
      return { verdict, leaseLeftMs: leaseLeftMs!, epoch: 1, revision: 1 };
    },

    start(call: StartCall): StartVerdict {
      const { turn, expectedHead } = call;
      const session = sessionOf(call);
      const leaseLeftMs = leaseLeft(call.me);
      const turnKnown = db.turns.has(scoped(call.scope, turn.id));
      const verdict = judgeStart(session, call, turn.id, turnKnown, expectedHead, leaseLeftMs !== null);
      if (verdict === 'already') return { verdict, leaseLeftMs: leaseLeftMs!, revision: session!.revision };
      if (verdict !== 'ok') return { verdict };
      insertTurn(turn, session!, call);
      session!.activeTurnId = turn.id;
      write(session!, call.saved);
      return { verdict, leaseLeftMs: leaseLeftMs!, revision: session!.revision };
    },

    /** @throws Error when another turn of the scope has the same response id; nothing is written then */
    settle(call: SettleCall): SettleVerdict {
      const { result } = call;
      const session = sessionOf(call);
      const known = db.turns.get(scoped(call.scope, call.turnId));
      const turn = known?.sessionId === call.sessionId ? known : null;
      const verdict = judgeSettle(session, turn, call, call.turnId, result.state);
      if (verdict === 'branch' || verdict === 'already') return { verdict };

      nameResponse(turn!, result.responseId);
      forgetIndex(db, turn!);
      const { facts } = turn!;
      for (const column of endColumns) Object.assign(turn!, { [column]: asStored(result[column]) });
      turn!.facts = facts ?? (asStored(result.facts) as TurnMetrics | null);
      turn!.state = result.state;
      turn!.branched = verdict === 'outside';
      turn!.endedAt = now();
      turn!.itemIds = usableItemIds(result.itemIds);
      indexTurn(db, turn!);
      // The items of a replaced end are removed with it.
      db.items.delete(keyOf(turn!));
      if (result.items) {
        const { input, output } = result.items;
        db.items.set(keyOf(turn!), { input: arrayText(input), output: arrayText(output) });
      }
      if (verdict === 'outside') return { verdict: 'branch' };

      const moves = movesHead(result.state);
      session!.activeTurnId = null;
      session!.anchorLost = (result.anchorLost ?? false) || (session!.anchorLost && !moves);
      if (moves) session!.headTurnId = turn!.id;
      write(session!, call.saved);
      return { verdict: 'ok', revision: session!.revision };
    },

    claim(call: ClaimCall): ClaimVerdict {
      const found = sessionOf(call);
      const isDead = (owner: string) =>
        (db.workers.get(owner) ?? insertMissingOwner(db, owner, now())).state === 'dead';
      const unchanged = found?.revision === call.revisionRead;
      const verdict = judgeClaim(found, call, call.epochRead, unchanged, leaseLeft(call.me) !== null, isDead);
      if (verdict !== 'ok' && verdict !== 'again') return { verdict };
      const session = found!;
      if (verdict === 'ok') {
        const turn = db.turns.get(scoped(session.scope, session.activeTurnId ?? ''));
        if (turn?.state === 'active') Object.assign(turn, { state: 'lost', branched: true, endedAt: now() });
        session.ownerWorkerId = call.me;
        session.ownerNonce = call.nonce;
        session.lostTurnId = session.activeTurnId;
        session.activeTurnId = null;
        session.state = 'stale';
        session.epoch += 1;
        session.revision += 1;
        session.updatedAt = now();
      }
      return { verdict: 'row', row: sessionRow(session), lostTurnId: session.lostTurnId };
    },

    release(call: ReleaseCall): ReleaseVerdict {
      const session = sessionOf(call);
      const verdict = judgeRelease(session, call);
      if (verdict !== 'ok') return { verdict };
      session!.ownerWorkerId = null;
      session!.ownerNonce = null;
      write(session!, call.saved);
      return { verdict };
    },

    close(call: CloseCall): CloseVerdict {
      const session = sessionOf(call);
      const verdict = judgeClose(session, call);
      if (verdict !== 'ok') return { verdict };
      freeKeys(db, session!);
      session!.ownerWorkerId = null;
      session!.ownerNonce = null;
      write(session!, { ...call.saved, state: 'closed' });
      return { verdict };
    },
  };
}
