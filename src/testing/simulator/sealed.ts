import { createCipheriv, createDecipheriv, createHmac } from 'node:crypto';
import type { Item } from '../../transcript/types.ts';
import { derive } from './seeded.ts';

/** The event that carries a ciphertext. The provider seals one content separately for each, so no two are equal. */
export type SealForm = 'added' | 'done' | 'completed';

/** What a ciphertext stands for. */
export interface SealedContent {
  /** The identity of the content; equal in every form. */
  nonce: string;
  /** Hashes of the contexts that the content was made under; empty when it may stand anywhere. */
  prefixes: readonly string[];
}

/**
 * Encrypted content: opaque to clients, bound to the credential it was made for. It carries its own proof, so that a
 * simulator started again with the same seed still knows it.
 */
export interface Sealer {
  seal(credential: string, content: SealedContent, form: SealForm): string;
  /** True only for what `seal` made for this credential under this seed, in any form. */
  opens(credential: string, sealed: unknown): boolean;
  /** The item with each of its ciphertexts in another form. What this sealer did not make stays as it is. */
  inForm(credential: string, item: Item, form: SealForm): Item;
}

/** The members of items that hold ciphertext. */
export const SEALED_MEMBERS = ['encrypted_content', 'fingerprint'] as const;

const MARK = 'gAAAA';
const PROOF_BYTES = 16;
/** Not a secret: it makes the forms of one content share no characters, and lets a digest read what is sealed. */
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
 * Reads a ciphertext without judging it: the same content for each of its forms.
 *
 * @returns null for text that no simulator sealed
 */
export function readSealed(sealed: unknown): SealedContent | null {
  const unpacked = unpack(sealed);
  return unpacked && /^(?:added|done|completed) /.test(unpacked.text) ? contentOf(unpacked.text) : null;
}

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
