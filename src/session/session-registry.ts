import type { Evidence, LocalSession } from '../resolve/types.ts';
import { createRegistry } from '../runtime/index.ts';
import type { KeyRef, LookupResult, SessionRow } from '../store/port.ts';
import type { Session } from './session.ts';

/** The session registry of this worker: sessions with an actor here, at most one per id, always of the newest epoch. */
export interface SessionRegistry {
  /** Adds a session. An actor of an older epoch of the same session is stopped. */
  add(session: Session): void;
  /** Removes a session whose actor has ended. Its undelivered turn can still be reattached until `forgotten`. */
  remove(session: Session): void;
  /** Removes the session's ended turn, which is no longer kept for its client. */
  forgotten(session: Session): void;
  /** Returns the session's actor here if it has exactly this epoch. */
  exact(id: string, epoch: number): Session | null;
  /** Like `exact`, but also finds an ended session whose turn may still be reattached. */
  attachable(id: string, epoch: number): Session | null;
  /** Returns the session's actor here, of any epoch. */
  get(id: string): Session | null;
  /** Returns the session if its actor here has an older epoch than `epoch`. */
  older(id: string, epoch: number): Session | null;
  /** Indexes an idle session by the anchor that its socket holds, and by the places at which its head ends. */
  rests(session: Session): void;
  /**
   * Returns local sessions for which a look-up could only confirm the choice: named by the hard key, by the anchor that
   * their socket holds, or by a place in the request's items; idle; without an undelivered turn. If such a session was
   * claimed by another worker in the meantime, its start is fenced.
   *
   * @param places returns the fingerprints of the places in the request's items at which a known turn might end,
   *   deepest first; called only if needed
   */
  certain(evidence: Evidence, places: () => readonly string[]): Session[];
  /**
   * Returns the local views of the sessions that a look-up found, and of the one whose transcript resembles the
   * request's.
   */
  views(
    rows: LookupResult,
    like: SessionRow | null,
    scope: string,
    anchor: string | null,
  ): ReadonlyMap<string, LocalSession>;
  /** Notes that the client of the session's turn (running, or ended and undelivered) has disconnected. */
  left(session: Session): void;
  /**
   * Finds a turn of this scope with the same request that a client is still reading. `left` resolves when such a client
   * disconnects, `cancel` ends the wait. Null if there is none.
   */
  readBy(scope: string, requestFp: string): { left: Promise<void>; cancel(): void } | null;
  /**
   * Returns a session of this scope whose turn has the same request and can be reattached. Prefers a turn without a
   * client.
   */
  repeated(scope: string, requestFp: string): LocalSession | null;
  /** Returns the session of this scope whose turn carries this Idempotency-Key. */
  withIdempotencyKey(scope: string, key: string | null): LocalSession | null;
  /**
   * Reserves room for one more socket of a scope. If necessary it evicts an idle session: one of this scope if the
   * scope is at its limit, otherwise one of the scope with the most sessions.
   *
   * @returns a place that counts as a socket until `leave`; or the limit that was reached (`scope` or `worker`) while
   *   every session that could be evicted is busy
   */
  makeRoom(scope: string): { leave(): void } | 'scope' | 'worker';
  all(): Iterable<Session>;
  readonly size: number;
}

/** Sessions and reserved places of one scope. */
interface Held {
  sessions: Set<Session>;
  /** Places reserved for sessions that are not created yet. */
  places: number;
}

/** Maximum number of idle sessions with the same items up to a place that are compared with a request. */
const MOST_ALIKE = 64;

/**
 * Creates the session registry of a worker.
 *
 * @param capacity maximum number of sockets on this worker
 * @param share maximum number of sockets of one scope; 0 means no limit per scope
 */
export function createSessionRegistry(capacity: number, share = 0): SessionRegistry {
  const registry = createRegistry<Session>({ stop: (older) => older.send({ type: 'worker.dead' }) });

  const byKey = new Map<string, Session>();
  /**
   * Idle sessions, by the anchor that their socket holds and by the places at which their head ends. Conversations may
   * have the same items up to a place: each has its own session there, the newest last.
   */
  const byAnchor = new Map<string, Session>();
  const byPlace = new Map<string, Set<Session>>();
  /**
   * Sessions whose running turn lost its client, and ended sessions with an undelivered turn, by the turn's request.
   * Some are reattached, the others are removed after the grace period.
   */
  const unread = new Map<string, Set<Session>>();
  const unreadAs = new Map<Session, string>();
  /** The ended ones among them, by id and epoch. */
  const lingering = new Map<string, Session>();
  const byScope = new Map<string, Held>();
  let places = 0;
  const resting = new Map<Session, { anchor: string; places: readonly string[] }>();
  const keyName = (scope: string, { kind, hash }: KeyRef) => `${scope}\n${kind}\n${hash}`;
  const forget = <K>(map: Map<K, Session>, name: K | undefined, session: Session) => {
    if (name !== undefined && map.get(name) === session) map.delete(name);
  };

  /** Listeners to call when a turn with this request has lost its client. */
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

  /** Returns whether the session is idle, its socket holds the head, and no turn is undelivered. */
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

  /**
   * Returns the session to evict first: sessions without hard evidence before others, sessions whose socket alone holds
   * the conversation last, each group by least recent use. Busy sessions are never evicted.
   */
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
  /** Evicts a session of the scope with the most sessions; if all of those are busy, of the next one. */
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
      // A thread has exactly one session. Under a session header, or without a key, the items identify the
      // conversation.
      if (hardKey?.kind !== 'thread' && (hardKey === null || keyed)) {
        for (const place of places()) {
          const there = byPlace.get(`${scope}\n${place}`);
          if (there) for (const session of [...there].slice(-MOST_ALIKE).reverse()) found.add(session);
        }
      }
      // A token that names another session takes precedence over a key or a place.
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
      // A response id that was shown before its settle was answered is known only to its session here.
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
      // Evicting may have removed the scope's entry.
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
