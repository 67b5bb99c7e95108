import type { LocalSession } from '../resolve/types.ts';
import { createRegistry } from '../runtime/index.ts';
import type { LookupResult, SessionRow } from '../store/port.ts';
import type { Session } from './session.ts';

/** The sessions that have an actor on this worker: at most one per id, always of the newest epoch. */
export interface Roster {
  add(session: Session): void;
  remove(session: Session): void;
  exact(id: string, epoch: number): Session | null;
  /** What the resolver may know of the sessions a look-up found. */
  views(rows: LookupResult): ReadonlyMap<string, LocalSession>;
  /** Makes room for one more socket by evicting an idle one; false when every one is busy. */
  makeRoom(): boolean;
  all(): Iterable<Session>;
  readonly size: number;
}

/** @param capacity sockets this worker may hold */
export function createRoster(capacity: number): Roster {
  const registry = createRegistry<Session>({ stop: (older) => older.send({ type: 'worker.dead' }) });

  /** Least recently used first; sessions without hard evidence before all others. Busy ones never. */
  const evictable = () =>
    [...registry.values()]
      .filter((session) => !session.view().busy)
      .sort((a, b) => Number(a.hard) - Number(b.hard) || a.lastUsed - b.lastUsed)[0];

  return {
    add: (session) => registry.register(session.id, session.epoch, session),
    remove: (session) => registry.remove(session.id, session.epoch),
    exact: (id, epoch) => registry.getExact(id, epoch) ?? null,
    views(rows) {
      const views = new Map<string, LocalSession>();
      const candidates: (SessionRow | null | undefined)[] = [rows.anchor?.session, rows.token, rows.keyed];
      for (const row of candidates) {
        const session = row && registry.get(row.id);
        if (session) views.set(session.id, session.view());
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
