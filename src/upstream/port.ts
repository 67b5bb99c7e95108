import type { Readable } from 'node:stream';
import { MOST_LEVELS } from '../json.ts';

/** Upstream port: one connection to the provider, over any transport. */

export interface UpstreamRequestHeaders {
  readonly [name: string]: string;
}

/** Provider endpoint. `id` is stored with every session: encrypted items may go back only to the same upstream. */
export interface UpstreamTarget {
  id: string;
  /** Base URL such as `https://api.openai.com/v1`. WebSocket and HTTP addresses are derived from it. */
  baseUrl: string;
  /** Further client headers to pass on to it, names in lower case. */
  forwardHeaders?: readonly string[];
  /** Most conversations of one scope on one WebSocket to it; 0 or absent: each has its own. */
  lanes?: number;
}

/** Wish to share a WebSocket with other sessions. */
export interface SharingWish {
  /** Only sessions of one scope share a socket. */
  scope: string;
  /** Most sessions on a socket at the same time. */
  most: number;
  /** Response that the session continues: a socket that holds it is preferred. Null when there is none. */
  continues: string | null;
  /** Returns false once the session no longer needs a connection. */
  isWanted(): boolean;
}

export interface DialRequest {
  target: UpstreamTarget;
  headers: UpstreamRequestHeaders;
  /** The client does not know the credential among the headers: nothing that is received may reveal it. */
  hidden?: boolean;
  /** Time in milliseconds for TCP, TLS and the upgrade together. */
  timeoutMs: number;
  /** Absent: the connection gets a socket of its own. */
  sharing?: SharingWish | undefined;
}

/** HTTP answer received in place of the expected upgrade or stream. Kept whole so that it can be relayed unchanged. */
export interface UpstreamAnswer {
  status: number;
  headers: Record<string, string>;
  body: Buffer;
}

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

/** Cause of a connection failure. */
export interface Unreachable {
  /** Code and host, for people. Contains no path, no query and no credential. */
  text: string;
  kind: FailureKind;
  /** Repeating within seconds cannot help: nothing listens there, the name is unknown, the certificate is wrong. */
  final: boolean;
  /** A proxy on the way refused the connection. */
  byProxy: boolean;
}

export type DialResult =
  | { kind: 'open'; connection: UpstreamConnection; headers: Record<string, string> }
  | { kind: 'refused'; answer: UpstreamAnswer }
  | { kind: 'failed'; reason: string; unreachable?: Unreachable };

/** Reader of a connection. */
export interface ConnectionHandlers {
  /** Called with one JSON text frame as received. */
  frame(text: string): void;
  /**
   * HTTP only: called when the provider answered with a status other than 2xx, with the whole answer so that it can be
   * relayed unchanged. Without this handler the refusal arrives as an `error` frame. `closed` follows in both cases.
   */
  refused?(answer: UpstreamAnswer): void;
  /**
   * Called exactly once, after the last frame, when the connection has ended. `unreachable` is set when it was never
   * established.
   */
  closed(info: ConnectionEnd): void;
  /** Shared sockets only: frames are waiting for a paused reader beyond the bound. One that stays paused is cut off. */
  stuck?(): void;
}

/** End of a connection. */
export interface ConnectionEnd {
  code: number;
  reason: string;
  unreachable?: Unreachable;
  /** On a socket that other sessions shared, the peer has sent frames: its end says nothing about what the peer can do. */
  spoke?: boolean;
}

/** What the session of a shared socket knows of that socket. */
export interface SharedSocketView {
  /** Time at which the socket opened, in monotonic milliseconds. */
  readonly openedAt: number;
  /** As many responses run on the socket as the provider runs at the same time: another one would wait there. */
  readonly crowded: boolean;
  /** Returns whether the next frame can continue from that response, which another lane of the socket holds. */
  lends(responseId: string): boolean;
}

/** One connection carrying one credential. Frames that arrive before `attach` are queued. */
export interface UpstreamConnection {
  readonly kind: 'websocket' | 'http';
  readonly open: boolean;
  /** Set for a lane of a shared socket. */
  readonly shared?: SharedSocketView;
  attach(handlers: ConnectionHandlers): void;
  /**
   * Hands one `response.create` frame to the transport.
   *
   * @param borrows response of another lane that the frame continues; default: none
   * @returns false when the connection is not open; nothing was sent then
   */
  send(frame: string, borrows?: string | null): boolean;
  /** Stops reading until `resume`, control frames included: a peer that pings sees this as silence. */
  pause(): void;
  resume(): void;
  /**
   * Closes the connection; `code` defaults to 1000. Idempotent. The peer gets a bounded time to answer, then the socket is
   * destroyed.
   */
  close(code?: number, reason?: string): void;
}

/** One HTTP request to a provider. */
export interface HttpCall {
  target: UpstreamTarget;
  method: string;
  /** Path below the base URL, with query, such as `/responses/resp_1?stream=false`. */
  path: string;
  headers: UpstreamRequestHeaders;
  /** As in {@link DialRequest}. */
  hidden?: boolean;
  body: Buffer | string | Readable | null;
  signal?: AbortSignal;
}

/** Transport for all traffic to providers. */
export interface UpstreamTransport {
  /** Opens a WebSocket. Never rejects; never follows redirects. */
  dial(request: DialRequest): Promise<DialResult>;
  /**
   * Opens a connection whose single exchange is a `POST /responses` over HTTP. It is open at once and closed at the end of
   * the answer.
   */
  exchange(request: DialRequest): UpstreamConnection;
  /**
   * Makes one HTTP call and streams the answer.
   *
   * @throws `UpstreamUnreachable` when no answer came
   */
  call(request: HttpCall): Promise<{ status: number; headers: Record<string, string>; body: NodeJS.ReadableStream }>;
  /** Closes all connections; nothing is opened after that. */
  shutdown(): Promise<void>;
}

/** An HTTP call got no answer. The message names the cause. */
export class UpstreamUnreachable extends Error {
  override readonly name = 'UpstreamUnreachable';
  readonly kind: FailureKind;

  constructor(message: string, options: { kind: FailureKind; cause?: unknown }) {
    super(message, { cause: options.cause });
    this.kind = options.kind;
  }
}

/** Upstream error of any shape, normalised. */
export interface UpstreamError {
  /** HTTP status: from the frame, else derived from the code, else 502. */
  status: number;
  type: string;
  /** Canonical code such as `previous_response_not_found`; null when none could be derived. */
  code: string | null;
  message: string;
  param: string | null;
  retryAfterSeconds: number | null;
  /** The `error` object (or the whole body) as received, for relaying. */
  raw: unknown;
}

/** Interpretation of one frame. Anything not listed passes through as `event`. */
export interface ParsedFrame {
  kind: 'created' | 'event' | 'telemetry' | 'terminal' | 'error' | 'turn_state' | 'head' | 'malformed';
  /** The frame's `type`. */
  type: string;
  /** The frame as parsed, possibly with null where its response repeats the request; null when malformed. */
  data: Record<string, unknown> | null;
  responseId: string | null;
  /** For `terminal`. `response.incomplete` with reason `steered` is not terminal and has kind `event`. */
  end: 'completed' | 'incomplete' | 'failed' | null;
  /** For `error`, and for a terminal event that failed. */
  error: UpstreamError | null;
  /** For `turn_state`: the provider's own turn state. Never shown to a client as the bridge's token. */
  turnState: string | null;
  /** For `head` and metadata: headers of the provider, names in lower case. */
  headers: Readonly<Record<string, string>> | null;
}

/**
 * Deepest nesting accepted from a provider. A provider repeats parts of a request a few levels deeper than they were sent.
 */
export const MOST_FRAME_LEVELS = MOST_LEVELS + 16;

/** Limits of one transport on data from a peer, and on the time to wait for it. */
export interface TransportLimits {
  /** Longest incoming message, event or JSON answer, bytes; a longer one ends the connection with 1009. */
  maxIncomingBytes: number;
  /** Time for the peer to answer a close frame, in milliseconds. */
  closeTimeoutMs: number;
  /** Most bytes read of a refusal's body. */
  refusalBytes: number;
  /** Time for a refusal's body after its status line, in milliseconds. */
  refusalTimeoutMs: number;
  /** Silence before TCP keepalive probes start, in milliseconds. */
  tcpKeepAliveMs: number;
}

/** Connection, open or being opened, that `shutdown` must end. */
export interface Ending {
  /** Closes in order; may take a moment. */
  shutDown(): void;
  /** Closes at once. */
  destroy(): void;
}

/** Open connections of a transport. */
export interface LiveConnections {
  add(one: Ending): void;
  /** Removes a connection that has ended. */
  remove(one: Ending): void;
  closeAll(): void;
  destroyAll(): void;
  /** Resolves when no connection is left. */
  emptied(): Promise<void>;
}

/**
 * Returns the HTTP address of `path` (which may have a query) below a provider's base URL. A query of the base URL itself,
 * such as an API version, is kept.
 *
 * @throws `TypeError` for a base that is no http(s) URL, and for a path that leaves it: dot segments could otherwise reach
 *   addresses that the credential is not meant for
 */
export function httpAddress(baseUrl: string, path: string): URL {
  const base = new URL(baseUrl);
  if (base.protocol !== 'http:' && base.protocol !== 'https:') throw new TypeError('the upstream URL is not http(s)');
  const prefix = base.pathname.replace(/\/+$/, '');
  const [pathname = '', query = ''] = path.split(/\?(.*)/s);
  const address = new URL(base);
  address.hash = '';
  address.pathname = prefix + pathname;
  if (!pathname.startsWith('/') || address.pathname !== prefix + pathname || /%2e/i.test(pathname)) {
    throw new TypeError('the path does not stay below the upstream URL');
  }
  for (const [name, value] of new URLSearchParams(query)) address.searchParams.append(name, value);
  return address;
}

/**
 * Returns the WebSocket address of the same place: `https` becomes `wss`, `http` becomes `ws`.
 *
 * @throws `TypeError` as `httpAddress` does
 */
export function webSocketAddress(baseUrl: string, path: string): URL {
  const address = httpAddress(baseUrl, path);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  return address;
}
