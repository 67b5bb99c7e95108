import { derive } from '../../src/testing/simulator/seeded.ts';

/** A seeded random source: the same seed and name give the same choices, independent of earlier runs. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform in 0 to n - 1. */
  int(n: number): number;
  chance(p: number): boolean;
  pick<T>(list: readonly T[]): T;
  /** Returns one of the values, with the probability of its weight. */
  weighted<T>(list: readonly (readonly [weight: number, value: T])[]): T;
}

/** @param parts name of the stream of choices, for example a target and a case number */
export function randomOf(seed: number, ...parts: readonly (string | number)[]): Random {
  const hex = derive(seed, ...parts);
  let [a, b, c, d] = [0, 8, 16, 24].map((at) => Number.parseInt(hex.slice(at, at + 8), 16)) as [
    number,
    number,
    number,
    number,
  ];
  // The generator is sfc32.
  const next = () => {
    const t = (((a + b) | 0) + d) | 0;
    d = (d + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = ((c << 21) | (c >>> 11)) + t;
    return (t >>> 0) / 2 ** 32;
  };
  const int = (n: number) => Math.floor(next() * n);
  return {
    next,
    int,
    chance: (p) => next() < p,
    pick: (list) => list[int(list.length)]!,
    weighted(list) {
      let left = next() * list.reduce((sum, [weight]) => sum + weight, 0);
      for (const [weight, value] of list) if ((left -= weight) < 0) return value;
      return list.at(-1)![1];
    },
  };
}
