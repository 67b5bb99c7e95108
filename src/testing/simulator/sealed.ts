import { createHmac } from 'node:crypto';
import { derive } from './seeded.ts';

/**
 * Encrypted content: opaque to clients, bound to the credential it was made for. It carries its own proof, so that a
 * simulator started again with the same seed still knows it.
 */
export interface Sealer {
  seal(credential: string, nonce: string): string;
  /** True only for what `seal` made for this credential under this seed. */
  opens(credential: string, sealed: unknown): boolean;
}

export function createSealer(seed: number): Sealer {
  const key = derive(seed, 'sealer');
  const proof = (credential: string, nonce: string) =>
    createHmac('sha256', key).update(`${credential}\u0000${nonce}`).digest('base64url');
  return {
    seal: (credential, nonce) => `gAAAA.${nonce}.${proof(credential, nonce)}`,
    opens(credential, sealed) {
      if (typeof sealed !== 'string') return false;
      const [prefix, nonce, given, ...rest] = sealed.split('.');
      return prefix === 'gAAAA' && rest.length === 0 && nonce !== undefined && given === proof(credential, nonce);
    },
  };
}
