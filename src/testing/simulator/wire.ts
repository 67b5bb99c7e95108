import type { ErrorShape, ErrorSpec } from './error-shapes.ts';
import type { SimEvent } from './events.ts';

/** The way back to one client for one turn. */
export interface Wire {
  readonly transport: 'websocket' | 'http';
  /** Aborted once the peer is gone. */
  readonly gone: AbortSignal;
  /** A promise when frames of another turn were let in between: the turn goes on when it settles. */
  send(event: SimEvent): void | Promise<void>;
  /** Text as it is, JSON or not. */
  raw(text: string): void;
  /** An error frame; over HTTP a status as long as nothing was sent. */
  refuse(error: ErrorSpec, shape: ErrorShape, sequence: number): void;
  respond(status: number, headers: Record<string, string>, body: unknown): void;
  /** WebSocket close, or a clean end of the HTTP answer. */
  close(code: number, reason: string): void;
  /** TCP reset. */
  reset(): void;
  /** The turn has nothing more to say. */
  finish(): void;
  /** Resolves when another turn of the same connection arrives, or has sent `response.created`; never over HTTP. */
  next(what: 'create' | 'created'): Promise<void>;
}
