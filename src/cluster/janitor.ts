import type { Clock } from '../clock.ts';
import type { Purged, StoreAdmin } from '../store/admin-port.ts';

export interface JanitorOptions {
  store: Pick<StoreAdmin, 'purge'>;
  clock: Clock;
  /** Uniform in [0, 1). */
  random(): number;
  /** Milliseconds between two rounds; each is spread by a quarter, so that workers do not sweep together. */
  everyMs: number;
  retentionHours: number;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
}

export interface Janitor {
  stop(): void;
}

/** Rows of each kind that one statement may take: small enough never to be in anybody's way. */
const BATCH = 500;

/** Removes what nobody can continue any more. Any worker may sweep, at any time, beside any other. */
export function startJanitor({ store, clock, random, everyMs, retentionHours, log }: JanitorOptions): Janitor {
  let stopped = false;
  let cancel = () => {};

  async function sweep(): Promise<void> {
    const total: Purged = { sessions: 0, turns: 0, workers: 0 };
    try {
      for (let full = true; full && !stopped; ) {
        const batch = await store.purge({ olderThanHours: retentionHours, limit: BATCH });
        total.sessions += batch.sessions;
        total.turns += batch.turns;
        total.workers += batch.workers;
        full = Math.max(batch.sessions, batch.turns, batch.workers) >= BATCH;
      }
      if (total.sessions + total.turns + total.workers > 0) log.info({ ...total }, 'swept');
    } catch (error) {
      if (!stopped) log.warn({ err: error }, 'sweeping failed; it is tried again');
    }
  }

  const wait = () => {
    cancel = clock.after(everyMs * (0.75 + random() / 2), () => {
      void sweep().then(() => {
        if (!stopped) wait();
      });
    });
  };
  wait();
  return {
    stop() {
      stopped = true;
      cancel();
    },
  };
}
