import type { UpstreamRequestHeaders } from './port.ts';

/**
 * What of a client's request goes upstream. An allowlist: everything else stays here, above all the bridge's own
 * turn-state token, cookies, hop-by-hop and length headers, forwarding headers and idempotency keys (a key that means
 * one answer to the client may need two sends upstream).
 */
const forwarded = [
  'user-agent',
  'originator',
  'version',
  'session-id',
  'session_id',
  'conversation_id',
  'thread-id',
  'x-client-request-id',
  'x-codex-window-id',
  'x-codex-turn-metadata',
  'x-codex-beta-features',
  'x-openai-subagent',
] as const;

/** These choose whose account is used and billed: they go only with the credential they came with. */
const accountBound = ['chatgpt-account-id', 'openai-organization', 'openai-project'] as const;

const BETA_FLAGS = 'openai-beta';

/** Every header of a client that may have a part in what goes upstream, the credential aside. */
export const headersForUpstream: readonly string[] = [...forwarded, ...accountBound, BETA_FLAGS];

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
 * The headers of an upgrade or an HTTP request made on behalf of a client.
 *
 * @param from.client the client's headers, names in lower case
 * @param from.authorization the `authorization` the provider shall see; null sends none
 * @param from.transport `x-codex-turn-metadata` on an upgrade is as of the dial: later turns carry theirs in the frame
 */
export function upstreamHeaders(from: {
  client: Readonly<Record<string, string>>;
  authorization: string | null;
  transport: 'websocket' | 'http';
}): UpstreamRequestHeaders {
  const { client, authorization } = from;
  const headers: Record<string, string> = {};
  if (authorization !== null) headers.authorization = authorization;
  const credentialReplaced = client.authorization !== undefined && client.authorization !== authorization;
  for (const name of credentialReplaced ? forwarded : [...forwarded, ...accountBound]) {
    const value = client[name];
    if (value !== undefined && value !== '') headers[name] = value;
  }
  const beta = betaFlags(client[BETA_FLAGS], from.transport === 'websocket');
  if (beta !== null) headers[BETA_FLAGS] = beta;
  return headers;
}
