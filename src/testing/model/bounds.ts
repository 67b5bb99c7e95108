/** What may go wrong, each as often as the bounds allow. */
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

/** Which way clients name their past: by `previous_response_id`, by key and whole history, or either. */
export type Naming = 'anchored' | 'keyed' | 'either';

/** How far a world is explored. Everything within is explored; what lies beyond is counted, never silently dropped. */
export interface Bounds {
  /** Worker identities: 2 or 3. A process that begins again under a new id is one more of them. */
  workers: number;
  /** Requests of one conversation, each with a turn id of its own: 1 to 6. A repetition is a request. */
  turns: number;
  /** Highest epoch: no claim is explored beyond it. */
  epochs: number;
  /** Requests at the same time. */
  concurrent: number;
  naming: Naming;
  /** Every history can be rebuilt; otherwise only the socket that holds an anchor can continue it. */
  exact: boolean;
  /** Copies of store calls that may be under way without a caller, `release` among them. */
  copies: number;
  /** Waits also end by their deadlines where the upstream would have answered. Progress needs them. */
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

/** One line for people. */
export function describeBounds(bounds: Bounds): string {
  const { workers, turns, epochs, concurrent, naming, exact, copies, deadlines, faults } = bounds;
  const counts = Object.entries(faults).flatMap(([fault, count]) => (count > 0 ? [`${fault} ${count}`] : []));
  return [
    `${workers} workers, ${turns} turns (${concurrent} at once, ${naming}), ${epochs} epochs`,
    `${exact ? 'exact' : 'socket-only'} histories, ${copies} late calls${deadlines ? '' : ', no upstream deadlines'}`,
    counts.length > 0 ? `faults: ${counts.join(', ')}` : 'no faults',
  ].join('; ');
}
