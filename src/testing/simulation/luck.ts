import { createRandom, hashOf, type Random } from './seeded.ts';

/** Where a run's luck comes from, and what of it was bad. Every misfortune has a name, so that it can be taken out again. */
export interface Luck {
  readonly seed: number;
  random(name: string): Random;
  /** Whether this named misfortune strikes; never once the faults have stopped, nor when it was taken out. */
  strikes(kind: string, name: string, probability: number): boolean;
  /** Names of what struck, in order. */
  readonly struck: readonly string[];
  /** How often each kind struck. */
  readonly counts: ReadonlyMap<string, number>;
  stop(): void;
  count(kind: string): void;
}

/**
 * @param without names of misfortunes that are spared
 * @param onStrike told of every misfortune
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
