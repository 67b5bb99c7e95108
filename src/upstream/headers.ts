import { looksLikeProviderId } from '../transcript/provider-ids.ts';
import type { UpstreamRequestHeaders } from './port.ts';

/** Headers that carry a credential beside `authorization`: Azure's, and that of many gateways. */
export const keyHeaders = ['api-key', 'x-api-key'] as const;

/** Credential sent to the provider. */
export interface UpstreamCredential {
  /** Value of the `authorization` header; null sends none. */
  authorization: string | null;
  /** `keyHeaders` by name. They are the client's own, so empty when a shared credential replaces it. */
  keys: Readonly<Record<string, string>>;
  /** False when a shared credential replaces the client's. */
  isClients: boolean;
}

const BETA_FLAGS = 'openai-beta';

/** Names outside the families below. */
const forwarded = new Set([
  'user-agent',
  'originator',
  'version',
  'session-id',
  'session_id',
  'conversation_id',
  'thread-id',
  'x-client-request-id',
  'chatgpt-account-id',
  'traceparent',
  'tracestate',
  BETA_FLAGS,
]);

/** Families to which providers and Codex add names from release to release. */
const families = ['x-codex-', 'x-openai-', 'x-oai-', 'x-responsesapi-', 'openai-'];

/** Exceptions in those families: the bridge's own token, and a header meant for the next hop only. */
const kept = new Set(['x-codex-turn-state', 'x-codex-routing-hint']);

/** Headers that select the account to use and bill. They belong to the credential they came with. */
const choosesAccount = (name: string): boolean =>
  mayGoUpstream(name) && /(?:^|-)(?:account|organi[sz]ation|org|project)(?:-|$)/.test(name);

/**
 * Returns whether a client's header is passed upstream by default, the credential aside.
 *
 * @param name in lower case
 */
function mayGoUpstream(name: string): boolean {
  return forwarded.has(name) || (!kept.has(name) && families.some((family) => name.startsWith(family)));
}

/**
 * Headers that no setting can send upstream: credentials, cookies, those of one connection, of a body or of the proxies in
 * front of the bridge, and the bridge's own. Idempotency keys too: one request of a client may need two sends upstream.
 */
const neverForwarded =
  /^(?:authorization|proxy-.*|cookie2?|set-cookie2?|api-key|x-api-key|host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|via|forwarded|x-forwarded-.*|x-real-ip|true-client-ip|cf-.*|content-.*|accept-encoding|sec-websocket-.*|idempotency-key|x-holdfast-.*|x-codex-turn-state|x-codex-routing-hint)$/;

/** Returns whether a setting may send a header of this name upstream. */
export const isForwardable = (name: string): boolean =>
  /^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/.test(name) && !neverForwarded.test(name);

/**
 * Returns the client's headers that select the account beside its credential, as one canonical text; empty when there are
 * none.
 *
 * @param client headers, names in lower case
 */
export function accountOf(client: Readonly<Record<string, unknown>>): string {
  const chosen = Object.entries(client).flatMap(([name, value]) => {
    const text = typeof value === 'string' ? value.trim() : '';
    return text !== '' && choosesAccount(name) ? [[name, text]] : [];
  });
  chosen.sort(([a], [b]) => (a! < b! ? -1 : 1));
  return chosen.length === 0 ? '' : JSON.stringify(chosen);
}

const WEBSOCKET_BETA = 'responses_websockets';
const WEBSOCKET_BETA_VERSION = `${WEBSOCKET_BETA}=2026-02-06`;

/**
 * Returns the client's beta flags with exactly the WebSocket protocol version that this bridge uses, or without any over
 * HTTP.
 */
function betaFlags(given: string | undefined, websocket: boolean): string | null {
  const flags = (given ?? '')
    .split(',')
    .map((flag) => flag.trim())
    .filter((flag) => flag !== '' && flag !== WEBSOCKET_BETA && !flag.startsWith(`${WEBSOCKET_BETA}=`));
  if (websocket) flags.push(WEBSOCKET_BETA_VERSION);
  return flags.length > 0 ? [...new Set(flags)].join(', ') : null;
}

/**
 * Returns the headers of an upgrade or an HTTP request made on behalf of a client: those of the families above, those of
 * the setting, and the credential.
 *
 * @param from.client the client's headers, names in lower case
 * @param from.also further names to pass on, in lower case
 * @param from.transport with `websocket`, `x-codex-turn-metadata` describes the dial; later turns carry theirs in the frame
 */
export function upstreamHeaders(from: {
  client: Readonly<Record<string, string>>;
  credential: UpstreamCredential;
  transport: 'websocket' | 'http';
  also?: readonly string[] | undefined;
}): UpstreamRequestHeaders {
  const { client, credential } = from;
  const also = new Set(from.also);
  const headers: Record<string, string> = Object.create(null);
  for (const [name, value] of Object.entries(client)) {
    if (value === '' || !(mayGoUpstream(name) || (also.has(name) && isForwardable(name)))) continue;
    // Under a shared credential nothing shows to whom the account or object named in a header belongs.
    if (credential.isClients || !(choosesAccount(name) || looksLikeProviderId(value))) headers[name] = value;
  }
  delete headers[BETA_FLAGS];
  const beta = betaFlags(client[BETA_FLAGS], from.transport === 'websocket');
  if (beta !== null) headers[BETA_FLAGS] = beta;
  if (credential.authorization !== null) headers.authorization = credential.authorization;
  for (const name of keyHeaders) {
    const key = credential.keys[name];
    if (key) headers[name] = key;
  }
  return headers;
}
