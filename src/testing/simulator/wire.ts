import type { ErrorShape, ErrorSpec } from './error-shapes.ts';
import type { SimEvent } from './events.ts';

/** Return path to one client for one turn. */
export interface Wire {
  readonly transport: 'websocket' | 'http';
  /** Aborted once the peer has disconnected. */
  readonly gone: AbortSignal;
  /**
   * Sends an event. Returns a promise when frames of another turn may be sent in between; the turn continues when it
   * resolves.
   */
  send(event: SimEvent): void | Promise<void>;
  /** Sends a text unchanged, whether or not it is JSON. */
  raw(text: string): void;
  /** Sends an error frame; over HTTP, a status as long as nothing was sent. */
  refuse(error: ErrorSpec, shape: ErrorShape, sequence: number): void;
  respond(status: number, headers: Record<string, string>, body: unknown): void;
  /** Closes the WebSocket, or ends the HTTP answer cleanly. */
  close(code: number, reason: string): void;
  /** Resets the TCP connection. */
  reset(): void;
  /** Called when the turn has nothing more to send. */
  finish(): void;
  /**
   * Resolves when another turn of the same connection arrives, or has sent `response.created`. Never resolves over
   * HTTP.
   */
  next(what: 'create' | 'created'): Promise<void>;
}
