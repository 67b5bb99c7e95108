import { timingSafeEqual } from 'node:crypto';
import jwt from 'jsonwebtoken';
import { z } from 'zod';
import type { Clock } from '../clock.ts';
import type { TokenEvidence } from '../resolve/types.ts';
import { type KeyRing, scopeHash, type TokenKey } from './keyring.ts';

/**
 * What a scope stands for. A tenant is an identity, so a token of another tenant is refused. A passed-through
 * credential is refreshed in the normal course of things, so a token of an earlier one is merely useless.
 */
export type ScopeKind = 'tenant' | 'credential' | 'local';

export interface TokenScope {
  scope: string;
  scopeKind: ScopeKind;
}

export interface Tokens {
  /** A token that names a session at an epoch. Emit it only after that row is durable. */
  issue(turnState: { sessionId: string; epoch: number } & TokenScope): string;
  /** Judges an `x-codex-turn-state` header. Never throws, and what it returns never holds the token. */
  verify(text: string, expected: TokenScope): TokenEvidence;
}

export interface TokensOptions {
  secrets: KeyRing;
  clock: Pick<Clock, 'wall'>;
  /** Lifetime in seconds; default one day, the retention of a session. */
  ttlSeconds?: number;
}

/** Value of the header's `typ`: how a token says that it is one of Holdfast's. */
export const TOKEN_TYPE = 'holdfast-turn+jwt';
const VERSION = 1;
/** Ours have about 350 characters; nothing longer is worth decoding. */
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

/** A caller's scope is a tenant unless the upstream sees the client's own credential. */
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

/** The payload when the signature is HS256 under this key, whatever the header claims to be signed with. */
function signedPayload(text: string, key: TokenKey): unknown {
  try {
    return jwt.verify(text, key.key, { algorithms: ['HS256'], ignoreExpiration: true, ignoreNotBefore: true });
  } catch {
    return null;
  }
}

/** A version other than ours, signed by us: written by a newer or older release during a rolling upgrade. */
function isOtherVersion(payload: unknown): boolean {
  if (typeof payload !== 'object' || payload === null || !('v' in payload)) return false;
  return Number.isSafeInteger(payload.v) && payload.v !== VERSION;
}

const ignored = (reason: string): TokenEvidence => ({ kind: 'ignored', reason });
const invalid = (reason: string): TokenEvidence => ({ kind: 'invalid', reason });

/**
 * Turn-state tokens: signed with HS256, carrying session id, epoch and a keyed hash of the scope.
 *
 * A token is refused only when it says that it is ours and then does not hold: everything that merely is not (or no
 * longer) useful is ignored, and the request's other evidence decides. Whether the session still exists and is still
 * at that epoch is for the resolver, which has the row.
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
