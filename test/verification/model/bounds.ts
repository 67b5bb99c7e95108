/** Faults of the model, each happening as often as the bounds allow. */
export const FAULTS = [
  'crash',
  'pause',
  'lapse',
  'lostAnswer',
  'lateCopy',
  'lostHop',
  'socketLoss',
  'departure',
  'rejection',
  'throw',
  'refusedAnchor',
  'drain',
  'eviction',
  'failover',
  'rowLoss',
] as const;
export type Fault = (typeof FAULTS)[number];

/** Way in which clients refer to earlier turns: by `previous_response_id`, by key and whole history, or either. */
export type Naming = 'anchored' | 'keyed' | 'either';

/**
 * Bounds of an exploration. Everything within them is explored; steps beyond them are counted and never dropped
 * silently.
 */
export interface Bounds {
  /** Number of worker identities: 2 or 3. A restarted process has a new id and counts again. */
  workers: number;
  /** Number of requests in one conversation, each with its own turn id: 1 to 6. A retry counts as a request. */
  turns: number;
  /** Highest epoch. Claims beyond it are not explored. */
  epochs: number;
  /** Maximum number of simultaneous requests. */
  concurrent: number;
  naming: Naming;
  /** True when every history can be rebuilt. If not, only the socket that holds an anchor can continue it. */
  exact: boolean;
  /** Maximum number of store calls in flight without a waiting caller, including `release`. */
  copies: number;
  /**
   * True when waits can also end by their deadlines while the upstream would still answer. Required for checking
   * progress.
   */
  deadlines: boolean;
  faults: Partial<Record<Fault, number>>;
}

export const defaults: Bounds = {
  workers: 2,
  turns: 2,
  epochs: 4,
  concurrent: 1,
  naming: 'either',
  exact: true,
  copies: 1,
  deadlines: true,
  faults: {},
};

/** Describes bounds in one line. */
export function describeBounds(bounds: Bounds): string {
  const { workers, turns, epochs, concurrent, naming, exact, copies, deadlines, faults } = bounds;
  const counts = Object.entries(faults).flatMap(([fault, count]) => (count > 0 ? [`${fault} ${count}`] : []));
  return [
    `${workers} workers, ${turns} turns (${concurrent} at once, ${naming}), ${epochs} epochs`,
    `${exact ? 'exact' : 'socket-only'} histories, ${copies} late calls${deadlines ? '' : ', no upstream deadlines'}`,
    counts.length > 0 ? `faults: ${counts.join(', ')}` : 'no faults',
  ].join('; ');
}
