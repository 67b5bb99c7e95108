import type { IncomingMessage } from 'node:http';
import { isIP } from 'node:net';
import { networkInterfaces } from 'node:os';
import type { RequestHandler } from 'express';
import { type Config, isLoopback } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { hostAndPort } from '../headers.ts';
import { passFamilies, realtimeFamilies } from '../upstream/families.ts';
import { isSameOrigin } from './access.ts';

/** Paths of the bridge. Everything it serves is one of these or lies below one. */
export const ownPaths: readonly string[] = [
  ...['/v1', '/backend-api/codex'].flatMap((base) =>
    ['responses', 'conversations', 'models', ...passFamilies, ...realtimeFamilies].map((family) => `${base}/${family}`),
  ),
  '/admin/overview',
  '/admin/turns',
  '/admin/failures',
  '/admin/workers',
  '/admin/machines',
  '/admin/sessions',
  '/admin/stories',
  '/admin/ui',
  '/metrics',
  '/inspect',
  '/health',
  '/ready',
];

/** Paths of the API: those of clients. */
export const apiPaths = ownPaths.filter((path) => /^\/(?:v1|backend-api)\//.test(path));

/** Paths of operators. */
const operatorPaths: readonly string[] = ownPaths.filter((path) => /^\/(?:admin|metrics|inspect)/.test(path));

/**
 * Names by which containers reach their host. A public registrar cannot issue them, so DNS rebinding cannot use them.
 */
const containersNames = ['host.docker.internal', 'gateway.docker.internal', 'host.containers.internal'];

/**
 * Paths of health probes. Probes address the server by an IP of their choice, and HTTP/1.0 probes send no `Host` at
 * all. Accepting both admits no foreign page: a page that uses DNS rebinding sends a name.
 */
const forProbes = /^\/(?:health|ready)\/?(?:\?|$)/i;
export const ONE_HOST = 'There must be one Host header.';
const forOperators = /^\/(?:admin|metrics|inspect)(?:[/?]|$)/i;

/**
 * Headers of an answer that pages of listed origins may read: all. Which headers of a provider reach a client at all is
 * decided by the list in `upstream/headers.ts`, which knows families of names. Browsers read the star so because answers
 * never allow cookies or other credentials of the browser.
 */
const EXPOSED = '*';
/** Time for which a browser may cache the result of a preflight, in seconds. */
const PREFLIGHT_MAX_AGE = '600';

/** Check of `Host` and `Origin` that runs before all other handling of a request. */
interface Front {
  /** Throws a {@link BridgeError} when the request is not admitted. */
  admit(req: IncomingMessage): void;
  /**
   * Does the same check as Express middleware. It also answers preflights and sets the CORS headers for listed origins.
   */
  readonly handler: RequestHandler;
  /** Applies `handler` to the bridge's own paths only. An outer app has its own rules for all other paths. */
  readonly ownHandler: RequestHandler;
}

/**
 * Creates the check of `Host` and `Origin`.
 *
 * `Host`: a page that uses DNS rebinding to reach this machine sends its own name. When HOST is loopback, or
 * HOLDFAST_PUBLIC_HOSTS lists names, only known names are admitted: loopback, HOST and the listed ones; when HOST is
 * not loopback, also the addresses of this machine. When HOST is open to others and no names are listed, every name is
 * admitted: services are reached under names that only their cluster or balancer knows, and every path that spends or
 * shows anything then requires an API key or the admin token, which a foreign page does not have.
 *
 * `Origin`: pages of other origins are admitted only when HOLDFAST_CORS_ORIGINS lists them, and never on operators'
 * paths.
 *
 * @param addresses addresses of this machine; default: those of its network interfaces
 */
export function createFront(config: Config['server'], addresses: readonly string[] = machineAddresses()): Front {
  const { host, publicHosts, corsOrigins } = config;
  const listed = new Set(publicHosts);
  const strict = !listed.has('*') && (isLoopback(host) || listed.size > 0);
  const own = new Set([...['localhost', '[::1]', bracketed(host.toLowerCase())], ...containersNames]);
  if (!isLoopback(host)) for (const address of addresses) own.add(bracketed(address));
  const origins = new Set(corsOrigins);

  const isKnown = (text: string, isProbe: boolean): boolean => {
    const parts = hostAndPort(text);
    if (parts === null) throw new BridgeError('bridge_malformed_request', { detail: 'The Host header is malformed.' });
    const { name, port } = parts;
    if (!strict || own.has(name) || isLoopback(name)) return true;
    if (isProbe && isIP(name.replace(/^\[|\]$/g, '')) !== 0) return true;
    return listed.has(name) || (port !== null && listed.has(`${name}:${port}`));
  };

  function checkHost(req: IncomingMessage): void {
    const isProbe = forProbes.test(pathOf(req));
    let given = 0;
    for (let at = 0; at < req.rawHeaders.length; at += 2) if (/^host$/i.test(req.rawHeaders[at]!)) given += 1;
    if (given === 0 && isProbe && req.httpVersion === '1.0') return;
    if (given !== 1) {
      throw new BridgeError('bridge_malformed_request', { detail: ONE_HOST });
    }
    if (!isKnown(req.headers.host!, isProbe)) throw new BridgeError('bridge_forbidden_host');
    // An absolute-form target repeats the host and takes precedence over the header.
    const target = targetOf(req);
    if (target.startsWith('/') || target === '*') return;
    if (!isKnown(URL.parse(target)?.host ?? '', isProbe)) throw new BridgeError('bridge_forbidden_host');
  }

  /**
   * Returns the origin if it is listed, or null when the request does not come from a foreign page.
   *
   * @throws {BridgeError} `bridge_forbidden_origin` for every other origin
   */
  function foreignOrigin(req: IncomingMessage): string | null {
    const { origin } = req.headers;
    if (origin === undefined || isSameOrigin(req.headers)) return null;
    const page = URL.parse(origin);
    if (page && (listed.has(page.hostname) || listed.has(page.host))) return null;
    const isListed = origins.has('*') || origins.has(origin.toLowerCase());
    if (!isListed || forOperators.test(pathOf(req))) throw new BridgeError('bridge_forbidden_origin');
    return origin;
  }

  const enter = (req: IncomingMessage): string | null => {
    // No id or name contains NUL, and PostgreSQL accepts it in no text value.
    if (targetOf(req).includes('%00'))
      throw new BridgeError('bridge_malformed_request', { detail: 'NUL in the path.' });
    checkHost(req);
    return foreignOrigin(req);
  };

  const handler: RequestHandler = (req, res, next) => {
    const origin = enter(req);
    if (origins.size > 0) res.vary('origin');
    if (origin === null) return next();
    res.set({ 'access-control-allow-origin': origin, 'access-control-expose-headers': EXPOSED });
    if (req.method !== 'OPTIONS' || req.headers['access-control-request-method'] === undefined) return next();
    const wanted = String(req.headers['access-control-request-headers'] ?? '');
    res.set({
      'access-control-allow-methods': 'GET, POST, DELETE',
      'access-control-allow-headers': /^[\w!#$%&'*+.^`|~, -]{0,2000}$/.test(wanted) ? wanted : '',
      'access-control-max-age': PREFLIGHT_MAX_AGE,
    });
    if (req.headers['access-control-request-private-network'] === 'true')
      res.set('access-control-allow-private-network', 'true');
    res.status(204).end();
  };
  return {
    admit: (req) => void enter(req),
    handler,
    ownHandler: (req, res, next) => (isOwn(pathOf(req)) ? handler(req, res, next) : next()),
  };
}

/**
 * Returns whether a request is for the bridge.
 *
 * @param operators false if the operators' paths are not served
 */
export function isOwn(target: string, operators = true): boolean {
  const path = target.split('?', 1)[0]!.toLowerCase();
  const isBelow = (own: string) => path === own || path.startsWith(`${own}/`);
  return ownPaths.some(isBelow) && (operators || !operatorPaths.some(isBelow));
}

/** Returns the target as sent. A router mounted below a path sees only the rest of it in `req.url`. */
const targetOf = (req: IncomingMessage): string => (req as { originalUrl?: string }).originalUrl ?? req.url ?? '';

/** Returns the path as the router sees it, with its query. */
export function pathOf(req: { readonly url?: string | undefined }): string {
  const target = req.url ?? '';
  if (target.startsWith('/')) return target;
  const url = URL.parse(target);
  return url === null ? target : url.pathname + url.search;
}

const machineAddresses = () =>
  Object.values(networkInterfaces()).flatMap((each) => (each ?? []).map(({ address }) => address));
const bracketed = (address: string) => (address.includes(':') ? `[${address.replace(/%.*$/, '')}]` : address);
