import { createHmac, createSecretKey, type KeyObject } from 'node:crypto';

/** One signing secret. `key` is opaque when printed, so that a key ring may appear in an inspected object. */
export interface TokenKey {
  readonly kid: string;
  readonly key: KeyObject;
}

/** Secrets of an installation: the first one signs, all of them verify. */
export interface KeyRing {
  readonly signing: TokenKey;
  find(kid: string): TokenKey | undefined;
  readonly kids: readonly string[];
}

/** The configured secrets cannot be used. The message names the entry and never contains a secret. */
export class InvalidSecrets extends Error {
  override readonly name = 'InvalidSecrets';
}

/** Shortest secret, in bytes: HS256 needs a key at least as long as its hash (RFC 7518, 3.2). */
export const MIN_SECRET_BYTES = 32;

const kidPattern = /^[A-Za-z0-9._-]{1,64}$/;

function parseEntry(entry: string, position: number): TokenKey {
  const at = entry.indexOf(':');
  if (at < 0) throw new InvalidSecrets(`Secret ${position} has no key id: write kid:secret,kid2:secret2.`);
  const kid = entry.slice(0, at).trim();
  const secret = Buffer.from(entry.slice(at + 1).trim(), 'utf8');
  if (!kidPattern.test(kid)) {
    throw new InvalidSecrets(`The key id of secret ${position} must be 1 to 64 of A-Z a-z 0-9 . _ -`);
  }
  if (secret.length < MIN_SECRET_BYTES) {
    throw new InvalidSecrets(`Secret "${kid}" has ${secret.length} bytes; at least ${MIN_SECRET_BYTES} are needed.`);
  }
  return { kid, key: createSecretKey(secret) };
}

/**
 * Parses `kid:secret,kid2:secret2`. To rotate, add the new entry last, then put it first, and remove the old one when its
 * last token has expired, each step on all workers: a worker refuses what is signed with a secret that it does not know. Secrets may contain colons but no commas.
 *
 * @throws `InvalidSecrets`
 */
export function parseSecrets(text: string): KeyRing {
  const entries = text.split(',').map((entry) => entry.trim());
  if (entries.every((entry) => entry === '')) throw new InvalidSecrets('No secret is given.');
  const keys = new Map<string, TokenKey>();
  for (const [index, entry] of entries.entries()) {
    if (entry === '') continue;
    const key = parseEntry(entry, index + 1);
    if (keys.has(key.kid)) throw new InvalidSecrets(`The key id "${key.kid}" is given twice.`);
    keys.set(key.kid, key);
  }
  const [signing] = keys.values();
  return { signing: signing!, find: (kid) => keys.get(kid), kids: [...keys.keys()] };
}

/** Returns a hash of a scope that only holders of this key can compute: a token names its scope without revealing it. */
export function scopeHash(key: TokenKey, scopeKind: string, scope: string): string {
  return createHmac('sha256', key.key)
    .update(`holdfast-scope\0${scopeKind}\0${scope}`)
    .digest()
    .subarray(0, 16)
    .toString('base64url');
}
