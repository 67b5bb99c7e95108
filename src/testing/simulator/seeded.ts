import { createHash } from 'node:crypto';

/**
 * Returns the hex SHA-256 of the seed and the parts. Every "random" choice of the simulator is a function of its seed
 * and a name.
 */
export function derive(seed: number, ...parts: readonly (string | number)[]): string {
  return createHash('sha256')
    .update([seed, ...parts].join('\u0000'))
    .digest('hex');
}

/** Returns a number in [0, 1) that depends only on the seed and the parts. */
export function chance(seed: number, ...parts: readonly (string | number)[]): number {
  return Number.parseInt(derive(seed, ...parts).slice(0, 12), 16) / 2 ** 48;
}
