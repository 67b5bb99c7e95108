import { createHash } from 'node:crypto';

/** Headers that several parts read or write: their names, in lower case, and how they are read. */

/** In an answer, the turn-state token that Codex sends back within its user turn; to the provider, the provider's own turn state. */
export const TURN_STATE_HEADER = 'x-codex-turn-state';
/** Data of Codex about its turn, as JSON. */
export const TURN_METADATA_HEADER = 'x-codex-turn-metadata';
export const THREAD_HEADER = 'thread-id';
export const IDEMPOTENCY_HEADER = 'idempotency-key';

/** To the client, the bridge's own id of the request; in a provider's answer, the provider's. */
export const REQUEST_ID_HEADER = 'x-request-id';
/** The provider's request id, as the client gets it. */
export const UPSTREAM_REQUEST_ID_HEADER = 'x-upstream-request-id';
export const OUTCOME_HEADER = 'x-holdfast-outcome';
const SESSION_HEADER = 'x-holdfast-session';
export const SHOULD_RETRY_HEADER = 'x-should-retry';
export const RETRY_AFTER_HEADER = 'retry-after';

/** Between workers: the signed token of a message. */
export const FORWARD_TOKEN_HEADER = 'x-holdfast-internal-hop';
/** Marks a refusal as the receiver's own, as opposed to an intermediary's answer: the request was certainly not served. */
export const REFUSED_HEADER = 'x-holdfast-internal-refused';

/** Returns the source expression by which a content security policy admits one inline script or style. */
export const inlineSource = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`;

/** Flattens headers to one string each, names in lower case. Repeated headers are joined as HTTP allows. */
export function flatHeaders(headers: Readonly<Record<string, string | string[] | undefined>>): Record<string, string> {
  // Without a prototype: a header may be named `constructor`.
  const flat: Record<string, string> = Object.create(null);
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) flat[name.toLowerCase()] = Array.isArray(value) ? value.join(', ') : value;
  }
  return flat;
}

/** Data of a turn that its answer's headers carry. */
export interface HeadFields {
  outcome: string;
  sessionId: string | null;
  /** Turn-state token; only set once the row that it names is durable. */
  token: string | null;
  /** The provider's own headers that concern the client, names in lower case. */
  headers?: Readonly<Record<string, string>> | undefined;
}

/** Returns the headers common to all answers of a turn. The token is included only when its row is durable. */
export function headHeaders(requestId: string, head: HeadFields | null): Record<string, string> {
  return {
    ...head?.headers,
    [REQUEST_ID_HEADER]: requestId,
    ...(head ? { [OUTCOME_HEADER]: head.outcome } : {}),
    ...(head?.sessionId ? { [SESSION_HEADER]: head.sessionId } : {}),
    ...(head?.token ? { [TURN_STATE_HEADER]: head.token } : {}),
  };
}

/**
 * Parses a `Host` header to name or address and port, in lower case and without the dot that ends a full name; null when it
 * is malformed.
 */
export function hostAndPort(text: string): { name: string; port: string | null } | null {
  const match = /^(\[[\da-f:.]+\]|[\w.-]+?)\.?(?::(\d{1,5}))?$/i.exec(text.trim());
  return match && { name: match[1]!.toLowerCase(), port: match[2] ?? null };
}
