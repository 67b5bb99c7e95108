import { timingSafeEqual } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import type { Clock } from '../system.ts';
import { type KeyRing, scopeHash, type TokenKey } from './keyring.ts';

/**
 * Kind of a scope. A tenant is an identity, so a token of another tenant is rejected. A passed-through credential is
 * refreshed in the normal course of things, so a token of an earlier one is ignored.
 */
type ScopeKind = 'tenant' | 'credential' | 'local';

export interface TokenScope {
  scope: string;
  scopeKind: ScopeKind;
}

/**
 * Result of verifying an `x-codex-turn-state` header. Only `invalid` leads to a refusal; `ignored` is logged and
 * counted.
 */
export type TokenEvidence =
  | { kind: 'none' }
  | { kind: 'ours'; sessionId: string; epoch: number }
  | { kind: 'ignored'; reason: string }
  | { kind: 'invalid'; reason: string };

export interface Tokens {
  /** Returns a token that names a session at an epoch. Send it only after that row is durable. */
  issue(turnState: { sessionId: string; epoch: number } & TokenScope): string;
  /** Checks an `x-codex-turn-state` header. Never throws; the result never contains the token. */
  verify(text: string, expected: TokenScope): TokenEvidence;
}

interface TokensOptions {
  secrets: KeyRing;
  clock: Pick<Clock, 'wall'>;
  /** Lifetime in seconds; default one day, the retention of a session. */
  ttlSeconds?: number;
}

/** Value of the header's `typ`, which identifies Holdfast's tokens. */
export const TOKEN_TYPE = 'holdfast-turn+jwt';
const VERSION = 1;
/** Longest token that is decoded, in characters. Holdfast's own have about 350. */
const MAX_LENGTH = 4096;

const claimsSchema = z.object({
  v: z.literal(VERSION),
  sid: z.string().min(1).max(128),
  epoch: z.int().nonnegative(),
  knd: z.enum(['tenant', 'credential', 'local']),
  sch: z.string().min(1).max(64),
  iat: z.int().nonnegative(),
  exp: z.int().positive(),
});

/** Returns the kind of a caller's scope: a tenant unless the upstream sees the client's own credential. */
export function scopeKindOf(caller: { scope: string; credentialIsClients: boolean }): ScopeKind {
  if (!caller.credentialIsClients) return 'tenant';
  return caller.scope === 'local' ? 'local' : 'credential';
}

function headerOf(text: string): Record<string, unknown> | null {
  try {
    const header: unknown = JSON.parse(Buffer.from(text.split('.', 1)[0]!, 'base64url').toString('utf8'));
    return typeof header === 'object' && header !== null ? (header as Record<string, unknown>) : null;
  } catch {
    return null;
  }
}

/** Returns the payload when the signature is HS256 under this key, whatever algorithm the header names; else null. */
function signedPayload(text: string, key: TokenKey): unknown {
  try {
    return jwt.verify(text, key.key, { algorithms: ['HS256'], ignoreExpiration: true, ignoreNotBefore: true });
  } catch {
    return null;
  }
}

/**
 * Returns whether a correctly signed token has another version: it was issued by a newer or older release during a rolling
 * upgrade.
 */
function isOtherVersion(payload: unknown): boolean {
  if (typeof payload !== 'object' || payload === null || !('v' in payload)) return false;
  return Number.isSafeInteger(payload.v) && payload.v !== VERSION;
}

const ignored = (reason: string): TokenEvidence => ({ kind: 'ignored', reason });
const invalid = (reason: string): TokenEvidence => ({ kind: 'invalid', reason });

/**
 * Creates turn-state tokens, signed with HS256, that carry session id, epoch and a keyed hash of the scope.
 *
 * A token is rejected only when it claims to be Holdfast's and then fails verification. One that is foreign, expired or
 * otherwise useless is ignored, and the other evidence of the request decides. The resolver, which has the row, checks
 * whether the session still exists at that epoch.
 */
export function createTokens({ secrets, clock, ttlSeconds = 86_400 }: TokensOptions): Tokens {
  const nowSeconds = () => Math.floor(clock.wall() / 1000);

  return {
    issue({ sessionId, epoch, scope, scopeKind }) {
      const { signing } = secrets;
      const iat = nowSeconds();
      const sch = scopeHash(signing, scopeKind, scope);
      const claims = { v: VERSION, sid: sessionId, epoch, knd: scopeKind, sch, iat, exp: iat + ttlSeconds };
      return jwt.sign(claims, signing.key, {
        algorithm: 'HS256',
        header: { alg: 'HS256', typ: TOKEN_TYPE, kid: signing.kid },
      });
    },

    verify(text, expected) {
      if (text === '') return { kind: 'none' };
      if (text.length > MAX_LENGTH) return ignored('foreign');
      const header = headerOf(text);
      if (header?.typ !== TOKEN_TYPE) return ignored('foreign');
      const key = typeof header.kid === 'string' ? secrets.find(header.kid) : undefined;
      if (!key) return ignored('unknown_key');

      const payload = signedPayload(text, key);
      if (payload === null) return invalid('signature');
      if (isOtherVersion(payload)) return ignored('other_version');
      const parsed = claimsSchema.safeParse(payload);
      if (!parsed.success) return invalid('claims');
      const { sid, epoch, knd, sch, exp } = parsed.data;

      const own = Buffer.from(scopeHash(key, expected.scopeKind, expected.scope));
      const named = Buffer.from(sch);
      if (own.length !== named.length || !timingSafeEqual(own, named)) {
        return knd === 'tenant' ? invalid('other_tenant') : ignored('other_credential');
      }
      if (nowSeconds() >= exp) return ignored('expired');
      return { kind: 'ours', sessionId: sid, epoch };
    },
  };
}
