import { createRandom, hashOf, type Random } from '../../support/random.ts';

/**
 * Random decisions of a run, and the faults they caused. Every injected fault has a name, so that it can be excluded
 * when the run is repeated.
 */
export interface Luck {
  readonly seed: number;
  random(name: string): Random;
  /** Decides whether this named fault occurs. Never after faults have stopped, nor when the fault is excluded. */
  strikes(kind: string, name: string, probability: number): boolean;
  /** Names of the faults that occurred, in order. */
  readonly struck: readonly string[];
  /** Number of occurrences of each kind. */
  readonly counts: ReadonlyMap<string, number>;
  stop(): void;
  count(kind: string): void;
}

/**
 * Creates the random decisions of a seed.
 *
 * @param without names of excluded faults
 * @param onStrike called with the name of every fault that occurs
 */
export function createLuck(seed: number, without: ReadonlySet<string>, onStrike: (name: string) => void): Luck {
  const struck: string[] = [];
  const counts = new Map<string, number>();
  let running = true;
  const count = (kind: string) => void counts.set(kind, (counts.get(kind) ?? 0) + 1);
  return {
    seed,
    struck,
    counts,
    count,
    random: (name) => createRandom(seed, name),
    strikes(kind, name, probability) {
      const full = `${kind} ${name}`;
      if (!running || hashOf(seed, full) / 2 ** 32 >= probability || without.has(full)) return false;
      struck.push(full);
      onStrike(full);
      count(kind);
      return true;
    },
    stop() {
      running = false;
    },
  };
}
