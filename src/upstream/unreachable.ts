import type { Unreachable } from './port.ts';

/** Why a connection did not come about, or what answered in its place: the labels of metrics, so there are no others. */
export const failureKinds = [
  'dns',
  'refused',
  'reset',
  'tls',
  'timeout',
  'network',
  'proxy',
  'http_4xx',
  'http_5xx',
  'other',
] as const;
export type FailureKind = (typeof failureKinds)[number];

/** Codes by what they mean; the first that fits counts. */
const meanings: readonly [kind: FailureKind, codes: RegExp][] = [
  ['proxy', /^PROXY_ANSWERED_/],
  ['dns', /^(?:ENOTFOUND|ENODATA|ESERVFAIL|EBADNAME|EAI_[A-Z]+)$/],
  ['refused', /^ECONNREFUSED$/],
  ['tls', /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_|^ERR_SSL_|^ERR_TLS_|^EPROTO$/],
  ['timeout', /TIMEOUT|^ETIMEDOUT$| within \d+ ms$/],
  ['network', /^(?:EHOSTUNREACH|ENETUNREACH|EHOSTDOWN|ENETDOWN|EADDRNOTAVAIL)$/],
  ['reset', /^(?:ECONNRESET|ECONNABORTED|EPIPE|UND_ERR_SOCKET|closed during the upgrade)$/],
];

/** Nothing that repeating within seconds could change. */
const final = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EHOSTUNREACH', 'ENETUNREACH']);
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_/;

/** Begins the code of a refusal by the proxy, before its status. */
export const BY_PROXY = 'PROXY_ANSWERED_';

const kindOf = (code: string): FailureKind => meanings.find(([, codes]) => codes.test(code))?.[0] ?? 'other';
const isFinal = (code: string): boolean => final.has(code) || kindOf(code) === 'tls';

/** The kind of an HTTP answer that came in place of a connection. */
export const kindOfStatus = (status: number): FailureKind =>
  status >= 500 ? 'http_5xx' : status >= 400 ? 'http_4xx' : 'other';

/** Codes of Node, OpenSSL and undici; a message may quote an address with its path, a code never does. */
function codeOf(error: unknown, depth = 0): string | null {
  if (!(error instanceof Error) || depth > 4) return null;
  if (error instanceof AggregateError) {
    // One for each address of the host: what may pass at one of them decides.
    const codes = error.errors.flatMap((each) => codeOf(each, depth + 1) ?? []);
    const found = codes.find((code) => !isFinal(code)) ?? codes[0];
    if (found !== undefined) return found;
  }
  // All that a refusal by the proxy leaves behind is a sentence of undici's.
  const refused = /^Proxy (?:response|Authentication Required) \((\d{3})\)/.exec(error.message)?.[1];
  if (refused !== undefined) return `${BY_PROXY}${refused}`;
  const inner = codeOf(error.cause, depth + 1);
  const { code } = error as NodeJS.ErrnoException;
  return inner ?? (typeof code === 'string' && /^[A-Z][A-Z0-9_]{2,60}$/.test(code) ? code : null);
}

/** What an operator calls an upstream: its host and port. No path, no query, no credential. */
export const hostOf = (baseUrl: string): string => URL.parse(baseUrl)?.host ?? 'an invalid address';

/**
 * Why a connection did not come about, for people: the code and the host.
 *
 * @param given what was thrown, or a short text of our own
 * @param baseUrl of the upstream; only its host and port are named
 * @param proxy the proxy on the way, of which the same holds; null for none
 */
export function unreachable(given: unknown, baseUrl: string, proxy: URL | null): Unreachable {
  const code = typeof given === 'string' ? given : (codeOf(given) ?? 'no connection');
  const what = CERTIFICATE.test(code) ? `certificate not accepted (${code})` : code;
  const way = proxy === null ? '' : ` through the proxy ${proxy.host}`;
  return {
    text: `${what} at ${hostOf(baseUrl)}${way}`,
    kind: kindOf(code),
    byProxy: code.startsWith(BY_PROXY),
    final: isFinal(code),
  };
}
