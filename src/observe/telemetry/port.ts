import type { IncomingMessage, ServerResponse } from 'node:http';
import type { BridgeError } from '../../errors.ts';
import type { TurnRequest } from '../../session/port.ts';
import type { TurnLine, TurnTimes } from '../../session/turn.ts';
import type { Logger } from '../log.ts';

/** Ids of a span, as log lines name them. */
export interface SpanIds {
  trace_id: string;
  span_id: string;
}

/** Traces of one bridge. No method throws for what a client sent. */
export interface Traces {
  /** Middleware in front of the API: begins the span of a request, which ends with its answer. */
  handler(req: IncomingMessage, res: ServerResponse, next: () => void): void;
  /**
   * Begins the span of a turn. Its parent is the span of its HTTP request, or what the client named.
   *
   * @param hop place in the trace that the worker named which holds the client; null where it named none. Absent: this worker
   *   holds the client
   */
  received(request: TurnRequest, hop?: string | null): void;
  /** Begins the span of an attempt to forward a request. Returns its place in the trace, for the other worker. */
  forwarding(request: TurnRequest): string | undefined;
  /** A turn with this id was placed: log lines that name it carry its ids from now on. */
  placed(turnId: string, request: TurnRequest): void;
  /** Returns the ids of a turn's span; null when it is not known. */
  idsOf(request: TurnRequest): SpanIds | null;
  /** Ends the spans of a turn, with what is known of it. */
  turnEnded(line: TurnLine, request: TurnRequest, times: TurnTimes): void;
  /** Notes the error with which a request is answered that became no turn. */
  failed(error: BridgeError): void;
  /** Returns a logger whose lines about a traced request carry the ids of its span. */
  logging(logger: Logger): Logger;
}

/** What the environment asks for cannot be had. The message names the variable or the packages. */
export class TelemetryUnusable extends Error {
  override readonly name = 'TelemetryUnusable';
}
