import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { KeyRing } from '../token/keyring.ts';

/** Check of operators' access. Throws {@link BridgeError} `bridge_unauthorized` for requests without it. */
export type AccessRule = (req: {
  headers: IncomingHttpHeaders;
  httpVersion?: string;
  socket: { remoteAddress?: string | undefined };
}) => void;

const loopbackName = /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$/i;
const loopbackAddress = /^(::1|(::ffff:)?127(\.\d{1,3}){3})$/i;
/** Request headers that only proxies add. */
const byProxy =
  /^(?:forwarded|via|x-forwarded(?:-.*)?|x-real-ip|x-client-ip|x-cluster-client-ip|x-original-.*|true-client-ip|cf-.*|x-envoy-.*|x-amzn-trace-id)$/;
/** SHA-256 of a text. Digests of two secrets have equal lengths, so they can be compared in constant time. */
export const digest = (text: string): Buffer => createHash('sha256').update(text).digest();

/** Returns the bearer token of a request; null when there is none. */
export const bearerOf = ({ authorization }: IncomingHttpHeaders): string | null =>
  /^Bearer\s+(\S+)\s*$/i.exec(authorization ?? '')?.[1] ?? null;

/**
 * Returns whether operators need a token. When API keys tell clients apart, or clients use the operator's upstream key,
 * a loopback address proves nothing: a proxy on this machine forwards remote requests from there, and by default does
 * not mark them.
 */
export const needsAdminToken = ({ security, upstream }: Pick<Config, 'security' | 'upstream'>): boolean =>
  security.apiKeys.length > 0 || security.byHook || upstream.key !== null;

/**
 * Derives the admin token of an installation that has none configured. It is the same on all workers that share their
 * secrets.
 */
export const adminTokenOf = ({ signing }: Pick<KeyRing, 'signing'>): string =>
  createHmac('sha256', signing.key).update('holdfast-admin-token').digest('base64url');

/**
 * Creates the check of operators' access. With an admin token, the request must carry it as a bearer token. Without
 * one, the request must come from a loopback address, use a loopback name in `Host`, and not come through a proxy. The
 * check of `Host` stops DNS rebinding, where the header holds the foreign name. HTTP/1.0 is refused because only
 * proxies use it.
 *
 * @returns a rule that throws {@link BridgeError} `bridge_unauthorized`
 */
export function createOperatorAccess(adminToken: string | null): AccessRule {
  const expected = adminToken === null ? null : digest(adminToken);
  return ({ headers, httpVersion, socket }) => {
    if (expected) {
      const bearer = bearerOf(headers);
      if (bearer !== null && timingSafeEqual(digest(bearer), expected)) return;
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
 * Returns whether a request does not come from a web page, or comes from a page of the same host. Browsers name the
 * page's origin in `Origin`; other programs do not send the header.
 */
export function isSameOrigin({ origin, host }: IncomingHttpHeaders): boolean {
  if (origin === undefined) return true;
  const page = URL.parse(origin);
  // Parsing both sides drops a default port, which may or may not be written.
  return page !== null && page.host !== '' && page.host === URL.parse(`${page.protocol}//${host ?? ''}`)?.host;
}
