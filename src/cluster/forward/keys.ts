import {
  createCipheriv,
  createDecipheriv,
  createHmac,
  createSecretKey,
  type KeyObject,
  randomBytes,
} from 'node:crypto';
import type { KeyRing } from '../../token/keyring.ts';

/**
 * Keys derived from the installation's secrets for one purpose. They do not verify or open anything made for another
 * purpose.
 */
export interface PurposeKeys {
  readonly signing: { kid: string; key: KeyObject };
  find(kid: string): KeyObject | undefined;
}

/** Derives one key per secret with HMAC-SHA-256 (the expand step of RFC 5869). */
export function keysFor(purpose: string, secrets: KeyRing): PurposeKeys {
  const made = new Map<string, KeyObject>();
  const find = (kid: string): KeyObject | undefined => {
    const key = made.get(kid);
    if (key) return key;
    const secret = secrets.find(kid)?.key;
    if (!secret) return undefined;
    const derived = createSecretKey(createHmac('sha256', secret).update(`holdfast-${purpose}\u0001`).digest());
    made.set(kid, derived);
    return derived;
  };
  const { kid } = secrets.signing;
  return { signing: { kid, key: find(kid)! }, find };
}

/** Encrypts text so that only workers of this installation can read it. */
export interface Sealer {
  seal(text: string): string;
  /** Returns the text, or null if it was not sealed by this installation or was altered. */
  open(sealed: string): string | null;
}

const IV_BYTES = 12;
const TAG_BYTES = 16;

/** Creates the sealer (AES-256-GCM). It protects credentials in case another program has taken over a peer's port. */
export function createSealer(secrets: KeyRing): Sealer {
  const keys = keysFor('credential', secrets);
  return {
    seal(text) {
      const iv = randomBytes(IV_BYTES);
      const cipher = createCipheriv('aes-256-gcm', keys.signing.key, iv);
      const data = Buffer.concat([cipher.update(text, 'utf8'), cipher.final()]);
      return `${keys.signing.kid}:${Buffer.concat([iv, cipher.getAuthTag(), data]).toString('base64url')}`;
    },
    open(sealed) {
      const at = sealed.indexOf(':');
      const key = keys.find(sealed.slice(0, Math.max(0, at)));
      const bytes = Buffer.from(sealed.slice(at + 1), 'base64url');
      if (!key || bytes.length < IV_BYTES + TAG_BYTES) return null;
      try {
        const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, IV_BYTES), {
          authTagLength: TAG_BYTES,
        });
        decipher.setAuthTag(bytes.subarray(IV_BYTES, IV_BYTES + TAG_BYTES));
        const data = decipher.update(bytes.subarray(IV_BYTES + TAG_BYTES));
        return Buffer.concat([data, decipher.final()]).toString('utf8');
      } catch {
        return null;
      }
    },
  };
}
