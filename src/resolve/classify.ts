import { createHash } from 'node:crypto';
import type { TurnRequest } from '../session/port.ts';
import type { KeyRef } from '../store/port.ts';
import { scopeKindOf, type Tokens } from '../token/token.ts';
import { LONGEST_METADATA } from '../transcript/read.ts';
import type { Names, RequestBody } from '../transcript/types.ts';
import type { Evidence } from './types.ts';

/** Headers of Codex. Over HTTP its turn state is sent in the first one only; the second one holds its turn id, as JSON. */
const TURN_STATE_HEADER = 'x-codex-turn-state';
const TURN_METADATA = 'x-codex-turn-metadata';
/** Session headers, strongest first. A request uses exactly one. */
const sessionHeaders = ['session-id', 'session_id', 'x-session-id', 'x-session-affinity'] as const;

export interface ClassifyInput {
  request: TurnRequest;
  tokens: Pick<Tokens, 'verify'>;
  limits: {
    /** Maximum size of an upstream frame, in bytes; a larger body is sent over plain HTTP. */
    frameBytes: number;
    /** False if the upstream is known, or configured, to support only HTTP. */
    webSocket: boolean;
  };
}

const nothing: Names = { owned: new Map(), foreign: null };

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

function text(value: unknown): string | null {
  return typeof value === 'string' && value.trim() !== '' ? value.trim() : null;
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

/** Returns the anchor unchanged: ids are compared and relayed byte for byte. */
function anchorOf({ previous_response_id: id }: RequestBody): string | null {
  return typeof id === 'string' && id !== '' ? id : null;
}

/**
 * Returns the request's single hard key: the thread id, otherwise the first session header. Codex sub-agents share a
 * session id, but never a thread id.
 */
function hardKeyOf(headers: TurnRequest['headers']): KeyRef | null {
  const thread = text(headers['thread-id']);
  if (thread) return { kind: 'thread', hash: sha256(thread) };
  for (const name of sessionHeaders) {
    const session = text(headers[name]);
    if (session) return { kind: 'session', hash: sha256(session) };
  }
  return null;
}

function turnIdIn(metadata: unknown): string | null {
  const json = text(metadata);
  if (!json || json.length > LONGEST_METADATA) return null;
  try {
    return text(record(JSON.parse(json)).turn_id);
  } catch {
    return null;
  }
}

/** Returns whether the client marks the request as a retry. The OpenAI SDKs count attempts; 0 is the first one. */
function countsRepeats({ 'x-stainless-retry-count': count }: TurnRequest['headers']): boolean {
  return count !== undefined && !/^\s*0*\s*$/.test(count);
}

/**
 * Returns the client's turn id. Codex writes it into `client_metadata` and into a JSON header; a warm-up sends an empty
 * one.
 */
function clientTurnIdOf({ body, headers }: TurnRequest): string | null {
  const metadata = record(body.client_metadata);
  return text(metadata.turn_id) ?? turnIdIn(metadata[TURN_METADATA]) ?? turnIdIn(headers[TURN_METADATA]);
}

function passThroughOf({ body, bytes }: TurnRequest, limits: ClassifyInput['limits']): Evidence['passThrough'] {
  if (body.background === true) return 'background';
  if (body.conversation !== undefined && body.conversation !== null) return 'conversation';
  if (bytes > limits.frameBytes) return 'oversize';
  return limits.webSocket ? null : 'no_websocket';
}

/**
 * Reads a request into typed evidence. Raw headers are not read after this. Never throws.
 *
 * Values of keys are only kept as hashes.
 */
export function classify({ request, tokens, limits }: ClassifyInput): Evidence {
  const { caller, headers, body } = request;
  const { scope, credentialFp, credentialIsClients } = caller;
  return {
    scope,
    credentialFp,
    credentialIsClients,
    token: tokens.verify(headers[TURN_STATE_HEADER]?.trim() ?? '', { scope, scopeKind: scopeKindOf(caller) }),
    anchor: anchorOf(body),
    hardKey: hardKeyOf(headers),
    idempotencyKey: text(headers['idempotency-key']),
    repeats: countsRepeats(headers),
    clientTurnId: clientTurnIdOf(request),
    shape: request.shape,
    requestFp: request.requestFp,
    contextFp: request.contextFp,
    references: request.references,
    comparison: request.comparison,
    // The origin of referenced objects matters only if several tenants share a credential.
    ...(credentialIsClients ? nothing : request.names),
    store: body.store !== false,
    passThrough: passThroughOf(request, limits),
  };
}
