import { createCipheriv, createDecipheriv, createHash, createHmac } from 'node:crypto';
import type { Item } from '../../transcript/types.ts';

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

/**
 * Event that carries a ciphertext. The provider seals the same content separately for each event, so no two ciphertexts
 * are equal.
 */
type SealForm = 'added' | 'done' | 'completed';

/** Content of a ciphertext. */
interface SealedContent {
  /** Identity of the content, equal in every form. */
  nonce: string;
  /** Hashes of the contexts under which the content was made; empty when it may be used anywhere. */
  prefixes: readonly string[];
}

/**
 * Creates and reads encrypted content, which is opaque to clients and bound to a credential. Its proof is part of the
 * ciphertext, so a simulator restarted with the same seed still recognises it.
 */
export interface Sealer {
  seal(credential: string, content: SealedContent, form: SealForm): string;
  /** Returns true only for ciphertexts that `seal` made for this credential under this seed, in any form. */
  opens(credential: string, sealed: unknown): boolean;
  /** Returns the item with each of its ciphertexts in another form. Ciphertexts of other sealers stay unchanged. */
  inForm(credential: string, item: Item, form: SealForm): Item;
}

/** Members of items that hold ciphertext. */
export const SEALED_MEMBERS = ['encrypted_content', 'fingerprint'] as const;

const MARK = 'gAAAA';
const PROOF_BYTES = 16;
/**
 * Fixed key, not a secret. Encryption only makes the forms of one content share no characters, and a digest can still
 * read the content.
 */
const KEY = Buffer.from(derive(0, 'sealed content'), 'hex').subarray(0, 16);

function unpack(sealed: unknown): { proof: string; text: string } | null {
  if (typeof sealed !== 'string' || !sealed.startsWith(MARK)) return null;
  const bytes = Buffer.from(sealed.slice(MARK.length), 'base64url');
  if (bytes.length <= PROOF_BYTES || `${MARK}${bytes.toString('base64url')}` !== sealed) return null;
  const proof = bytes.subarray(0, PROOF_BYTES);
  const text = createDecipheriv('aes-128-ctr', KEY, proof).update(bytes.subarray(PROOF_BYTES)).toString('latin1');
  return { proof: proof.toString('hex'), text };
}

const contentOf = (text: string): SealedContent => {
  const [, nonce = '', ...prefixes] = text.split(' ');
  return { nonce, prefixes };
};

/**
 * Reads a ciphertext without verifying its proof. The result is the same for each form of a content.
 *
 * @returns null for text that no simulator sealed
 */
export function readSealed(sealed: unknown): SealedContent | null {
  const unpacked = unpack(sealed);
  return unpacked && /^(?:added|done|completed) /.test(unpacked.text) ? contentOf(unpacked.text) : null;
}

/** Creates the sealer of a seed. */
export function createSealer(seed: number): Sealer {
  const key = derive(seed, 'sealer');
  const proofOf = (credential: string, text: string) =>
    createHmac('sha256', key).update(`${credential}\u0000${text}`).digest().subarray(0, PROOF_BYTES);
  const opens = (credential: string, sealed: unknown) => {
    const unpacked = unpack(sealed);
    return unpacked !== null && proofOf(credential, unpacked.text).toString('hex') === unpacked.proof;
  };
  const seal = (credential: string, { nonce, prefixes }: SealedContent, form: SealForm) => {
    const text = [form, nonce, ...prefixes].join(' ');
    const proof = proofOf(credential, text);
    const hidden = createCipheriv('aes-128-ctr', KEY, proof).update(text, 'latin1');
    return `${MARK}${Buffer.concat([proof, hidden]).toString('base64url')}`;
  };
  return {
    seal,
    opens,
    inForm(credential, item, form) {
      let formed = item;
      for (const member of SEALED_MEMBERS) {
        const content = opens(credential, item[member]) ? readSealed(item[member]) : null;
        if (content) formed = { ...formed, [member]: seal(credential, content, form) };
      }
      return formed;
    },
  };
}
