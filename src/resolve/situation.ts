import type { Repeated, SessionRow, TurnRow, UNKNOWN_VERSION } from '../store/port.ts';
import type { AttemptFact, Evidence, Facts, LocalSession } from './types.ts';

/** Version of a worker whose row was restored without its data. */
const unknownVersion: typeof UNKNOWN_VERSION = 'unknown';

/** Evidence by which a session was found, strongest first. */
export type FoundBy = 'anchor' | 'token' | 'hard_key' | 'prefix';

/**
 * State of a session's owner.
 *
 * - `none`: no worker owns the session.
 * - `answers`: another live worker that can be asked.
 * - `silent`: another worker, not stored as dead, that cannot be asked (it cannot be reached, or has no address).
 * - `overdue`: its lease has expired, and its death is not stored yet.
 * - `unrecorded`: another worker without a row of its own, so that its death cannot have been stored.
 * - `denies`: another live worker that has answered that it runs no actor of the session.
 */
export type OwnerStanding = 'none' | 'me' | 'dead' | 'answers' | 'silent' | 'overdue' | 'unrecorded' | 'denies';

/** A session to which the request may belong, with all data that the rows need about it. */
export interface Candidate {
  by: FoundBy;
  session: SessionRow;
  owner: OwnerStanding;
  /** This worker's actor of that session at that epoch; null if there is none, or if it is stale or closed. */
  live: LocalSession | null;
  /** True if a turn is active or waiting. A local actor's state takes precedence over the row, because it is newer. */
  busy: boolean;
  /** True if the turn to continue is the session's head, or if the request names no turn. */
  atHead: boolean;
}

/** Evidence and facts in the form that the rows of the table read; they read nothing else. */
export interface Situation {
  evidence: Evidence;
  facts: Facts;
  /** The request's anchor, as a turn of its own scope. */
  anchor: TurnRow | null;
  /** True if the request names an anchor that is unknown in its scope. */
  anchorUnknown: boolean;
  /**
   * True if the anchor can be continued without a socket that holds it: its context can be sent in full, or the
   * provider stores it.
   */
  answerable: boolean;
  candidate: Candidate | null;
  /** Sessions of token and hard key if the anchor is unknown: they may select a worker, but never the parent. */
  bystanders: readonly Candidate[];
  /** Known ancestor of an unanchored request, found by its transcript. */
  prefixTurn: TurnRow | null;
  /**
   * True if the candidate was found by a transcript that is only similar to the request's: it may provide its socket,
   * but is no parent.
   */
  onlyLike: boolean;
}

/** Returns whether a turn may be a parent: only `completed` and `incomplete` turns may. */
export function mayBeParent({ state }: Pick<TurnRow, 'state'>): boolean {
  return state === 'completed' || state === 'incomplete';
}

function open(session: SessionRow | null, scope: string): SessionRow | null {
  return session && session.scope === scope && session.state !== 'closed' ? session : null;
}

function denied(attempt: AttemptFact, session: SessionRow): boolean {
  if (attempt.kind !== 'not_owner' || attempt.sessionId !== session.id) return false;
  if (attempt.epoch !== undefined && attempt.epoch !== session.epoch) return false;
  return attempt.workerId === undefined || attempt.workerId === session.ownerWorkerId;
}

function standing(session: SessionRow, { me, rows, attempts }: Facts): OwnerStanding {
  const id = session.ownerWorkerId;
  if (id === null) return 'none';
  if (id === me) return 'me';
  const worker = rows.owners.get(id);
  if (worker?.state === 'dead') return 'dead';
  if (!worker || worker.version === unknownVersion) return 'unrecorded';
  if (attempts.some((attempt) => denied(attempt, session))) return 'denies';
  if (attempts.some((attempt) => attempt.kind === 'unreachable' && attempt.workerId === id)) return 'silent';
  if (worker.leaseLeftMs < 0) return 'overdue';
  return worker.internalUrl === null ? 'silent' : 'answers';
}

function liveActor(session: SessionRow, owner: OwnerStanding, facts: Facts): LocalSession | null {
  if (owner !== 'me') return null;
  const actor = facts.local.get(session.id);
  if (!actor || actor.epoch !== session.epoch) return null;
  return actor.state === 'stale' || actor.state === 'closed' ? null : actor;
}

function candidateOf(by: FoundBy, session: SessionRow, parent: TurnRow | null, facts: Facts): Candidate {
  const owner = standing(session, facts);
  const live = liveActor(session, owner, facts);
  return {
    by,
    session,
    owner,
    live,
    busy: live ? live.busy : session.activeTurnId !== null,
    atHead: parent === null || parent.id === session.headTurnId,
  };
}

/**
 * Returns the sessions named by the token and by the hard key, strongest first; one that both name stands twice. A token of
 * an older epoch is ignored.
 */
function named({ token, scope }: Evidence, { rows, apart }: Facts): { by: FoundBy; session: SessionRow }[] {
  const found: { by: FoundBy; session: SessionRow }[] = [];
  const byToken = open(rows.token, scope);
  if (token.kind === 'ours' && byToken?.id === token.sessionId && byToken.epoch === token.epoch) {
    found.push({ by: 'token', session: byToken });
  }
  const byKey = apart !== true ? open(rows.keyed, scope) : null;
  if (byKey) found.push({ by: 'hard_key', session: byKey });
  return found;
}

/** Computes everything that the rows of the table read. Facts of another scope count as unknown. */
export function survey(evidence: Evidence, facts: Facts): Situation {
  const { scope } = evidence;
  const found = evidence.anchor !== null && facts.rows.anchor?.turn.scope === scope ? facts.rows.anchor : null;
  const anchor = found?.turn ?? null;
  const anchorUnknown = evidence.anchor !== null && anchor === null;

  const like = facts.like?.turn.scope === scope ? facts.like : null;
  const parent = like && mayBeParent(like.turn) ? like : null;

  const others = named(evidence, facts);
  let candidate: Candidate | null = null;
  if (found) {
    const session = open(found.session, scope);
    candidate = session && candidateOf('anchor', session, found.turn, facts);
  } else if (evidence.anchor === null) {
    const strongest = others[0];
    // A hard key identifies one conversation: a common beginning does not connect it with another one.
    const byItems = evidence.hardKey === null || facts.apart === true;
    const session = parent && byItems ? open(parent.session, scope) : null;
    if (strongest) candidate = candidateOf(strongest.by, strongest.session, null, facts);
    else if (session) candidate = candidateOf('prefix', session, parent!.turn, facts);
  }

  return {
    evidence,
    facts,
    anchor,
    anchorUnknown,
    answerable:
      found !== null &&
      !isLostHead(found.turn, found.session) &&
      (isStored(found.turn, evidence) || facts.anchorExact === true),
    candidate,
    bystanders: anchorUnknown ? others.map(({ by, session }) => candidateOf(by, session, null, facts)) : [],
    prefixTurn: parent?.exact ? parent.turn : null,
    onlyLike: like?.exact === false,
  };
}

function isLostHead(turn: TurnRow, session: SessionRow | null): boolean {
  return session?.anchorLost === true && session.headTurnId === turn.id;
}

/** Returns whether the provider stores this response and accepts it from the request's credential. */
function isStored(turn: TurnRow, evidence: Evidence): boolean {
  return turn.storedUpstream && turn.credentialFp === evidence.credentialFp;
}

/** Returns whether the turn is on the wire, as opposed to waiting for a socket, a start or a settle. */
export function isStreaming({ state }: LocalSession): boolean {
  return state.startsWith('live.streaming') || state.startsWith('reconnecting.resending');
}

/**
 * Returns whether this actor's running (or ended but undelivered) turn has the same request: equal fingerprints,
 * parent, Idempotency-Key and client turn.
 */
function isSameRequest({ evidence, anchor }: Situation, actor: LocalSession): boolean {
  if (actor.activeRequestFp === null || actor.activeRequestFp !== evidence.requestFp) return false;
  if (evidence.anchor !== null && actor.activeParentTurnId !== (anchor?.id ?? null)) return false;
  if (actor.activeIdempotencyKey !== evidence.idempotencyKey) return false;
  return actor.activeClientTurnId === evidence.clientTurnId;
}

/** Returns whether the client's headers or metadata distinguish a retry from a new request with the same content. */
export function tellsRepeats({ repeats, clientTurnId, idempotencyKey }: Evidence): boolean {
  return repeats || clientTurnId !== null || idempotencyKey !== null;
}

/** Returns a turn with the same request on another worker that can be asked and has not denied it yet. */
export function remoteRepeat({ evidence, anchor, facts }: Situation): Repeated | null {
  const mayHave = ({ turn, author }: Repeated): boolean =>
    turn.scope === evidence.scope &&
    turn.requestFp === evidence.requestFp &&
    turn.clientTurnId === evidence.clientTurnId &&
    (evidence.anchor === null || turn.parentTurnId === (anchor?.id ?? null)) &&
    author.id !== facts.me &&
    author.state !== 'dead' &&
    author.internalUrl !== null &&
    author.leaseLeftMs >= 0 &&
    !facts.attempts.some(
      (fact) =>
        (fact.kind === 'unreachable' && fact.workerId === author.id) ||
        (fact.kind === 'not_owner' && fact.sessionId === turn.sessionId),
    );
  return facts.remoteRepeats?.find(mayHave) ?? null;
}

/** Returns whether the request has the Idempotency-Key of this actor's turn. */
export function sameIdempotencyKey({ evidence }: Situation, actor: LocalSession): boolean {
  return evidence.idempotencyKey !== null && evidence.idempotencyKey === actor.activeIdempotencyKey;
}

/**
 * Returns whether the request may be attached to this actor's stream. An earlier connection that still looks attached
 * does not prevent that if the client itself identifies the request as the same turn: its close was merely overtaken by
 * the retry.
 */
export function mayReattach(situation: Situation, actor: LocalSession): boolean {
  if (!actor.bufferComplete || !isSameRequest(situation, actor)) return false;
  if (!actor.clientAttached || sameIdempotencyKey(situation, actor)) return true;
  return situation.evidence.clientTurnId !== null;
}

/**
 * Returns the seconds until the owner's lease can have expired: the earliest time at which a retry can have another
 * result.
 */
export function leaseSeconds(leaseLeftMs: number | undefined): number {
  return Math.max(1, Math.ceil((leaseLeftMs ?? 0) / 1000));
}
