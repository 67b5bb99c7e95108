import { type Clock, systemClock } from '../../../src/system.ts';

const MILLION = 1_000_000;

/** Settings with which each deadline is identified by its length, and none expires by itself. */
export const deadlineEnv = {
  HOLDFAST_CONNECT_MS: String(101 * MILLION),
  HOLDFAST_FIRST_EVENT_MS: String(102 * MILLION),
  HOLDFAST_STREAM_SILENCE_MS: String(103 * MILLION),
  HOLDFAST_TURN_BUDGET_MS: String(104 * MILLION),
  HOLDFAST_DISCONNECT_GRACE_MS: String(105 * MILLION),
  HOLDFAST_IDLE_SOCKET_MS: String(106 * MILLION),
  HOLDFAST_START_WAIT_MS: String(107 * MILLION),
  HOLDFAST_SETTLE_WAIT_MS: String(108 * MILLION),
  HOLDFAST_REQUEST_HOLD_MS: String(109 * MILLION),
  HOLDFAST_HEARTBEAT_MS: String(110 * MILLION),
  HOLDFAST_SELF_FENCE_MS: String(300 * MILLION),
  HOLDFAST_LEASE_MS: String(400 * MILLION),
  HOLDFAST_SOCKET_AGE_MS: String(1_500 * MILLION),
  HOLDFAST_ONLY_HOLDER_AGE_MS: String(1_500 * MILLION),
  HOLDFAST_SOCKET_AGE_JITTER_MS: '0',
};

/** Longer than the self-fence, and much shorter than a socket's age. */
export const LAPSE = 301 * MILLION;

/** Maximum time of a drain, in milliseconds; identifies the worker machine's own limit. */
export const DRAIN = 5_000;
const REGISTRATION_PAUSE = 200;
const REPEATED_HEARTBEAT = 500;

/** Delays with a random source that always returns one half. */
const REDIALS = [400, 800, 1_600, 2_000];

const lengths: Record<string, number> = {
  connect: 101,
  first_event: 102,
  silence: 103,
  turn_budget: 104,
  grace: 105,
  idle: 106,
  start_wait: 107,
  settle_wait: 108,
  request_hold: 109,
  heartbeat: 110,
};

function nameOf(ms: number): string | null {
  if (REDIALS.includes(ms)) return 'redial';
  if (ms > 1_000 * MILLION) return 'age';
  if (ms === REGISTRATION_PAUSE) return 'register';
  if (ms === REPEATED_HEARTBEAT) return 'heartbeat';
  if (ms === DRAIN * 2 + 10_000) return 'drain';
  return Object.keys(lengths).find((name) => lengths[name]! * MILLION === ms) ?? null;
}

/** The system clock, except that the deadlines named here fire only when the test fires them. */
export interface DeadlineClock extends Clock {
  /** Fires the deadline of that name that was armed first; returns false when none is armed. */
  fire(name: string): boolean;
  armed(name: string): number;
  /** Advances the time without firing timers, as if the process had stalled. */
  skip(ms: number): void;
}

export function createDeadlineClock(): DeadlineClock {
  const waiting = new Map<string, Set<() => void>>();
  let skipped = 0;
  return {
    now: () => systemClock.now() + skipped,
    wall: () => systemClock.wall(),
    after(ms, callback) {
      const name = nameOf(ms);
      if (name === null) return systemClock.after(ms, callback);
      // A deadline that was restarted looks at the time and waits for the rest, so its time has passed while it fires.
      const fire = () => {
        skipped += ms;
        try {
          callback();
        } finally {
          skipped -= ms;
        }
      };
      const armed = waiting.get(name) ?? new Set();
      waiting.set(name, armed.add(fire));
      return () => armed.delete(fire);
    },
    fire(name) {
      const armed = waiting.get(name) ?? new Set();
      const [first] = armed;
      if (!first) return false;
      armed.delete(first);
      first();
      return true;
    },
    armed: (name) => waiting.get(name)?.size ?? 0,
    skip(ms) {
      skipped += ms;
    },
  };
}
