import type { TurnEnd, TurnState } from './port.ts';

/**
 * Rules of the fence, as pure functions over rows. The SQL functions in `postgres/schema/fence.ts` are their implementation
 * for a database; the in-memory store and the model of `test/verification/model` call these. The contract of the store and the
 * differential test hold both statements to each other. Checks are in the order of the SQL.
 *
 * `Id` is the type of ids: text in a store, a small number in the model.
 */

/** Part of a session's row on which the fence decides. */
export interface FencedSession<Id> {
  readonly ownerWorkerId: Id | null;
  readonly ownerNonce: Id | null;
  readonly epoch: number;
  readonly activeTurnId: Id | null;
  readonly headTurnId: Id | null;
  readonly state: string;
}

/** Part of a turn's row on which the fence decides. */
export interface FencedTurn<Id> {
  readonly authorWorkerId: Id;
  readonly epoch: number;
  readonly state: TurnState;
  readonly branched: boolean;
}

/** Caller with its hold on the session. */
export interface Hold<Id> {
  readonly me: Id;
  readonly nonce: Id;
  readonly epoch: number;
}

/** Returns whether the caller still owns the session: owner, nonce and epoch all match. */
export const holds = <Id>(session: FencedSession<Id>, { me, nonce, epoch }: Hold<Id>): boolean =>
  session.ownerWorkerId === me && session.ownerNonce === nonce && session.epoch === epoch;

/** Returns whether a turn with this end becomes the head of its session. */
export const movesHead = (end: TurnState): boolean => end === 'completed' || end === 'incomplete';

/**
 * @param session the session of that id, if it exists
 * @param writerLives whether the caller has a row and is not stored as dead
 * @param keyTaken whether one of the call's keys belongs to another session
 */
export function judgeCreate<Id>(
  session: FencedSession<Id> | null,
  caller: Hold<Id>,
  turnId: Id,
  writerLives: boolean,
  keyTaken: boolean,
): 'ok' | 'already' | 'key_taken' | 'fenced' {
  if (!writerLives) return 'fenced';
  if (session) return holds(session, caller) && session.activeTurnId === turnId ? 'already' : 'fenced';
  return keyTaken ? 'key_taken' : 'ok';
}

/**
 * @param turnKnown whether a turn of that id exists, running or ended
 * @param writerLives whether the caller has a row and is not stored as dead
 */
export function judgeStart<Id>(
  session: FencedSession<Id> | null,
  caller: Hold<Id>,
  turnId: Id,
  turnKnown: boolean,
  expectedHead: Id | null,
  writerLives: boolean,
): 'ok' | 'already' | 'ended' | 'busy' | 'head_moved' | 'fenced' {
  if (!session || !holds(session, caller) || !writerLives) return 'fenced';
  if (turnKnown) return session.activeTurnId === turnId ? 'already' : 'ended';
  if (session.activeTurnId !== null) return 'busy';
  return session.headTurnId === expectedHead ? 'ok' : 'head_moved';
}

/**
 * @param turn the turn of that id in that session
 * @returns `under_fence`, `outside`: the end is recorded, and only the first changes the session. `branch`, `already`: it is
 *   not, and that is the answer.
 */
export function judgeSettle<Id>(
  session: FencedSession<Id> | null,
  turn: FencedTurn<Id> | null,
  caller: Hold<Id>,
  turnId: Id,
  end: TurnEnd,
): 'under_fence' | 'outside' | 'branch' | 'already' {
  if (!session || !turn) return 'branch';
  if (turn.authorWorkerId !== caller.me || turn.epoch !== caller.epoch) return 'branch';
  if (isOver(turn.state, end)) return turn.branched ? 'branch' : 'already';
  return holds(session, caller) && session.activeTurnId === turnId ? 'under_fence' : 'outside';
}

/** The first recorded end stays, except that the author's real end replaces `lost`. */
export const isOver = (recorded: TurnState, end: TurnEnd): boolean =>
  recorded !== 'active' && (recorded !== 'lost' || end === 'lost');

/**
 * @param unchanged whether the row still has the revision that the caller read
 * @param writerLives whether the caller has a row and is not stored as dead
 * @param isDead returns whether the owner of an active turn is stored as dead; an owner without a row gets one
 * @returns `again` for a repeated call, whose first copy took the session over
 */
export function judgeClaim<Id>(
  session: FencedSession<Id> | null,
  { me, nonce }: Omit<Hold<Id>, 'epoch'>,
  epochRead: number,
  unchanged: boolean,
  writerLives: boolean,
  isDead: (owner: Id) => boolean,
): 'ok' | 'again' | 'busy' | 'lost_race' | 'fenced' {
  if (!session || session.state === 'closed') return 'lost_race';
  if (!writerLives) return 'fenced';
  if (holds(session, { me, nonce, epoch: epochRead + 1 })) return 'again';
  if (session.epoch !== epochRead || !unchanged) return 'lost_race';
  const { activeTurnId, ownerWorkerId } = session;
  return activeTurnId !== null && (ownerWorkerId === null || !isDead(ownerWorkerId)) ? 'busy' : 'ok';
}

export function judgeRelease<Id>(
  session: FencedSession<Id> | null,
  caller: Hold<Id>,
): 'ok' | 'already' | 'busy' | 'fenced' {
  if (!session || session.epoch !== caller.epoch) return 'fenced';
  if (session.ownerWorkerId === null) return 'already';
  if (!holds(session, caller)) return 'fenced';
  return session.activeTurnId === null ? 'ok' : 'busy';
}

export function judgeClose<Id>(
  session: FencedSession<Id> | null,
  caller: Hold<Id>,
): 'ok' | 'already' | 'busy' | 'fenced' {
  if (!session || session.epoch !== caller.epoch) return 'fenced';
  if (session.state === 'closed') return 'already';
  if (!holds(session, caller)) return 'fenced';
  return session.activeTurnId === null ? 'ok' : 'busy';
}

export function judgeOperate<Id>(session: FencedSession<Id> | null): 'ok' | 'busy' | 'missing' {
  if (!session || session.state === 'closed') return 'missing';
  return session.activeTurnId === null ? 'ok' : 'busy';
}
