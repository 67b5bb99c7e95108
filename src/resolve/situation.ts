import { type Repeated, type SessionRow, type TurnRow, UNKNOWN_VERSION } from '../store/port.ts';
import type { AttemptFact, Evidence, Facts, LocalSession } from './types.ts';

/** By which evidence a session was found, strongest first. */
export type FoundBy = 'anchor' | 'token' | 'hard_key' | 'prefix';

/**
 * What can be said of a session's owner.
 * `answers`: another live worker that can be asked. `silent`: another worker, not stored as dead, that cannot be
 * asked (it cannot be reached, or has no address). `overdue`: its lease has run out, and its death is not stored yet.
 * `unrecorded`: another worker without a row of its own, so that its death cannot have been stored. `denies`: another live
 * worker that says it runs no actor of the session.
 */
export type OwnerStanding = 'nobody' | 'me' | 'dead' | 'answers' | 'silent' | 'overdue' | 'unrecorded' | 'denies';

/** A session the request may belong to, with everything the rows ask about it. */
export interface Candidate {
  by: FoundBy;
  session: SessionRow;
  owner: OwnerStanding;
  /** This worker's actor of that session at that epoch, unless it is stale or closed. */
  live: LocalSession | null;
  /** A turn is active or waiting. While an actor lives here its word is newer than the row's. */
  busy: boolean;
  /** The turn to be continued is the session's head; true for a request that names none. */
  atHead: boolean;
}

/** Evidence and facts, looked at once: the rows of the table read nothing else. */
export interface Situation {
  evidence: Evidence;
  facts: Facts;
  /** The request's anchor as a turn of its own scope. */
  anchor: TurnRow | null;
  /** It names an anchor that is unknown in its scope. */
  anchorUnknown: boolean;
  /** Without a socket that holds it: the anchor's context can be sent in full, or the provider keeps it. */
  answerable: boolean;
  candidate: Candidate | null;
  /** Sessions of token and hard key when the anchor is unknown: they may choose a worker, never the parent. */
  bystanders: readonly Candidate[];
  /** Known ancestor of an unanchored request, by its transcript. */
  prefixTurn: TurnRow | null;
  /** The candidate was found by a transcript that is only like the request's: it lends its socket and is no parent. */
  onlyLike: boolean;
}

/** `failed`, `cancelled` and `lost` turns are never parents, nor is one that has not ended. */
export function mayBeParent(turn: TurnRow): boolean {
  return turn.state === 'completed' || turn.state === 'incomplete';
}

function open(session: SessionRow | null, scope: string): SessionRow | null {
  return session && session.scope === scope && session.state !== 'closed' ? session : null;
}

function denied(attempt: AttemptFact, session: SessionRow): boolean {
  if (attempt.kind !== 'not_owner' || attempt.sessionId !== session.id) return false;
  return attempt.workerId === undefined || attempt.workerId === session.ownerWorkerId;
}

function standing(session: SessionRow, { me, rows, attempts }: Facts): OwnerStanding {
  const id = session.ownerWorkerId;
  if (id === null) return 'nobody';
  if (id === me) return 'me';
  const worker = rows.owners.get(id);
  if (worker?.state === 'dead') return 'dead';
  if (!worker || worker.version === UNKNOWN_VERSION) return 'unrecorded';
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

/** Sessions named by the token and by the hard key, strongest first. A token of an older epoch names nothing. */
function named({ token, hardKey, scope }: Evidence, { rows, apart }: Facts): { by: FoundBy; session: SessionRow }[] {
  const found: { by: FoundBy; session: SessionRow }[] = [];
  const byToken = open(rows.token, scope);
  if (token.kind === 'ours' && byToken?.id === token.sessionId && byToken.epoch === token.epoch) {
    found.push({ by: 'token', session: byToken });
  }
  const byKey = hardKey && apart !== true ? open(rows.keyed, scope) : null;
  if (byKey && byKey.id !== found[0]?.session.id) found.push({ by: 'hard_key', session: byKey });
  return found;
}

/** Looks once at everything the rows of the table ask about. Facts of another scope count as unknown. */
export function survey(evidence: Evidence, facts: Facts): Situation {
  const { scope } = evidence;
  const found = evidence.anchor !== null && facts.rows.anchor?.turn.scope === scope ? facts.rows.anchor : null;
  const anchor = found?.turn ?? null;
  const anchorUnknown = evidence.anchor !== null && anchor === null;

  const like = evidence.anchor === null && facts.like?.turn.scope === scope ? facts.like : null;
  const likeTurn = like && mayBeParent(like.turn) ? like.turn : null;
  const prefixTurn = like?.exact ? likeTurn : null;

  const others = named(evidence, facts);
  let candidate: Candidate | null = null;
  if (anchor) {
    const session = open(found?.session ?? null, scope);
    candidate = session && candidateOf('anchor', session, anchor, facts);
  } else if (evidence.anchor === null) {
    const strongest = others[0];
    // A hard key names a conversation of its own: a shared beginning does not make it another's.
    const byItems = likeTurn && (evidence.hardKey === null || facts.apart === true);
    const session = byItems ? open(like?.session ?? null, scope) : null;
    if (strongest) candidate = candidateOf(strongest.by, strongest.session, null, facts);
    else if (session) candidate = candidateOf('prefix', session, likeTurn, facts);
  }

  return {
    evidence,
    facts,
    anchor,
    anchorUnknown,
    answerable:
      anchor !== null &&
      mayBeParent(anchor) &&
      !isLostHead(anchor, found?.session ?? null) &&
      (isStored(anchor, evidence) || facts.anchorExact === true),
    candidate,
    bystanders: anchorUnknown ? others.map(({ by, session }) => candidateOf(by, session, null, facts)) : [],
    prefixTurn,
    onlyLike: like?.exact === false,
  };
}

function isLostHead(turn: TurnRow, session: SessionRow | null): boolean {
  return session?.anchorLost === true && session.headTurnId === turn.id;
}

/** The provider keeps this response, and knows it under the credential that asks now. */
function isStored(turn: TurnRow, evidence: Evidence): boolean {
  return turn.storedUpstream && turn.credentialFp === evidence.credentialFp;
}

/** The turn is already on the wire, as opposed to waiting for a socket, a start or a settle. */
export function isStreaming({ state }: LocalSession): boolean {
  return state.startsWith('live.streaming') || state.startsWith('reconnecting.resending');
}

/**
 * Whether this actor's running (or ended but undelivered) turn is this very request: equal fingerprints, the same
 * parent, and the same client turn where either names one.
 */
function isSameRequest({ evidence, anchor }: Situation, actor: LocalSession): boolean {
  if (actor.activeRequestFp === null || actor.activeRequestFp !== evidence.requestFp) return false;
  if (evidence.anchor !== null && actor.activeParentTurnId !== (anchor?.id ?? null)) return false;
  if (actor.activeIdempotencyKey !== evidence.idempotencyKey) return false;
  return actor.activeClientTurnId === evidence.clientTurnId;
}

/** What the client sends tells an attempt from a request of its own that asks the same. */
export function tellsRepeats({ repeats, clientTurnId, idempotencyKey }: Evidence): boolean {
  return repeats || clientTurnId !== null || idempotencyKey !== null;
}

/** A turn that asked the same at another worker that can be asked, and that has not denied it yet. */
export function repeatedElsewhere({ evidence, anchor, facts }: Situation): Repeated | null {
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
  return facts.elsewhere?.find(mayHave) ?? null;
}

/** The request repeats the Idempotency-Key of this actor's turn. */
export function sameIdempotencyKey({ evidence }: Situation, actor: LocalSession): boolean {
  return evidence.idempotencyKey !== null && evidence.idempotencyKey === actor.activeIdempotencyKey;
}

/**
 * Whether the request may take up this actor's stream. An earlier connection that still looks attached counts for
 * nothing when the client itself says that it is the same turn: its close was merely overtaken by the retry.
 */
export function mayReattach(situation: Situation, actor: LocalSession): boolean {
  if (!actor.bufferComplete || !isSameRequest(situation, actor)) return false;
  if (!actor.clientAttached || sameIdempotencyKey(situation, actor)) return true;
  return situation.evidence.clientTurnId !== null;
}

/** Seconds until the owner's lease can have run out: the earliest moment at which repeating can change anything. */
export function leaseSeconds(leaseLeftMs: number | undefined): number {
  return Math.max(1, Math.ceil((leaseLeftMs ?? 0) / 1000));
}
