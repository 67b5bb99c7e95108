import type { Evidence, LocalSession } from '../resolve/types.ts';
import { createRegistry } from '../runtime/index.ts';
import type { KeyRef, LookupResult, SessionRow } from '../store/port.ts';
import type { Session } from './session.ts';

/** The sessions that have an actor on this worker: at most one per id, always of the newest epoch. */
export interface Roster {
  add(session: Session): void;
  remove(session: Session): void;
  exact(id: string, epoch: number): Session | null;
  /** The session's actor here, of whatever epoch. */
  get(id: string): Session | null;
  /** The session, if its actor here is of an older epoch than that. */
  older(id: string, epoch: number): Session | null;
  /** Makes a session that rests findable by the anchor its socket holds. */
  rests(session: Session): void;
  /**
   * The one session here that a look-up could only confirm: named by the hard key, or by the anchor its socket holds,
   * idle, and with nothing undelivered. If it was taken from this worker meanwhile, its start is fenced.
   */
  certain(evidence: Evidence): Session | null;
  /** What the resolver may know of the sessions a look-up found. */
  views(rows: LookupResult, scope: string, anchor: string | null): ReadonlyMap<string, LocalSession>;
  /** The session of this scope whose turn in hand carries this Idempotency-Key. */
  withIdempotencyKey(scope: string, key: string | null): LocalSession | null;
  /** Makes room for one more socket by evicting an idle one; false when every one is busy. */
  makeRoom(): boolean;
  all(): Iterable<Session>;
  readonly size: number;
}

/** @param capacity sockets this worker may hold */
export function createRoster(capacity: number): Roster {
  const registry = createRegistry<Session>({ stop: (older) => older.send({ type: 'worker.dead' }) });

  const byKey = new Map<string, Session>();
  const byAnchor = new Map<string, Session>();
  const anchors = new Map<Session, string>();
  const keyName = (scope: string, { kind, hash }: KeyRef) => `${scope}\n${kind}\n${hash}`;
  const forget = <K>(map: Map<K, Session>, name: K | undefined, session: Session) => {
    if (name !== undefined && map.get(name) === session) map.delete(name);
  };

  const order = ({ onlyHolder, hard }: Session) => (onlyHolder ? 2 : hard ? 1 : 0);

  /** Sessions without hard evidence before all others, only holders last, the least recently used first. Busy ones never. */
  const evictable = (): Session | null => {
    let victim: Session | null = null;
    for (const session of registry.values()) {
      if (session.view().busy) continue;
      const better = victim && (order(session) - order(victim) || session.lastUsed - victim.lastUsed);
      if (better === null || better < 0) victim = session;
    }
    return victim;
  };

  return {
    add(session) {
      registry.register(session.id, session.epoch, session);
      if (session.key) byKey.set(keyName(session.scope, session.key), session);
    },
    remove(session) {
      registry.remove(session.id, session.epoch);
      if (session.key) forget(byKey, keyName(session.scope, session.key), session);
      forget(byAnchor, anchors.get(session), session);
      anchors.delete(session);
    },
    rests(session) {
      const { socketAnchor } = session.view();
      forget(byAnchor, anchors.get(session), session);
      anchors.delete(session);
      if (socketAnchor === null || session.head?.responseId !== socketAnchor) return;
      const name = `${session.scope}\n${socketAnchor}`;
      byAnchor.set(name, session);
      anchors.set(session, name);
    },
    certain({ scope, anchor, hardKey, token, passThrough, idempotencyKey, ...rest }) {
      const plain = passThrough === null && idempotencyKey === null && token.kind !== 'invalid';
      if (!plain || (rest.namesProviderObjects && !rest.credentialIsClients)) return null;
      const session =
        anchor !== null ? byAnchor.get(`${scope}\n${anchor}`) : hardKey && byKey.get(keyName(scope, hardKey));
      if (!session || session.attachable !== null) return null;
      const { state, socketAnchor, busy } = session.view();
      if (busy || state !== 'live.idle' || socketAnchor === null || session.head?.responseId !== socketAnchor)
        return null;
      // A token that names another session is stronger than a key.
      if (anchor === null && token.kind === 'ours') {
        if (token.sessionId !== session.id || token.epoch !== session.epoch) return null;
      }
      return anchor === null || anchor === socketAnchor ? session : null;
    },
    exact: (id, epoch) => registry.getExact(id, epoch) ?? null,
    get: (id) => registry.get(id) ?? null,
    older(id, epoch) {
      const session = registry.get(id);
      return session && session.epoch < epoch ? session : null;
    },
    withIdempotencyKey(scope, key) {
      if (key === null) return null;
      for (const session of registry.values()) {
        if (session.scope === scope && session.attachable?.evidence.idempotencyKey === key) return session.view();
      }
      return null;
    },
    views(rows, scope, anchor) {
      const views = new Map<string, LocalSession>();
      const candidates: (SessionRow | null | undefined)[] = [
        rows.anchor?.session,
        rows.token,
        rows.keyed,
        rows.prefix?.session,
      ];
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
    makeRoom() {
      if (registry.size < capacity) return true;
      const victim = evictable();
      victim?.send({ type: 'operator.release' });
      return registry.size < capacity;
    },
    all: () => registry.values(),
    get size() {
      return registry.size;
    },
  };
}
