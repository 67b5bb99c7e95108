import type { TurnFault, UpgradeFault } from './faults.ts';
import { chance } from './seeded.ts';

const serverError = { status: 500, code: 'server_error', message: 'The server had an error.' };
const overloaded = { status: 503, code: 'server_is_overloaded', message: 'Our servers are currently overloaded.' };
const rateLimit = { status: 429, type: 'rate_limit_error', code: 'rate_limit_exceeded', message: 'Slow down.' };
const badRequest = { status: 400, code: 'invalid_value', message: 'Invalid value.' };

/**
 * Faults from which chaos chooses, by name. Faults that never end a turn by themselves need a client with deadlines.
 */
const turnFaults = {
  close_before_created: { kind: 'close', at: 'before_created' },
  close_clean_before_created: { kind: 'close', at: 'before_created', code: 1000 },
  close_after_created: { kind: 'close', at: 'after_created' },
  close_after_deltas: { kind: 'close', at: { deltas: 1 } },
  close_after_item_done: { kind: 'close', at: 'after_item_done' },
  close_before_terminal: { kind: 'close', at: 'before_terminal' },
  close_after_terminal: { kind: 'close', at: 'after_terminal', code: 1000 },
  reset_before_created: { kind: 'reset', at: 'before_created' },
  reset_after_created: { kind: 'reset', at: 'after_created' },
  reset_after_deltas: { kind: 'reset', at: { deltas: 1 } },
  reset_after_terminal: { kind: 'reset', at: 'after_terminal' },
  error_before_created: { kind: 'error', error: badRequest },
  error_after_created: { kind: 'error', error: serverError, at: 'after_created' },
  server_error: { kind: 'error', error: serverError },
  overloaded: { kind: 'error', error: overloaded },
  rate_limited: { kind: 'error', error: { ...rateLimit, retryAfter: 1 } },
  failed: { kind: 'failed', code: 'server_error' },
  incomplete: { kind: 'incomplete' },
  refuse_anchor: { kind: 'refuse_anchor' },
  refuse_anchor_terse: { kind: 'refuse_anchor', shape: 'terse' },
  malformed: { kind: 'malformed', at: 'after_created' },
  unknown_events: { kind: 'unknown_events' },
  duplicate_terminal: { kind: 'duplicate_terminal' },
  telemetry: { kind: 'telemetry', count: 2 },
  drip: { kind: 'drip', everyMs: 2 },
  silence_before_created: { kind: 'silence', at: 'before_created' },
  silence_after_created: { kind: 'silence', at: 'after_created' },
  silence_after_telemetry: { kind: 'silence', at: 'before_created', telemetry: 2 },
} as const satisfies Record<string, TurnFault>;

const upgradeFaults = {
  refuse_upgrade: { kind: 'refuse', status: 503 },
  reset_upgrade: { kind: 'reset' },
  hang_upgrade: { kind: 'hang' },
  close_after_upgrade: { kind: 'accept_then_close' },
} as const satisfies Record<string, UpgradeFault>;

/** Name of a fault that chaos injects. */
export type ChaosKind = keyof typeof turnFaults | keyof typeof upgradeFaults;

/** Options of random faults. */
export interface ChaosOptions {
  /** Default: the simulator's seed. */
  seed?: number;
  /**
   * Probability of each fault per turn or per upgrade. The sum over turn faults, and the sum over upgrade faults, must
   * not exceed 1.
   */
  rates: Partial<Record<ChaosKind, number>>;
}

/** A fault that chaos injected. */
export interface ChaosRecord {
  kind: ChaosKind;
  /** Number of the turn or of the upgrade. */
  nth: number;
}

/** Running chaos: the faults injected so far, and a way to stop it. */
export interface Chaos {
  readonly seed: number;
  readonly injected: readonly ChaosRecord[];
  stop(): void;
}

export interface ChaosSource {
  handle: Chaos;
  forTurn(turn: number): TurnFault | null;
  forUpgrade(upgrade: number): UpgradeFault | null;
}

/** Creates chaos that chooses faults by seed and number only, so that a campaign can be repeated from its seed. */
export function createChaos(options: ChaosOptions, defaultSeed: number): ChaosSource {
  const seed = options.seed ?? defaultSeed;
  const injected: ChaosRecord[] = [];
  let running = true;

  function draw<K extends ChaosKind>(kinds: readonly K[], what: string, nth: number): K | null {
    if (!running) return null;
    let left = chance(seed, what, nth);
    for (const kind of kinds) {
      left -= options.rates[kind] ?? 0;
      if (left >= 0) continue;
      injected.push({ kind, nth });
      return kind;
    }
    return null;
  }

  return {
    handle: {
      seed,
      injected,
      stop: () => {
        running = false;
      },
    },
    forTurn(turn) {
      const kind = draw(Object.keys(turnFaults) as (keyof typeof turnFaults)[], 'turn', turn);
      return kind && turnFaults[kind];
    },
    forUpgrade(upgrade) {
      const kind = draw(Object.keys(upgradeFaults) as (keyof typeof upgradeFaults)[], 'upgrade', upgrade);
      return kind && upgradeFaults[kind];
    },
  };
}
