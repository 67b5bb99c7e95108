import type { Evidence, LocalSession } from '../resolve/types.ts';
import type { KeyRef, LookupResult, SessionRow } from '../store/port.ts';
import type { Session } from './session.ts';

/** The actors of one process: at most one per id, always that of the newest epoch. */
export interface Registry<T> {
  /**
   * Adds an actor. An actor of an older epoch is stopped first.
   *
   * @throws Error if an actor of the same or a newer epoch is registered
   */
  register(id: string, epoch: number, value: T): void;
  get(id: string): T | undefined;
  /** Returns the actor if it has exactly this epoch: an actor of an older epoch must not be used. */
  getExact(id: string, epoch: number): T | undefined;
  /**
   * Removes the actor if it has exactly this epoch.
   *
   * @returns true if it was removed
   */
  remove(id: string, epoch: number): boolean;
  values(): IterableIterator<T>;
  readonly size: number;
}

/**
 * Creates a registry.
 *
 * @param stop called with an actor that a newer epoch replaces, before the new one is added
 */
export function createRegistry<T>({ stop }: { stop(older: T): void }): Registry<T> {
  const entries = new Map<string, { epoch: number; value: T }>();
  return {
    register(id, epoch, value) {
      const present = entries.get(id);
      if (present && present.epoch >= epoch) {
        throw new Error(`${id} has an actor of epoch ${present.epoch}; one of epoch ${epoch} may not replace it`);
      }
      if (present) {
        entries.delete(id);
        stop(present.value);
      }
      entries.set(id, { epoch, value });
    },
    get: (id) => entries.get(id)?.value,
    getExact(id, epoch) {
      const entry = entries.get(id);
      return entry?.epoch === epoch ? entry.value : undefined;
    },
    remove: (id, epoch) => entries.get(id)?.epoch === epoch && entries.delete(id),
    *values() {
      for (const { value } of entries.values()) yield value;
    },
    get size() {
      return entries.size;
    },
  };
}

/** Sessions and reserved places of one scope. */
interface ScopeUse {
  sessions: Set<Session>;
  /** Places reserved for sessions that are not created yet. */
  places: number;
  /**
   * Idle sessions, by the anchor that their socket holds and by the places at which their head ends. Conversations may
   * have the same items up to a place: each has its own session there, the newest last. There is an index for each scope,
   * so that the names are those that the session has anyway.
   */
  byAnchor: Map<string, Session>;
  byPlace: Map<string, Session | Set<Session>>;
}

/** Maximum number of idle sessions with the same items up to a place that are compared with a request. */
const MOST_ALIKE = 64;

/** Returns the name of a hard key in an index over all scopes. */
export const keyName = (scope: string, { kind, hash }: KeyRef) => `${scope}\n${kind}\n${hash}`;
const epochName = ({ id, epoch }: { id: string; epoch: number }) => `${id}\n${epoch}`;

/** Removes a session from an index, unless another one has replaced it there. */
function removeFrom(index: Map<string, Session>, name: string, session: Session): void {
  if (index.get(name) === session) index.delete(name);
}

/** Removes a session from an index with several sessions under one name. */
function removeFromSet(index: Map<string, Set<Session>>, name: string, session: Session): void {
  const same = index.get(name);
  if (same?.delete(session) && same.size === 0) index.delete(name);
}

/** Returns the sessions at a place, the newest last. */
function sessionsAt({ byPlace }: ScopeUse, place: string): readonly Session[] {
  const found = byPlace.get(place);
  if (found === undefined) return [];
  return found instanceof Set ? [...found] : [found];
}

/** Adds a session to those at a place. Nearly always it is the only one, and a set would take ten times the memory. */
function addAt({ byPlace }: ScopeUse, place: string, session: Session): void {
  const found = byPlace.get(place);
  if (found instanceof Set) found.add(session);
  else byPlace.set(place, found === undefined || found === session ? session : new Set([found, session]));
}

/** Removes a session from those at a place. */
function removeAt({ byPlace }: ScopeUse, place: string, session: Session): void {
  const found = byPlace.get(place);
  if (found instanceof Set ? found.delete(session) && found.size === 0 : found === session) byPlace.delete(place);
}

function addToSet<T>(index: Map<string, Set<T>>, name: string, value: T): void {
  const same = index.get(name);
  if (same) same.add(value);
  else index.set(name, new Set([value]));
}

/** Returns whether the session is idle, its socket holds the head, and no turn is undelivered. */
function isWarm(session: Session): boolean {
  if (session.turns.attachable !== null) return false;
  const { state, socketAnchor, busy } = session.view();
  return !busy && state === 'live.idle' && socketAnchor !== null && session.turns.head?.responseId === socketAnchor;
}

/**
 * Returns the session to evict first: sessions without hard evidence before others, sessions whose socket alone holds
 * the conversation last, each group by least recent use. Busy sessions are never evicted.
 */
function evictable({ sessions }: ScopeUse): Session | null {
  const order = ({ onlyHolder, hard }: Session) => (onlyHolder ? 2 : hard ? 1 : 0);
  let victim: Session | null = null;
  for (const session of sessions) {
    if (session.view().busy) continue;
    const better = victim && (order(session) - order(victim) || session.turns.lastUsed - victim.turns.lastUsed);
    if (better === null || better < 0) victim = session;
  }
  return victim;
}

/**
 * Evicts an idle session of a scope.
 *
 * @returns false if there is none
 */
function evict(use: ScopeUse): boolean {
  const before = use.sessions.size;
  evictable(use)?.send({ type: 'operator.release' });
  return use.sessions.size < before;
}

/** The session registry of this worker: sessions with an actor here, at most one per id, always of the newest epoch. */
export class SessionRegistry {
  readonly #capacity: number;
  readonly #share: number;
  readonly #actors = createRegistry<Session>({ stop: (older) => older.send({ type: 'worker.dead' }) });
  readonly #byKey = new Map<string, Session>();
  /** The names under which an idle session is listed in its scope's indexes. */
  readonly #idle = new Map<Session, { anchor: string; places: readonly string[] }>();
  /**
   * Sessions whose running turn lost its client, and ended sessions with an undelivered turn, by the turn's request.
   * Some are reattached, the others are removed after the grace period.
   */
  readonly #unread = new Map<string, Set<Session>>();
  readonly #unreadAs = new Map<Session, string>();
  /** The ended ones among them, by id and epoch. */
  readonly #endedUnread = new Map<string, Session>();
  /** Listeners to call when a turn with this request has lost its client. */
  readonly #watchers = new Map<string, Set<() => void>>();
  readonly #byScope = new Map<string, ScopeUse>();
  /** Reserved places of all scopes. */
  #places = 0;

  /**
   * @param capacity maximum number of sockets on this worker
   * @param share maximum number of sockets of one scope; 0 means no limit per scope
   */
  constructor(capacity: number, share = 0) {
    this.#capacity = capacity;
    this.#share = share;
  }

  get size(): number {
    return this.#actors.size;
  }

  all(): Iterable<Session> {
    return this.#actors.values();
  }

  /** Returns the session's actor here, of any epoch. */
  get(id: string): Session | null {
    return this.#actors.get(id) ?? null;
  }

  /** Returns the session's actor here if it has exactly this epoch. */
  exact(id: string, epoch: number): Session | null {
    return this.#actors.getExact(id, epoch) ?? null;
  }

  /** Returns the session if its actor here has an older epoch than `epoch`. */
  older(id: string, epoch: number): Session | null {
    const session = this.#actors.get(id);
    return session && session.epoch < epoch ? session : null;
  }

  /** Like `exact`, but also finds an ended session whose turn may still be reattached. */
  attachable(id: string, epoch: number): Session | null {
    return this.exact(id, epoch) ?? this.#endedUnread.get(epochName({ id, epoch })) ?? null;
  }

  /** Adds a session. An actor of an older epoch of the same session is stopped. */
  add(session: Session): void {
    this.#useOf(session.scope).sessions.add(session);
    this.#actors.register(session.id, session.epoch, session);
    if (session.key) this.#byKey.set(keyName(session.scope, session.key), session);
  }

  /** Removes a session whose actor has ended. Its undelivered turn can still be reattached until `turnDiscarded`. */
  remove(session: Session): void {
    this.#actors.remove(session.id, session.epoch);
    const use = this.#useOf(session.scope);
    use.sessions.delete(session);
    this.#removeIdle(session);
    this.#tidy(session.scope, use);
    if (session.key) removeFrom(this.#byKey, keyName(session.scope, session.key), session);
    if (session.turns.attachable === null) return this.#removeUnread(session);
    this.clientLeft(session);
    this.#endedUnread.set(epochName(session), session);
  }

  /** Removes the session's ended turn, which is no longer kept for its client. */
  turnDiscarded(session: Session): void {
    this.#removeUnread(session);
    this.#endedUnread.delete(epochName(session));
  }

  /** Indexes an idle session by the anchor that its socket holds, and by the places at which its head ends. */
  addIdle(session: Session): void {
    const { anchor: held } = session.socket;
    const { head, places } = session.turns;
    this.#removeIdle(session);
    if (held === null || head?.responseId !== held) return;
    const use = this.#useOf(session.scope);
    use.byAnchor.set(held, session);
    for (const place of places) addAt(use, place, session);
    this.#idle.set(session, { anchor: held, places });
  }

  /**
   * Returns local sessions for which a look-up could only confirm the choice: named by the hard key, by the anchor that
   * their socket holds, or by a place in the request's items; idle; without an undelivered turn. If such a session was
   * claimed by another worker in the meantime, its start is fenced.
   *
   * @param places returns the fingerprints of the places in the request's items at which a known turn might end,
   *   deepest first; called only if needed
   */
  warm(
    { scope, anchor, hardKey, token, passThrough, idempotencyKey, ...rest }: Evidence,
    places: () => readonly string[],
  ): Session[] {
    const plain = passThrough === null && idempotencyKey === null && token.kind !== 'invalid';
    if (!plain || (rest.foreign !== null && !rest.credentialIsClients)) return [];
    const use = this.#byScope.get(scope);
    if (use === undefined) return [];
    if (anchor !== null) {
      const session = use.byAnchor.get(anchor);
      return session && isWarm(session) && session.socket.anchor === anchor ? [session] : [];
    }
    const found = new Set<Session>();
    const keyed = hardKey && this.#byKey.get(keyName(scope, hardKey));
    if (keyed) found.add(keyed);
    // A thread has exactly one session. Under a session header, or without a key, the items identify the conversation.
    if (hardKey?.kind !== 'thread' && (hardKey === null || keyed)) {
      for (const place of places()) {
        for (const session of sessionsAt(use, place).slice(-MOST_ALIKE).reverse()) found.add(session);
      }
    }
    // A token that names another session takes precedence over a key or a place.
    const named = ({ id, epoch }: Session) =>
      token.kind !== 'ours' || (token.sessionId === id && token.epoch === epoch);
    return [...found].filter((session) => named(session) && isWarm(session));
  }

  /**
   * Returns the local views of the sessions that a look-up found, and of the one whose transcript resembles the
   * request's.
   */
  views(
    rows: LookupResult,
    like: SessionRow | null,
    scope: string,
    anchor: string | null,
  ): ReadonlyMap<string, LocalSession> {
    const views = new Map<string, LocalSession>();
    const candidates: (SessionRow | null | undefined)[] = [rows.anchor?.session, rows.token, rows.keyed, like];
    for (const row of candidates) {
      const session = row && this.#actors.get(row.id);
      if (session) views.set(session.id, session.view());
    }
    // A response id that was shown before its settle was answered is known only to its session here.
    if (anchor !== null && rows.anchor === null) {
      for (const session of this.#actors.values()) {
        if (session.scope === scope && session.view().unsettledResponseIds.includes(anchor)) {
          views.set(session.id, session.view());
        }
      }
    }
    return views;
  }

  /** Notes that the client of the session's turn (running, or ended and undelivered) has disconnected. */
  clientLeft(session: Session): void {
    this.#removeUnread(session);
    const turn = session.turns.attachable;
    if (turn === null) return;
    const name = `${session.scope}\n${turn.evidence.requestFp}`;
    addToSet(this.#unread, name, session);
    this.#unreadAs.set(session, name);
    for (const notify of this.#watchers.get(name) ?? []) notify();
  }

  /**
   * Finds a turn of this scope with the same request that a client is still reading. `left` resolves when such a client
   * disconnects, `cancel` ends the wait. Null if there is none.
   */
  watchReader(scope: string, requestFp: string): { left: Promise<void>; cancel(): void } | null {
    const isRead = ({ turns: { attachable: turn } }: Session) =>
      turn?.evidence.requestFp === requestFp && turn.repeatable && turn.stream.attached;
    if (![...(this.#byScope.get(scope)?.sessions ?? [])].some(isRead)) return null;
    const name = `${scope}\n${requestFp}`;
    const { promise: left, resolve } = Promise.withResolvers<void>();
    addToSet(this.#watchers, name, resolve);
    return {
      left,
      cancel: () => {
        const watchers = this.#watchers.get(name);
        if (watchers?.delete(resolve) && watchers.size === 0) this.#watchers.delete(name);
      },
    };
  }

  /**
   * Returns a session of this scope whose turn has the same request and can be reattached. Prefers a turn without a
   * client.
   */
  repeated(scope: string, requestFp: string): LocalSession | null {
    let read: LocalSession | null = null;
    for (const session of [...(this.#unread.get(`${scope}\n${requestFp}`) ?? [])]) {
      const turn = session.turns.attachable;
      if (turn?.evidence.requestFp !== requestFp) this.#removeUnread(session);
      else if (turn.repeatable && !turn.stream.attached) return session.view();
      else if (turn.repeatable) read = session.view();
    }
    return read;
  }

  /** Returns the session of this scope whose turn carries this Idempotency-Key. */
  withIdempotencyKey(scope: string, key: string | null): LocalSession | null {
    if (key === null) return null;
    for (const session of [...this.#actors.values(), ...this.#endedUnread.values()]) {
      if (session.scope === scope && session.turns.attachable?.evidence.idempotencyKey === key) return session.view();
    }
    return null;
  }

  /**
   * Reserves room for one more socket of a scope. If necessary it evicts an idle session: one of this scope if the
   * scope is at its limit, otherwise one of the scope with the most sessions.
   *
   * @returns a place that counts as a socket until `leave`; or the limit that was reached (`scope` or `worker`) while
   *   every session that could be evicted is busy
   */
  makeRoom(scope: string): { leave(): void } | 'scope' | 'worker' {
    const use = this.#useOf(scope);
    const full = () => this.#share > 0 && use.sessions.size + use.places >= this.#share;
    const crowded = () => this.#actors.size + this.#places >= this.#capacity;
    if (full()) evict(use);
    if (!full() && crowded()) this.#evictFromLargest();
    const limit = full() ? 'scope' : crowded() ? 'worker' : null;
    if (limit !== null) {
      this.#tidy(scope, use);
      return limit;
    }
    // Evicting may have removed the scope's entry.
    this.#byScope.set(scope, use);
    use.places += 1;
    this.#places += 1;
    let left = false;
    return {
      leave: () => {
        if (left) return;
        left = true;
        use.places -= 1;
        this.#places -= 1;
        this.#tidy(scope, use);
      },
    };
  }

  /** Evicts a session of the scope with the most sessions; if all of those are busy, of the next one. */
  #evictFromLargest(): boolean {
    return [...this.#byScope.values()].sort((one, other) => other.sessions.size - one.sessions.size).some(evict);
  }

  #useOf(scope: string): ScopeUse {
    const use = this.#byScope.get(scope) ?? {
      sessions: new Set<Session>(),
      places: 0,
      byAnchor: new Map<string, Session>(),
      byPlace: new Map<string, Session | Set<Session>>(),
    };
    this.#byScope.set(scope, use);
    return use;
  }

  #tidy(scope: string, { sessions, places }: ScopeUse): void {
    if (sessions.size + places === 0) this.#byScope.delete(scope);
  }

  #removeIdle(session: Session): void {
    const names = this.#idle.get(session);
    const use = this.#byScope.get(session.scope);
    if (!names || !use) return;
    this.#idle.delete(session);
    removeFrom(use.byAnchor, names.anchor, session);
    for (const place of names.places) removeAt(use, place, session);
  }

  #removeUnread(session: Session): void {
    const name = this.#unreadAs.get(session);
    if (name === undefined) return;
    this.#unreadAs.delete(session);
    removeFromSet(this.#unread, name, session);
  }
}
