import type { Evidence, LocalSession } from '../resolve/types.ts';
import { createRegistry } from '../runtime/index.ts';
import type { KeyRef, LookupResult, SessionRow } from '../store/port.ts';
import type { Session } from './session.ts';

/** The sessions that have an actor on this worker: at most one per id, always of the newest epoch. */
export interface Roster {
  add(session: Session): void;
  /** Its actor has ended. A turn that its client has not got stays to be taken up, until it is forgotten. */
  remove(session: Session): void;
  /** The session's ended turn waits for its client no longer. */
  forgotten(session: Session): void;
  exact(id: string, epoch: number): Session | null;
  /** The same, also where the session has ended with a turn that may still be taken up. */
  attachable(id: string, epoch: number): Session | null;
  /** The session's actor here, of whatever epoch. */
  get(id: string): Session | null;
  /** The session, if its actor here is of an older epoch than that. */
  older(id: string, epoch: number): Session | null;
  /** Makes a session that rests findable by the anchor its socket holds. */
  rests(session: Session): void;
  /**
   * Sessions here that a look-up could only confirm: named by the hard key, by the anchor their socket holds, or by a
   * place in the request's items, idle, and with nothing undelivered. If one was taken from this worker meanwhile, its
   * start is fenced.
   *
   * @param places where in the request's items a known turn might end, the deepest first; asked for only when needed
   */
  certain(evidence: Evidence, places: () => readonly string[]): Session[];
  /** What the resolver may know of the sessions a look-up found, and of the one whose transcript is like the request's. */
  views(
    rows: LookupResult,
    like: SessionRow | null,
    scope: string,
    anchor: string | null,
  ): ReadonlyMap<string, LocalSession>;
  /** Notes that the client of the session's turn, in hand or ended undelivered, has left. */
  left(session: Session): void;
  /**
   * A client of this scope reads a turn that asks the same: `left` resolves when such a client leaves. Null without one.
   * `cancel` ends the wait.
   */
  readBy(scope: string, requestFp: string): { left: Promise<void>; cancel(): void } | null;
  /** A session of this scope whose turn asks the same and may be taken up: one that has lost its client before others. */
  repeated(scope: string, requestFp: string): LocalSession | null;
  /** The session of this scope whose turn carries this Idempotency-Key. */
  withIdempotencyKey(scope: string, key: string | null): LocalSession | null;
  /**
   * Makes room for one more socket of a scope, by evicting an idle one where it must: one of its own when the scope holds
   * as many as it may, else one of the scope that holds most.
   *
   * @returns a place that counts as a socket until `leave`, or whose limit keeps the scope from having one: every one
   *   that could be evicted is busy
   */
  makeRoom(scope: string): { leave(): void } | 'scope' | 'worker';
  all(): Iterable<Session>;
  readonly size: number;
}

/** What one scope holds. */
interface Held {
  sessions: Set<Session>;
  /** Places taken for sessions that are about to be. */
  places: number;
}

/** More resting conversations that are alike up to a place are not compared with a request. */
const MOST_ALIKE = 64;

/**
 * @param capacity sockets this worker may hold
 * @param share sockets one scope may hold; 0: as many as there are
 */
export function createRoster(capacity: number, share = 0): Roster {
  const registry = createRegistry<Session>({ stop: (older) => older.send({ type: 'worker.dead' }) });

  const byKey = new Map<string, Session>();
  /**
   * Resting sessions by the anchor that their socket holds, and by the places at which their head ends. Conversations
   * may be alike up to a place: each has its session there, the newest last.
   */
  const byAnchor = new Map<string, Session>();
  const byPlace = new Map<string, Set<Session>>();
  /**
   * Sessions whose turn lost its client, and ended ones whose turn has not reached it, by what that turn asked: some are
   * taken up again, all others are forgotten soon.
   */
  const unread = new Map<string, Set<Session>>();
  const unreadAs = new Map<Session, string>();
  /** Ended sessions among them, by id and epoch. */
  const lingering = new Map<string, Session>();
  const byScope = new Map<string, Held>();
  let places = 0;
  const resting = new Map<Session, { anchor: string; places: readonly string[] }>();
  const keyName = (scope: string, { kind, hash }: KeyRef) => `${scope}\n${kind}\n${hash}`;
  const forget = <K>(map: Map<K, Session>, name: K | undefined, session: Session) => {
    if (name !== undefined && map.get(name) === session) map.delete(name);
  };

  /** Called when a turn that asks this has lost its client. */
  const watching = new Map<string, Set<() => void>>();
  const took = (session: Session) => {
    const name = unreadAs.get(session);
    if (name === undefined) return;
    unreadAs.delete(session);
    const same = unread.get(name);
    if (same?.delete(session) && same.size === 0) unread.delete(name);
  };
  const waits = (session: Session) => {
    took(session);
    const turn = session.attachable;
    if (turn === null) return;
    const name = `${session.scope}\n${turn.evidence.requestFp}`;
    const same = unread.get(name) ?? new Set();
    unread.set(name, same.add(session));
    unreadAs.set(session, name);
    for (const seen of watching.get(name) ?? []) seen();
  };

  const unlist = (session: Session) => {
    const listed = resting.get(session);
    if (!listed) return;
    resting.delete(session);
    forget(byAnchor, listed.anchor, session);
    for (const place of listed.places) {
      const there = byPlace.get(place);
      if (there?.delete(session) && there.size === 0) byPlace.delete(place);
    }
  };

  /** At rest, with a socket that holds the head, and with nothing undelivered. */
  const isWarm = (session: Session): boolean => {
    if (session.attachable !== null) return false;
    const { state, socketAnchor, busy } = session.view();
    return !busy && state === 'live.idle' && socketAnchor !== null && session.head?.responseId === socketAnchor;
  };

  const order = ({ onlyHolder, hard }: Session) => (onlyHolder ? 2 : hard ? 1 : 0);

  const heldBy = (scope: string): Held => {
    const held = byScope.get(scope) ?? { sessions: new Set<Session>(), places: 0 };
    byScope.set(scope, held);
    return held;
  };
  const tidy = (scope: string, { sessions, places: taken }: Held) => {
    if (sessions.size + taken === 0) byScope.delete(scope);
  };

  /** Sessions without hard evidence before all others, only holders last, the least recently used first. Busy ones never. */
  const evictable = ({ sessions }: Held): Session | null => {
    let victim: Session | null = null;
    for (const session of sessions) {
      if (session.view().busy) continue;
      const better = victim && (order(session) - order(victim) || session.lastUsed - victim.lastUsed);
      if (better === null || better < 0) victim = session;
    }
    return victim;
  };
  const evict = (held: Held): boolean => {
    const before = held.sessions.size;
    evictable(held)?.send({ type: 'operator.release' });
    return held.sessions.size < before;
  };
  /** From the scope that holds most, or from the next where all of that one are busy. */
  const evictFromLargest = (): boolean =>
    [...byScope.values()].sort((one, other) => other.sessions.size - one.sessions.size).some(evict);

  return {
    add(session) {
      heldBy(session.scope).sessions.add(session);
      registry.register(session.id, session.epoch, session);
      if (session.key) byKey.set(keyName(session.scope, session.key), session);
    },
    remove(session) {
      registry.remove(session.id, session.epoch);
      const held = heldBy(session.scope);
      held.sessions.delete(session);
      tidy(session.scope, held);
      if (session.key) forget(byKey, keyName(session.scope, session.key), session);
      unlist(session);
      if (session.attachable === null) return took(session);
      waits(session);
      lingering.set(`${session.id}\n${session.epoch}`, session);
    },
    forgotten(session) {
      took(session);
      lingering.delete(`${session.id}\n${session.epoch}`);
    },
    rests(session) {
      const { socketAnchor } = session.view();
      unlist(session);
      if (socketAnchor === null || session.head?.responseId !== socketAnchor) return;
      const anchor = `${session.scope}\n${socketAnchor}`;
      const places = session.places.map((place) => `${session.scope}\n${place}`);
      byAnchor.set(anchor, session);
      for (const place of places) {
        const there = byPlace.get(place);
        if (there) there.add(session);
        else byPlace.set(place, new Set([session]));
      }
      resting.set(session, { anchor, places });
    },
    certain({ scope, anchor, hardKey, token, passThrough, idempotencyKey, ...rest }, places) {
      const plain = passThrough === null && idempotencyKey === null && token.kind !== 'invalid';
      if (!plain || (rest.foreign !== null && !rest.credentialIsClients)) return [];
      if (anchor !== null) {
        const session = byAnchor.get(`${scope}\n${anchor}`);
        return session && isWarm(session) && session.view().socketAnchor === anchor ? [session] : [];
      }
      const found = new Set<Session>();
      const keyed = hardKey && byKey.get(keyName(scope, hardKey));
      if (keyed) found.add(keyed);
      // A thread has one session; under a session header, or without a key, the items tell which conversation it is.
      if (hardKey?.kind !== 'thread' && (hardKey === null || keyed)) {
        for (const place of places()) {
          const there = byPlace.get(`${scope}\n${place}`);
          if (there) for (const session of [...there].slice(-MOST_ALIKE).reverse()) found.add(session);
        }
      }
      // A token that names another session is stronger than a key or a place.
      const named = ({ id, epoch }: Session) =>
        token.kind !== 'ours' || (token.sessionId === id && token.epoch === epoch);
      return [...found].filter((session) => named(session) && isWarm(session));
    },
    exact: (id, epoch) => registry.getExact(id, epoch) ?? null,
    attachable: (id, epoch) => registry.getExact(id, epoch) ?? lingering.get(`${id}\n${epoch}`) ?? null,
    get: (id) => registry.get(id) ?? null,
    older(id, epoch) {
      const session = registry.get(id);
      return session && session.epoch < epoch ? session : null;
    },
    withIdempotencyKey(scope, key) {
      if (key === null) return null;
      for (const session of [...registry.values(), ...lingering.values()]) {
        if (session.scope === scope && session.attachable?.evidence.idempotencyKey === key) return session.view();
      }
      return null;
    },
    left: waits,
    readBy(scope, requestFp) {
      const isRead = ({ attachable: turn }: Session) =>
        turn?.evidence.requestFp === requestFp && turn.repeatable && turn.stream.attached;
      if (![...(byScope.get(scope)?.sessions ?? [])].some(isRead)) return null;
      const name = `${scope}\n${requestFp}`;
      const { promise: left, resolve } = Promise.withResolvers<void>();
      const watchers = watching.get(name) ?? new Set();
      watching.set(name, watchers.add(resolve));
      return {
        left,
        cancel() {
          if (watchers.delete(resolve) && watchers.size === 0 && watching.get(name) === watchers) watching.delete(name);
        },
      };
    },
    repeated(scope, requestFp) {
      let read: LocalSession | null = null;
      for (const session of [...(unread.get(`${scope}\n${requestFp}`) ?? [])]) {
        const turn = session.attachable;
        if (turn?.evidence.requestFp !== requestFp) took(session);
        else if (turn.repeatable && !turn.stream.attached) return session.view();
        else if (turn.repeatable) read = session.view();
      }
      return read;
    },
    views(rows, like, scope, anchor) {
      const views = new Map<string, LocalSession>();
      const candidates: (SessionRow | null | undefined)[] = [rows.anchor?.session, rows.token, rows.keyed, like];
      for (const row of candidates) {
        const session = row && registry.get(row.id);
        if (session) views.set(session.id, session.view());
      }
      // An id that was given out before its settle was answered is known only here.
      if (anchor !== null && rows.anchor === null) {
        for (const session of registry.values()) {
          if (session.scope === scope && session.view().unsettledResponseIds.includes(anchor)) {
            views.set(session.id, session.view());
          }
        }
      }
      return views;
    },
    makeRoom(scope) {
      const held = heldBy(scope);
      const full = () => share > 0 && held.sessions.size + held.places >= share;
      const crowded = () => registry.size + places >= capacity;
      if (full()) evict(held);
      if (!full() && crowded()) evictFromLargest();
      const limit = full() ? 'scope' : crowded() ? 'worker' : null;
      if (limit !== null) {
        tidy(scope, held);
        return limit;
      }
      // Evicting may have let the scope go.
      byScope.set(scope, held);
      held.places += 1;
      places += 1;
      let left = false;
      return {
        leave() {
          if (left) return;
          left = true;
          held.places -= 1;
          places -= 1;
          tidy(scope, held);
        },
      };
    },
    all: () => registry.values(),
    get size() {
      return registry.size;
    },
  };
}
