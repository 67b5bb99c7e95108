import { caseOf, give } from './run.ts';
import { type Memory, type Mode, openWorld } from './world.ts';

export interface SoakPlan {
  seed: number;
  minutes: number;
  mode: Mode;
  /** Number of concurrent cases. */
  concurrency?: number;
  /** Milliseconds of load between two samples. */
  every?: number;
  onSample?(sample: Sample): void;
}

/** Resources of the worker when idle, after its idle sockets were closed and garbage was collected. */
export interface Sample extends Memory {
  /** Minutes since the first case. */
  minute: number;
  /** Number of cases so far. */
  cases: number;
}

export interface Soak {
  samples: Sample[];
  cases: number;
  /** Number of violations per property. */
  violations: Map<string, number>;
  crashes: number;
}

/** Fraction of samples at the beginning that are excluded from slopes: code is compiled and pools are filled then. */
export const WARM_UP = 0.2;
/** Number of well-formed conversations among ten cases. */
const PLAIN_OF_TEN = 5;
/** Longer than the idle limit of sockets in the worker's configuration, in milliseconds. */
const IDLE_MS = 5_000;

/** Runs a mixed load for some minutes. */
export async function soak({
  seed,
  minutes,
  mode,
  concurrency = 24,
  every = 40_000,
  onSample,
}: SoakPlan): Promise<Soak> {
  const world = await openWorld(mode);
  const violations = new Map<string, number>();
  const samples: Sample[] = [];
  const began = performance.now();
  const end = began + minutes * 60_000;
  let cases = 0;
  let crashes = 0;
  const look = async () => {
    for (const until = performance.now() + 15_000; performance.now() < until && world.upstream.connections() > 0; ) {
      await new Promise((wait) => setTimeout(wait, 250));
    }
    await new Promise((wait) => setTimeout(wait, IDLE_MS));
    const sample = { minute: (performance.now() - began) / 60_000, cases, ...(await world.memory()) };
    samples.push(sample);
    onSample?.(sample);
  };
  try {
    await look();
    while (performance.now() < end) {
      const pause = Math.min(end, performance.now() + every);
      const work = async () => {
        while (performance.now() < pause && world.crash === null) {
          const n = (cases += 1);
          const one = caseOf(seed, n, mode, n % 10 < PLAIN_OF_TEN ? 'plain' : undefined);
          const outcome = await give(one, world);
          if (world.crash !== null) return;
          for (const { property, signature } of outcome.violations) {
            const key = `${property}: ${signature}`;
            violations.set(key, (violations.get(key) ?? 0) + 1);
          }
        }
      };
      await Promise.all(Array.from({ length: concurrency }, work));
      if (world.crash !== null) {
        crashes += 1;
        await world.restart();
      }
      await look();
    }
    return { samples, cases, violations, crashes };
  } finally {
    await world.close();
  }
}

/** Returns the slope per hour by least squares over the samples after the warm-up. */
export function slopeOf(samples: readonly Sample[], value: (sample: Sample) => number): number {
  const used = samples.slice(Math.floor(samples.length * WARM_UP));
  const mean = (of: (sample: Sample) => number) => used.reduce((sum, each) => sum + of(each), 0) / used.length;
  const hours = ({ minute }: Sample) => minute / 60;
  const [x, y] = [mean(hours), mean(value)];
  const spread = used.reduce((sum, each) => sum + (hours(each) - x) ** 2, 0);
  return spread === 0 ? 0 : used.reduce((sum, each) => sum + (hours(each) - x) * (value(each) - y), 0) / spread;
}
