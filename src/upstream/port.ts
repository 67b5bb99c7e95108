/** The upstream port: one connection to the provider, whatever carries it. */

import type { FailureKind } from './unreachable.ts';

export interface UpstreamRequestHeaders {
  readonly [name: string]: string;
}

/** A provider endpoint. `id` is stored with every session: encrypted items go back only to the same upstream. */
export interface UpstreamTarget {
  id: string;
  /** e.g. `https://api.openai.com/v1`; WebSocket and HTTP addresses are derived from it. */
  baseUrl: string;
  /** Further request headers of clients that go to it, names in lower case. */
  forwardHeaders?: readonly string[];
}

export interface DialRequest {
  target: UpstreamTarget;
  headers: UpstreamRequestHeaders;
  /** Milliseconds for TCP, TLS and the upgrade together. */
  timeoutMs: number;
}

/** An HTTP answer in place of the expected upgrade or stream, kept whole so that it can be relayed unchanged. */
export interface UpstreamAnswer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}

/** Why no connection came about. */
export interface Unreachable {
  /** A code and the host, for people; no path, no query, no credential. */
  text: string;
  kind: FailureKind;
  /** Trying again within seconds cannot help: nothing listens there, the name is unknown, the certificate is wrong. */
  final: boolean;
  /** A proxy on the way refused to pass it on. */
  byProxy: boolean;
}

export type DialResult =
  | { kind: 'open'; connection: UpstreamConnection; headers: Record<string, string> }
  | { kind: 'refused'; answer: UpstreamAnswer }
  | { kind: 'failed'; reason: string; unreachable?: Unreachable };

export interface ConnectionHandlers {
  /** One JSON text frame as received. */
  frame(text: string): void;
  /**
   * HTTP only: the provider answered with something other than 2xx, given whole so that it can be relayed unchanged.
   * Without this handler the refusal arrives as an `error` frame instead. `closed` follows either way.
   */
  refused?(answer: UpstreamAnswer): void;
  /** The connection is gone; called exactly once, after the last frame. `unreachable`: it never came about. */
  closed(info: { code: number; reason: string; unreachable?: Unreachable }): void;
}

/** One connection carrying one credential. Frames that arrive before `attach` wait. */
export interface UpstreamConnection {
  readonly kind: 'websocket' | 'http';
  readonly open: boolean;
  attach(handlers: ConnectionHandlers): void;
  /** Hands one `response.create` frame to the transport. False: the connection is not open and nothing was sent. */
  send(frame: string): boolean;
  /** Nothing is read until `resume`, control frames included: a peer that pings counts this as silence. */
  pause(): void;
  resume(): void;
  /** Idempotent. `code` defaults to 1000. The peer is given a bounded time to answer, then the socket is destroyed. */
  close(code?: number, reason?: string): void;
}

export interface HttpCall {
  target: UpstreamTarget;
  method: string;
  /** Path below the base URL, with query, e.g. `/responses/resp_1?stream=false`. */
  path: string;
  headers: UpstreamRequestHeaders;
  body: Buffer | string | null;
  signal?: AbortSignal;
}

export interface UpstreamTransport {
  /** Opens a WebSocket. Never throws; never follows redirects. */
  dial(request: DialRequest): Promise<DialResult>;
  /** A connection whose single exchange is a `POST /responses` over HTTP. Open at once, lost at the end of its answer. */
  exchange(request: DialRequest): UpstreamConnection;
  /** One HTTP call, answer streamed. Throws `UpstreamUnreachable`. */
  call(request: HttpCall): Promise<{ status: number; headers: Record<string, string>; body: NodeJS.ReadableStream }>;
  shutdown(): Promise<void>;
}

export class UpstreamUnreachable extends Error {
  override readonly name = 'UpstreamUnreachable';
  readonly kind: FailureKind;

  constructor(message: string, options: { kind: FailureKind; cause?: unknown }) {
    super(message, { cause: options.cause });
    this.kind = options.kind;
  }
}

/** Every error shape the provider uses, as one type. */
export interface UpstreamError {
  /** HTTP-like status: from the frame, else derived from the code, else 502. */
  status: number;
  type: string;
  /** Canonical code, e.g. `previous_response_not_found`; null when none could be derived. */
  code: string | null;
  message: string;
  param: string | null;
  retryAfterSeconds: number | null;
  /** The `error` object (or the whole body) as received, to be relayed. */
  raw: unknown;
}

/** What a frame means to the bridge. Anything not listed passes through as `event`. */
export interface ParsedFrame {
  kind: 'created' | 'event' | 'telemetry' | 'terminal' | 'error' | 'turn_state' | 'head' | 'malformed';
  /** The frame's `type`. */
  type: string;
  /** The frame as parsed; null when malformed. */
  data: Record<string, unknown> | null;
  responseId: string | null;
  /** For `terminal`. `response.incomplete` with reason `steered` is no terminal and arrives as `event`. */
  end: 'completed' | 'incomplete' | 'failed' | null;
  /** For `error`, and for a terminal that failed. */
  error: UpstreamError | null;
  /** For `turn_state`: the provider's own turn state, never shown to a client as ours. */
  turnState: string | null;
  /** For `head` and metadata: what the provider says in headers, names in lower case. */
  headers: Readonly<Record<string, string>> | null;
}
