import { createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { Caller } from '../session/port.ts';
import { accountOf, keyHeaders } from '../upstream/headers.ts';
import { bearerOf, digest } from './access.ts';

/** Returns the API keys sent in dedicated headers, in a fixed order. */
function keysIn(headers: IncomingHttpHeaders): [name: string, key: string][] {
  return keyHeaders.flatMap((name) => {
    const key = String(headers[name] ?? '').trim();
    return key === '' ? [] : [[name, key] as [string, string]];
  });
}

/**
 * Creates the function that authenticates a request and derives its scope.
 *
 * - With API keys configured, the scope is the key's tenant.
 * - With only a shared upstream key, or without any credential, the scope is `local`.
 * - A passed-through credential, together with the account it selects, is a scope of its own, identified by a keyed
 *   hash.
 *
 * @param pepper key of that hash; it is stored in the database and does not change when other secrets are rotated
 * @returns a function that throws {@link BridgeError} `bridge_unauthorized` for an unknown API key
 */
export function createAuthentication(config: Config, pepper: string): (headers: IncomingHttpHeaders) => Caller {
  const { key: upstreamKey } = config.upstream;
  const keys = config.security.apiKeys.map(({ tenant, key }) => ({ tenant, hash: digest(key) }));
  const keyed = (credential: string) => createHmac('sha256', pepper).update(credential).digest('hex');
  const shared =
    upstreamKey === null ? null : { authorization: `Bearer ${upstreamKey}`, fp: keyed(`Bearer ${upstreamKey}`) };

  const tenantOf = (headers: IncomingHttpHeaders): string => {
    if (keys.length === 0) return 'local';
    const given = [bearerOf(headers) ?? '', ...keysIn(headers).map(([, key]) => key)].map(digest);
    // Compare every key, so that the response time does not reveal which key is close to a match.
    const matches = keys.filter(({ hash }) => given.filter((one) => timingSafeEqual(hash, one)).length > 0);
    if (!matches[0]) throw new BridgeError('bridge_unauthorized');
    return `tenant:${matches[0].tenant}`;
  };

  return (headers) => {
    const tenant = tenantOf(headers);
    if (shared) {
      return {
        scope: tenant,
        credentialFp: shared.fp,
        upstreamAuthorization: shared.authorization,
        credentialIsClients: false,
      };
    }
    const authorization = headers.authorization ?? null;
    const given = keysIn(headers);
    const account = accountOf(headers);
    // A bearer token alone is hashed without the JSON wrapper, as in earlier versions, so that stored sessions keep
    // their scope.
    const alone = given.length === 0 && account === '';
    const credentialFp = keyed(alone ? (authorization ?? '') : JSON.stringify([authorization ?? '', given, account]));
    return {
      scope: alone && authorization === null ? 'local' : `cred:${credentialFp}`,
      credentialFp,
      upstreamAuthorization: authorization,
      credentialIsClients: true,
      ...(given.length > 0 ? { upstreamKeys: Object.fromEntries(given) } : {}),
    };
  };
}
