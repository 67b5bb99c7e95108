import {
  REQUEST_ID_HEADER,
  RETRY_AFTER_HEADER,
  SHOULD_RETRY_HEADER,
  THREAD_HEADER,
  TURN_METADATA_HEADER,
  TURN_STATE_HEADER,
  UPSTREAM_REQUEST_ID_HEADER,
} from '../headers.ts';
import { isFields } from '../json.ts';
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

/** Client headers outside the families below that go upstream. */
const forwarded = new Set([
  'user-agent',
  'originator',
  'version',
  'session-id',
  'session_id',
  'conversation_id',
  THREAD_HEADER,
  'x-client-request-id',
  'chatgpt-account-id',
  'traceparent',
  'tracestate',
  BETA_FLAGS,
]);

/** Families to which providers and Codex add names from release to release. */
const families = ['x-codex-', 'x-openai-', 'x-oai-', 'x-responsesapi-', 'openai-'];

/** Exceptions in those families, which stay here: the bridge's own token, and a header meant for the next hop only. */
const kept = new Set([TURN_STATE_HEADER, 'x-codex-routing-hint']);

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

/** Headers that name one conversation, turn or request. The frames of Codex carry the same in `client_metadata`. */
const ofOneConversation = new Set([
  'session-id',
  'session_id',
  'conversation_id',
  THREAD_HEADER,
  TURN_METADATA_HEADER,
  'x-client-request-id',
  'x-codex-window-id',
  'traceparent',
  'tracestate',
]);

/** Returns the headers of an upgrade whose socket several conversations share: those that describe none of them. */
export const sharedHeaders = (headers: UpstreamRequestHeaders): UpstreamRequestHeaders =>
  Object.fromEntries(Object.entries(headers).filter(([name]) => !ofOneConversation.has(name)));

/**
 * Returns the headers of an upgrade's answer that concern a session which joined the socket later. What belongs to the first
 * turn, or to its model, is left out.
 */
export const headersOfJoined = (headers: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(headers).filter(([name]) => {
      const life = lifeOf(name);
      return (life === 'connection' || life === 'quota') && name.toLowerCase() !== 'openai-model';
    }),
  );

/**
 * Headers of a provider's answer (an upgrade, a 2xx, a refusal) that reach the client, and how long each one is valid. All
 * others concern only the provider's connection or this bridge.
 */

/**
 * - `connection`: valid for every turn on the connection opened with it.
 * - `quota`: the same, until newer telemetry on that connection replaces it.
 * - `answer`: about one answer only. Those of an upgrade belong to the first turn after it.
 * - `relayed`: sent only with an answer that is relayed whole.
 */
type HeaderLife = 'connection' | 'quota' | 'answer' | 'relayed';

const named = new Map<string, HeaderLife>([
  ['x-reasoning-included', 'connection'],
  ['x-models-etag', 'connection'],
  ['openai-model', 'connection'],
  ['openai-version', 'connection'],
  ['openai-processing-ms', 'answer'],
  [REQUEST_ID_HEADER, 'answer'],
  ['openai-organization', 'relayed'],
  ['content-type', 'relayed'],
  ['content-disposition', 'relayed'],
  // The SDKs wait this long between two looks at an object that is being processed.
  ['openai-poll-after-ms', 'relayed'],
  // Codex compares it with `x-models-etag`. Without it, every such header makes Codex fetch the model list again.
  ['etag', 'relayed'],
  [RETRY_AFTER_HEADER, 'relayed'],
  ['retry-after-ms', 'relayed'],
  [SHOULD_RETRY_HEADER, 'relayed'],
  ['www-authenticate', 'relayed'],
]);

const quota = /^x-codex-(?:.+-)?(?:primary|secondary|credits|promo|plan|limit|rate)(?:-|$)/;

/** Returns the lifetime of an answer's header at the client; null for a header that is not passed on. */
function lifeOf(name: string): HeaderLife | null {
  const lower = name.toLowerCase();
  const life = named.get(lower);
  if (life !== undefined) return life;
  if (lower.startsWith('x-codex-'))
    return lower === TURN_STATE_HEADER ? null : quota.test(lower) ? 'quota' : 'connection';
  // Counters over a window of seconds. A connection lives for up to an hour, so only its first turn may show them.
  return lower.startsWith('x-ratelimit-') ? 'answer' : null;
}

/** Returns whether a header of a 2xx answer is relevant to the answer of a turn. */
export const concernsTurns = (name: string): boolean => ![null, 'relayed'].includes(lifeOf(name));

/**
 * Returns a header value as it can be written to a client, or null. Some readers decode values as UTF-8; the original bytes
 * are restored.
 */
function writable(value: string): string | null {
  const bytes = /[\u0100-\uffff]/.test(value) ? Buffer.from(value, 'utf8').toString('latin1') : value;
  return /^[\t\u0020-\u007e\u0080-\u00ff]*$/.test(bytes) ? bytes : null;
}

/** Returns an answer's headers that the client may get, under the names they have there. */
export function clientHeaders(headers: Readonly<Record<string, string>>): Record<string, string> {
  return Object.fromEntries(livingHeaders(headers).map(({ name, value }) => [name, value]));
}

/** Returns an answer's headers that the client may get, with their lifetimes. */
export function livingHeaders(
  headers: Readonly<Record<string, string>>,
): { name: string; value: string; life: HeaderLife }[] {
  return Object.entries(headers).flatMap(([given, text]) => {
    const life = lifeOf(given);
    const value = life === null ? null : writable(text);
    if (life === null || value === null) return [];
    const lower = given.toLowerCase();
    // Clients get the provider's id under another name, because this one carries the bridge's own id.
    return [{ name: lower === REQUEST_ID_HEADER ? UPSTREAM_REQUEST_ID_HEADER : lower, value, life }];
  });
}

type Fields = Readonly<Record<string, unknown>>;
const LONGEST_HEADER = 256;

/**
 * Returns the header prefix of a limit: `x-codex` for the account's own, `x-codex-name` for a named one; null for other
 * names.
 */
function prefixOf(event: Fields): string | null {
  const given = event.metered_limit_name ?? event.limit_name ?? 'codex';
  const name = String(given).toLowerCase().replaceAll('_', '-');
  return /^codex(?:-[a-z0-9-]{1,60})?$/.test(name) ? `x-${name}` : null;
}

/**
 * Converts a `codex.rate_limits` event to the headers from which Codex reads the same data over HTTP, where it ignores the
 * event.
 *
 * @returns the headers of the limit, and the prefix of the known headers that they replace; null when the event concerns no
 *   limit that has headers
 */
export function headersOfRateLimits(event: Fields): { prefix: string; headers: Map<string, string> } | null {
  const prefix = prefixOf(event);
  const limits = isFields(event.rate_limits) ? event.rate_limits : null;
  const headers = new Map<string, string>();
  const put = (name: string, value: unknown) => {
    if (!['string', 'number', 'boolean'].includes(typeof value)) return;
    const text = writable(String(value).slice(0, LONGEST_HEADER));
    if (text !== null) headers.set(name, text);
  };
  if (prefix === null) return null;
  for (const window of ['primary', 'secondary']) {
    const fields = limits?.[window];
    if (!isFields(fields)) continue;
    for (const name of ['used_percent', 'window_minutes', 'reset_at', 'reset_after_seconds'])
      put(`${prefix}-${window}-${name.replaceAll('_', '-')}`, fields[name]);
  }
  const credits = event.credits ?? limits?.credits;
  if (isFields(credits)) {
    for (const name of ['has_credits', 'unlimited', 'balance'])
      put(`${prefix}-credits-${name.replaceAll('_', '-')}`, credits[name]);
  }
  if (headers.size === 0) return null;
  put('x-codex-plan-type', event.plan_type);
  if (prefix !== 'x-codex') put(`${prefix}-limit-name`, event.limit_name ?? event.metered_limit_name);
  return { prefix, headers };
}

/**
 * Longest stored value, in characters. A longer one would be repeated in each frame of its turn, and no header of this size
 * is accepted.
 */
const LONGEST_TURN_STATE = 16_384;

/** Turn id of a warm-up. The first real turn inherits its value. */
const WARM_UP = '';

/**
 * Provider's own turn state, learned from a handshake header or a `response.metadata` frame.
 *
 * It belongs to one turn of the client and is sent back only within that turn: in the `client_metadata` of later frames, or
 * as a header over HTTP. It is never shown to a client as the bridge's token, and the bridge's token is never sent in its
 * place.
 *
 * The turns of a session run one after the other, so a single value is stored.
 */
export class UpstreamTurnState {
  #held: { turnId: string; value: string } | null = null;

  /**
   * Stores a value. The first value of a turn wins; one that is too long to send back is ignored.
   *
   * @param turnId null for a request without a turn id
   */
  learn(turnId: string | null, value: string): void {
    // Without a turn id every request is a turn of its own, so its value could never be sent back.
    if (value.length > LONGEST_TURN_STATE) return;
    if (this.for(turnId) === null && turnId !== null) this.#held = { turnId, value };
  }

  /** Returns the value to send back in that turn; null when there is none, or the stored value is another turn's. */
  for(turnId: string | null): string | null {
    const held = this.#held;
    if (turnId === null || held === null) this.#held = null;
    else if (held.turnId === WARM_UP) this.#held = { turnId, value: held.value };
    else if (held.turnId !== turnId) this.#held = null;
    return this.#held?.value ?? null;
  }
}
