/** Random source that depends on a seed only. A call returns a number uniform in [0, 1). */
export interface Random {
  (): number;
  /** Returns a number uniform in [from, to). */
  between(from: number, to: number): number;
  /** Returns an integer in [from, to]. */
  integer(from: number, to: number): number;
  pick<T>(list: readonly T[]): T;
  chance(probability: number): boolean;
}

/** Hashes a seed and a name to 32 bits (FNV-1a, finalised as in MurmurHash3). */
export function hashOf(seed: number, name: string): number {
  let hash = 0x811c9dc5 ^ seed;
  for (let at = 0; at < name.length; at += 1) hash = Math.imul(hash ^ name.charCodeAt(at), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * Creates a separate random stream for each name, so that removing one part of a run does not change the random
 * decisions of the others.
 */
export function createRandom(seed: number, name: string): Random {
  let state = hashOf(seed, name);
  // Mulberry32.
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const between = (from: number, to: number) => from + next() * (to - from);
  const integer = (from: number, to: number) => Math.floor(between(from, to + 1));
  return Object.assign(next, {
    between,
    integer,
    pick: <T>(list: readonly T[]): T => list[integer(0, list.length - 1)]!,
    chance: (probability: number) => next() < probability,
  });
}
