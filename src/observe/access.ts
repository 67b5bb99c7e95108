import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { KeyRing } from '../token/keyring.ts';

/** Says who may look inside: throws the error that anybody else gets. */
export type AccessRule = (req: {
  headers: IncomingHttpHeaders;
  httpVersion?: string;
  socket: { remoteAddress?: string | undefined };
}) => void;

const loopbackName = /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i;
const loopbackAddress = /^(::1|(::ffff:)?127(\.\d{1,3}){3})$/i;
/** What proxies add to a request. */
const byProxy =
  /^(?:forwarded|via|x-forwarded(?:-.*)?|x-real-ip|x-client-ip|x-cluster-client-ip|x-original-.*|true-client-ip|cf-.*|x-envoy-.*|x-amzn-trace-id)$/;
const digest = (text: string) => createHash('sha256').update(text).digest();

/**
 * Whether operators need a token. Where keys tell clients apart, or clients spend a key of the operator's, a request from
 * loopback proves nothing: a proxy on this machine sends strangers' requests from there, and by default marks none.
 */
export const needsAdminToken = ({ security, upstream }: Pick<Config, 'security' | 'upstream'>): boolean =>
  security.apiKeys.length > 0 || upstream.key !== null;

/** The admin token of an installation that was given none: the same at all workers that share their secrets. */
export const adminTokenOf = ({ signing }: Pick<KeyRing, 'signing'>): string =>
  createHmac('sha256', signing.key).update('holdfast-admin-token').digest('base64url');

/**
 * With an admin token: its bearer. Without one: whatever comes from the loopback address, asks for a loopback name, and
 * was not sent on by a proxy; a foreign name that was made to point here comes with that name in `Host`. HTTP/1.0 is
 * spoken by proxies alone. The rule throws `bridge_unauthorized`.
 */
export function createOperatorAccess(adminToken: string | null): AccessRule {
  const expected = adminToken === null ? null : digest(adminToken);
  return ({ headers, httpVersion, socket }) => {
    if (expected) {
      const bearer = /^Bearer\s+(\S+)\s*$/i.exec(headers.authorization ?? '')?.[1];
      if (bearer !== undefined && timingSafeEqual(digest(bearer), expected)) return;
    } else if (
      loopbackAddress.test(socket.remoteAddress ?? '') &&
      loopbackName.test(headers.host ?? '') &&
      httpVersion !== '1.0' &&
      !Object.keys(headers).some((name) => byProxy.test(name))
    ) {
      return;
    }
    throw new BridgeError('bridge_unauthorized');
  };
}

/**
 * Whether a request comes from no page, or from one of this very host. Browsers name the page in `Origin`; programs that
 * are no browsers send none.
 */
export function isSameOrigin({ origin, host }: IncomingHttpHeaders): boolean {
  if (origin === undefined) return true;
  const page = URL.parse(origin);
  // A port that is the scheme's own may be written or not.
  return page !== null && page.host !== '' && page.host === URL.parse(`${page.protocol}//${host ?? ''}`)?.host;
}
