import type { Log } from '../log.ts';
import { type PurgeKind, purgeKinds, type StoreAdmin } from '../store/port.ts';
import type { Clock } from '../system.ts';

interface JanitorOptions {
  store: Pick<StoreAdmin, 'purge'>;
  clock: Clock;
  /** Returns a uniform random number in [0, 1). */
  random(): number;
  /** Interval between two sweeps, in milliseconds. Varied by 25 %, so that workers do not sweep at the same time. */
  everyMs: number;
  retentionHours: number;
  log: Log<'info' | 'warn'>;
}

interface Janitor {
  stop(): void;
}

/** Number of rows that one statement examines: small enough to stay well within the statement timeout. */
const LIMIT = 500;
/** Time after which a sweep starts no further statement, in milliseconds. The next sweep continues. */
const SWEEP_MS = 30_000;

/** Progress of the pass over one kind of row. */
interface Place {
  after: readonly string[] | null;
  limit: number;
}

/**
 * Starts the janitor, which deletes rows that cannot be continued any more. Any worker may sweep at any time,
 * concurrently with others.
 *
 * A sweep makes one step with each kind of row in turn, until every pass is complete or its time is over, so that no
 * kind delays another. The next sweep continues where this one stopped. After a failed step a kind is left to the next
 * sweep and its batch size is halved until a step succeeds: if 500 rows take too long, 250 may not.
 */
export function startJanitor({ store, clock, random, everyMs, retentionHours, log }: JanitorOptions): Janitor {
  const places = new Map<PurgeKind, Place>(purgeKinds.map((kind) => [kind, { after: null, limit: LIMIT }]));
  let stopped = false;
  let cancel = () => {};

  /**
   * Runs one step of the pass over a kind of row.
   *
   * @returns true if there are more rows to examine now
   */
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
