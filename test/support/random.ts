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

/** Returns a generator of numbers in [0, 1) (mulberry32): the same seed gives the same sequence on every machine. */
export function seeded(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * Creates a separate random stream for each name, so that removing one part of a run does not change the random
 * decisions of the others.
 */
export function createRandom(seed: number, name: string): Random {
  const next = seeded(hashOf(seed, name));
  const between = (from: number, to: number) => from + next() * (to - from);
  const integer = (from: number, to: number) => Math.floor(between(from, to + 1));
  return Object.assign(next, {
    between,
    integer,
    pick: <T>(list: readonly T[]): T => list[integer(0, list.length - 1)]!,
    chance: (probability: number) => next() < probability,
  });
}

/**
 * Returns the text with one to three random changes: up to two characters are removed at a place, and often one of `parts` is
 * inserted there.
 *
 * @param placeOf draws the place of a change, by default any
 */
export function randomlyEdited(
  random: Random,
  text: string,
  parts: readonly string[],
  placeOf: (text: string) => number = ({ length }) => random.integer(0, length),
): string {
  let edited = text;
  for (let changes = random.integer(1, 3); changes > 0; changes -= 1) {
    const at = Math.max(0, Math.min(edited.length, placeOf(edited)));
    const inserted = random.chance(0.6) ? random.pick(parts) : '';
    edited = edited.slice(0, at) + inserted + edited.slice(at + random.integer(0, 2));
  }
  return edited;
}
