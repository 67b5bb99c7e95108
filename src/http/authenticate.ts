import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { Caller } from '../session/port.ts';

const digest = (text: string) => createHash('sha256').update(text).digest();

const bearerOf = (headers: IncomingHttpHeaders) =>
  /^Bearer\s+(\S+)\s*$/i.exec(headers.authorization ?? '')?.[1] ?? null;

/**
 * Decides who asks. With API keys the scope is the key's tenant; with a shared upstream key alone, or without any
 * credential, it is `local`; a passed-through credential is a scope of its own, known only by a keyed hash. The pepper is
 * the database's and outlives the rotation of every other secret.
 */
export function createAuthentication(config: Config, pepper: string): (headers: IncomingHttpHeaders) => Caller {
  const { key: upstreamKey } = config.upstream;
  const keys = config.security.apiKeys.map(({ tenant, key }) => ({ tenant, hash: digest(key) }));
  const keyed = (credential: string) => createHmac('sha256', pepper).update(credential).digest('hex');
  const shared =
    upstreamKey === null ? null : { authorization: `Bearer ${upstreamKey}`, fp: keyed(`Bearer ${upstreamKey}`) };

  const tenantOf = (headers: IncomingHttpHeaders): string => {
    if (keys.length === 0) return 'local';
    const given = digest(bearerOf(headers) ?? '');
    // Every key is compared, so that the time taken says nothing about which one came close.
    const matches = keys.filter(({ hash }) => timingSafeEqual(hash, given));
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
    const credentialFp = keyed(authorization ?? '');
    return {
      scope: authorization === null ? 'local' : `cred:${credentialFp}`,
      credentialFp,
      upstreamAuthorization: authorization,
      credentialIsClients: true,
    };
  };
}
