import { createHash } from 'node:crypto';
import type { TurnRequest } from '../session/port.ts';
import type { KeyRef } from '../store/port.ts';
import { scopeKindOf, type Tokens } from '../token/token.ts';
import { LONGEST_METADATA } from '../transcript/read.ts';
import type { Names, RequestBody } from '../transcript/types.ts';
import type { Evidence } from './types.ts';

/** Codex's own id of its user turn travels in these; over HTTP its turn state comes in the header only. */
const TURN_STATE_HEADER = 'x-codex-turn-state';
const TURN_METADATA = 'x-codex-turn-metadata';
/** The strongest first: a request uses exactly one. */
const sessionHeaders = ['session-id', 'session_id', 'x-session-id', 'x-session-affinity'] as const;

export interface ClassifyInput {
  request: TurnRequest;
  tokens: Pick<Tokens, 'verify'>;
  limits: {
    /** Largest upstream frame in bytes; a larger body goes over plain HTTP. */
    frameBytes: number;
    /** False when the upstream is known to speak only HTTP, or is configured so. */
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

/** Taken as it is: an id is compared and relayed byte for byte. */
function anchorOf({ previous_response_id: id }: RequestBody): string | null {
  return typeof id === 'string' && id !== '' ? id : null;
}

/** The one hard key: thread id, else the first session header. Codex sub-agents share a session id, never a thread. */
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

/** The OpenAI SDKs count: 0 says that it is the first attempt. */
function countsRepeats({ 'x-stainless-retry-count': count }: TurnRequest['headers']): boolean {
  return count !== undefined && !/^\s*0*\s*$/.test(count);
}

/** Codex writes its turn id into `client_metadata`, and again into a JSON header; a warm-up sends an empty one. */
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
 * Reads a request into typed evidence; nothing after this looks at raw headers. Never throws.
 * Values of keys leave only as hashes.
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
    // Whose they are matters only where several share a credential.
    ...(credentialIsClients ? nothing : request.names),
    store: body.store !== false,
    passThrough: passThroughOf(request, limits),
  };
}
