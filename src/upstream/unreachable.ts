import type { Unreachable } from './port.ts';

/**
 * Kinds of failure to connect, and of answers in place of a connection. They are label values of metrics, so the set is
 * closed.
 */
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

/** Error codes by kind; the first match counts. */
const meanings: readonly [kind: FailureKind, codes: RegExp][] = [
  ['proxy', /^PROXY_ANSWERED_/],
  ['dns', /^(?:ENOTFOUND|ENODATA|ESERVFAIL|EBADNAME|EAI_[A-Z]+)$/],
  ['refused', /^ECONNREFUSED$/],
  ['tls', /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_|^ERR_SSL_|^ERR_TLS_|^EPROTO$/],
  ['timeout', /TIMEOUT|^ETIMEDOUT$| within \d+ ms$/],
  ['network', /^(?:EHOSTUNREACH|ENETUNREACH|EHOSTDOWN|ENETDOWN|EADDRNOTAVAIL)$/],
  ['reset', /^(?:ECONNRESET|ECONNABORTED|EPIPE|UND_ERR_SOCKET|closed during the upgrade)$/],
];

/** Codes of failures that a retry within seconds cannot change. */
const final = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EHOSTUNREACH', 'ENETUNREACH']);
const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_|HOSTNAME_MISMATCH|CRL_/;

/** Prefix of the code of a refusal by the proxy; its status follows. */
export const BY_PROXY = 'PROXY_ANSWERED_';

const kindOf = (code: string): FailureKind => meanings.find(([, codes]) => codes.test(code))?.[0] ?? 'other';
const isFinal = (code: string): boolean => final.has(code) || kindOf(code) === 'tls';

/** Returns the kind of an HTTP answer received in place of a connection. */
export const kindOfStatus = (status: number): FailureKind =>
  status >= 500 ? 'http_5xx' : status >= 400 ? 'http_4xx' : 'other';

/** Returns a code of Node, OpenSSL or undici. A message may quote an address with its path; a code never does. */
function codeOf(error: unknown, depth = 0): string | null {
  if (!(error instanceof Error) || depth > 4) return null;
  if (error instanceof AggregateError) {
    // One error per address of the host: a transient one takes precedence.
    const codes = error.errors.flatMap((each) => codeOf(each, depth + 1) ?? []);
    const found = codes.find((code) => !isFinal(code)) ?? codes[0];
    if (found !== undefined) return found;
  }
  // undici reports a refusal by the proxy only in a message.
  const refused = /^Proxy (?:response|Authentication Required) \((\d{3})\)/.exec(error.message)?.[1];
  if (refused !== undefined) return `${BY_PROXY}${refused}`;
  const inner = codeOf(error.cause, depth + 1);
  const { code } = error as NodeJS.ErrnoException;
  return inner ?? (typeof code === 'string' && /^[A-Z][A-Z0-9_]{2,60}$/.test(code) ? code : null);
}

/** Returns an upstream's name for operators: host and port, without path, query or credential. */
export const hostOf = (baseUrl: string): string => URL.parse(baseUrl)?.host ?? 'an invalid address';

/**
 * Describes for people why a connection failed: code and host.
 *
 * @param given the thrown value, or a short text of our own
 * @param baseUrl address of the upstream; only host and port are shown
 * @param proxy proxy on the way, also shown by host and port only; null for none
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
