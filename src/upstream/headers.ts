import { looksLikeProviderId } from '../transcript/provider-ids.ts';
import type { UpstreamRequestHeaders } from './port.ts';

/** Headers that carry a credential beside `authorization`: Azure's, and that of many gateways. */
export const keyHeaders = ['api-key', 'x-api-key'] as const;

/** What the provider sees of who asks. */
export interface UpstreamCredential {
  /** Value of the `authorization` header; null sends none. */
  authorization: string | null;
  /** `keyHeaders` by name; a client's own, so none where a shared credential replaces it. */
  keys: Readonly<Record<string, string>>;
  /** False when a shared credential replaces the client's. */
  isClients: boolean;
}

const BETA_FLAGS = 'openai-beta';

/** Names without a family of their own. */
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

/** Families that providers and Codex add to from release to release. */
const families = ['x-codex-', 'x-openai-', 'x-oai-', 'x-responsesapi-', 'openai-'];

/** Of those families: the bridge's own token, and what is meant for the next hop alone. */
const kept = new Set(['x-codex-turn-state', 'x-codex-routing-hint']);

/** Headers that choose whose account is used and billed. They belong to the credential they came with. */
const choosesAccount = (name: string): boolean =>
  mayGoUpstream(name) && /(?:^|-)(?:account|organi[sz]ation|org|project)(?:-|$)/.test(name);

/** Whether a client's header has a part in what goes upstream by itself, the credential aside. Name in lower case. */
function mayGoUpstream(name: string): boolean {
  return forwarded.has(name) || (!kept.has(name) && families.some((family) => name.startsWith(family)));
}

/**
 * Headers no setting can send upstream: credentials, cookies, what belongs to one connection, a body or the proxies on
 * the way here, and the bridge's own. Also idempotency keys: one that means one answer may need two sends upstream.
 */
const neverForwarded =
  /^(?:authorization|proxy-.*|cookie2?|set-cookie2?|api-key|x-api-key|host|connection|keep-alive|te|trailer|transfer-encoding|upgrade|expect|via|forwarded|x-forwarded-.*|x-real-ip|true-client-ip|cf-.*|content-.*|accept-encoding|sec-websocket-.*|idempotency-key|x-holdfast-.*|x-codex-turn-state|x-codex-routing-hint)$/;

/** Whether a setting may send a header of this name upstream. */
export const isForwardable = (name: string): boolean =>
  /^[a-z0-9!#$%&'*+.^_`|~-]{1,128}$/.test(name) && !neverForwarded.test(name);

/**
 * What in a client's headers chooses the account beside its credential, in one canonical text; empty without any.
 *
 * @param client names in lower case
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

/** The client's beta flags with exactly the WebSocket protocol version this bridge speaks, or none over HTTP. */
function betaFlags(given: string | undefined, websocket: boolean): string | null {
  const flags = (given ?? '')
    .split(',')
    .map((flag) => flag.trim())
    .filter((flag) => flag !== '' && flag !== WEBSOCKET_BETA && !flag.startsWith(`${WEBSOCKET_BETA}=`));
  if (websocket) flags.push(WEBSOCKET_BETA_VERSION);
  return flags.length > 0 ? [...new Set(flags)].join(', ') : null;
}

/**
 * The headers of an upgrade or an HTTP request made on behalf of a client: those of the families above, those of a
 * setting, and the credential.
 *
 * @param from.client the client's headers, names in lower case
 * @param from.also further names that may go, in lower case
 * @param from.transport `x-codex-turn-metadata` on an upgrade is as of the dial: later turns carry theirs in the frame
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
    // Under a shared credential nothing shows whose account, or whose object, a header chooses.
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
