import type { Unreachable } from './port.ts';

/** Nothing that repeating within seconds could change. */
const final = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EHOSTUNREACH', 'ENETUNREACH', 'EPROTO']);
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_/;

/** Begins the code of a refusal by the proxy, before its status. */
export const BY_PROXY = 'PROXY_ANSWERED_';

/** Codes of Node, OpenSSL and undici; a message may quote an address with its path, a code never does. */
function codeOf(error: unknown, depth = 0): string | null {
  if (!(error instanceof Error) || depth > 4) return null;
  if (error instanceof AggregateError && error.errors.length > 0) {
    const first = codeOf(error.errors[0], depth + 1);
    if (first !== null) return first;
  }
  // All that a refusal by the proxy leaves behind is a sentence of undici's.
  const refused = /^Proxy (?:response|Authentication Required) \((\d{3})\)/.exec(error.message)?.[1];
  if (refused !== undefined) return `${BY_PROXY}${refused}`;
  const inner = codeOf(error.cause, depth + 1);
  const { code } = error as NodeJS.ErrnoException;
  return inner ?? (typeof code === 'string' && /^[A-Z][A-Z0-9_]{2,60}$/.test(code) ? code : null);
}

/**
 * Why a connection did not come about, for people: the code and the host.
 *
 * @param given what was thrown, or a short text of our own
 * @param baseUrl of the upstream; only its host and port are named
 * @param proxy the proxy on the way, of which the same holds; null for none
 */
export function unreachable(given: unknown, baseUrl: string, proxy: URL | null): Unreachable {
  const code = typeof given === 'string' ? given : (codeOf(given) ?? 'no connection');
  const certificate = CERTIFICATE.test(code);
  const what = certificate ? `certificate not accepted (${code})` : code;
  const way = proxy === null ? '' : ` through the proxy ${proxy.host}`;
  return {
    text: `${what} at ${URL.parse(baseUrl)?.host ?? 'an invalid address'}${way}`,
    byProxy: code.startsWith(BY_PROXY),
    final: certificate || final.has(code) || code.startsWith('ERR_SSL_') || code.startsWith('ERR_TLS_'),
  };
}
