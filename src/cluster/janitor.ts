import type { Clock } from '../clock.ts';
import { type PurgeKind, purgeKinds, type StoreAdmin } from '../store/admin-port.ts';

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

/** Rows that one statement looks at: few enough to be answered well within the statement deadline. */
const LIMIT = 500;
/** Milliseconds after which a sweep begins no further statement; what is left is for the next one. */
const SWEEP_MS = 30_000;

/** How far the pass over one kind of row has come. */
interface Place {
  after: readonly string[] | null;
  limit: number;
}

/**
 * Removes what cannot be continued any more. Any worker may sweep, at any time, beside any other.
 *
 * A sweep makes a step with each kind of row in turn until every pass is at its end or its time is over, so that no kind
 * waits for another. The next sweep goes on where this one stopped. A kind whose step failed waits for that sweep, and asks
 * for half as much until a step succeeds: where 500 rows take too long, 250 may not.
 */
export function startJanitor({ store, clock, random, everyMs, retentionHours, log }: JanitorOptions): Janitor {
  const places = new Map<PurgeKind, Place>(purgeKinds.map((kind) => [kind, { after: null, limit: LIMIT }]));
  let stopped = false;
  let cancel = () => {};

  /** @returns whether there is more of the kind to look at now */
  async function step(kind: PurgeKind, total: Map<PurgeKind, number>): Promise<boolean> {
    const place = places.get(kind)!;
    try {
      const { removed, after, more } = await store.purge({ kind, olderThanHours: retentionHours, ...place });
      for (const [each, rows] of Object.entries(removed) as [PurgeKind, number][])
        total.set(each, (total.get(each) ?? 0) + rows);
      place.after = more ? after : null;
      place.limit = Math.min(LIMIT, place.limit * 2);
      return more;
    } catch (error) {
      place.limit = Math.max(1, Math.floor(place.limit / 2));
      if (!stopped) log.warn({ err: error, kind, limit: place.limit }, 'sweeping failed; it is tried again');
      return false;
    }
  }

  async function sweep(): Promise<void> {
    const total = new Map<PurgeKind, number>();
    const until = clock.now() + SWEEP_MS;
    const open = new Set(purgeKinds);
    while (open.size > 0) {
      for (const kind of open) {
        if (stopped || clock.now() >= until) open.clear();
        else if (!(await step(kind, total))) open.delete(kind);
      }
    }
    if ([...total.values()].some((rows) => rows > 0)) log.info(Object.fromEntries(total), 'swept');
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
