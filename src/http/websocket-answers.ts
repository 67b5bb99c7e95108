import { BridgeError } from '../errors.ts';
import { headHeaders } from '../headers.ts';
import { withMembers } from '../json.ts';
import type { AnswerHead, ClientSink } from '../session/port.ts';
import { type Clock, guarded } from '../system.ts';
import { responseIdOf } from '../upstream/frames.ts';
import { clientHeaders } from '../upstream/headers.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import { failedEvent, retryHeaders, sequenceOf } from './envelope.ts';

/** A client's WebSocket, as the answers on it see it. */
export interface AnswerSocket {
  /** False once the connection is closing or closed. */
  readonly open: boolean;
  /**
   * Sends one message.
   *
   * @param delivered called once the message has been handed to the operating system
   * @returns false if the client reads more slowly than the bridge writes; `onDrain` reports when it has caught up
   */
  send(text: string, delivered?: () => void): boolean;
  /** Registers a listener for each time the client has caught up. Returns a function that removes it. */
  onDrain(listener: () => void): () => void;
  /** Registers a listener for the end of the connection; called at once if it has ended. Returns a function that removes it. */
  onGone(listener: () => void): () => void;
}

/**
 * Codex's revision of the protocol, as it names it in `openai-beta`. Only such a client reads turn state and headers from
 * `response.metadata` events; and it ends its work at an error event with status 429 or 503, but repeats after
 * `response.failed`.
 */
export const CODEX_PROTOCOL = /\bresponses_websockets\b/;

/** Returns an event with the lane that it belongs to. */
function inLane(json: string, lane: string | null): string {
  if (lane === null) return json;
  const member = JSON.stringify(lane);
  if (json.includes('"stream_id"')) return withMembers(json, new Map([['stream_id', member]]));
  // The name of a lane needs no escapes, and only white space can follow the last brace.
  return `${json.slice(0, json.lastIndexOf('}'))},"stream_id":${member}}`;
}

/** Returns an error event, as the guide to WebSocket mode documents it. */
function errorEvent(
  status: number,
  error: object,
  headers: Readonly<Record<string, string>>,
  lane: string | null,
): string {
  const more = Object.keys(headers).length === 0 ? {} : { headers };
  return inLane(JSON.stringify({ type: 'error', status, error, ...more }), lane);
}

/**
 * Returns the event that reports an error of the bridge before any event of a response.
 *
 * @param lane lane of the refused request; null for the default lane, and for errors of the whole connection
 */
export function errorEventOf(error: BridgeError, requestId: string, lane: string | null): string {
  const { error: envelope } = error.envelope();
  const param = envelope.param ?? (error.entry.code === 'previous_response_not_found' ? 'previous_response_id' : null);
  return errorEvent(
    error.status,
    { ...envelope, param },
    { ...headHeaders(requestId, null), ...retryHeaders(error) },
    lane,
  );
}

/** Returns the provider's own refusal as an event. */
function relayedEvent({ status, headers, body }: UpstreamAnswer, requestId: string, lane: string | null): string {
  let error: unknown = null;
  try {
    const parsed = JSON.parse(body.toString('utf8')) as { error?: unknown } | null;
    error = parsed?.error;
  } catch {
    // A gateway's page is no error object.
  }
  const own = { message: `The upstream answered ${status}.`, type: 'server_error', code: 'server_error', param: null };
  const shown =
    typeof error === 'object' && error !== null ? error : typeof error === 'string' ? { ...own, message: error } : own;
  return errorEvent(status, shown, { ...clientHeaders(headers), ...headHeaders(requestId, null) }, lane);
}

/** Returns why a turn failed that Codex is to repeat. It waits only under this one code, for the time in the message. */
function repeatable({ entry, status, message, retryAfterSeconds, code: bridge_code }: BridgeError) {
  if (status !== 429) return { code: entry.code, message, bridge_code };
  const wait = retryAfterSeconds === null ? '' : ` Please try again in ${retryAfterSeconds}s.`;
  return { code: 'rate_limit_exceeded', message: `${message}${wait}`, bridge_code };
}

export interface WebSocketSinkOptions {
  socket: AnswerSocket;
  requestId: string;
  /** Lane of the request; null for the default lane. */
  lane: string | null;
  /** The client speaks `CODEX_PROTOCOL`. */
  codex: boolean;
  /** Model named in the request. */
  model: string | null;
  clock: Clock;
  /** Called with the data that HTTP has in the headers of the answer. */
  onHead(head: AnswerHead): void;
  /** Called with each event of the response, and the id of the response. */
  onEvent?(type: string, json: string, responseId: string | null): void;
  /** Called once, when the answer has ended: the lane is free. `terminal` is its last event, if it has one. */
  onEnded(terminal: { type: string; json: string } | null): void;
  /** Returns further events for a turn that is refused before its first event, and whether they replace the error. */
  onRefused?: ((message: string) => { events: string[]; instead: boolean }) | undefined;
}

/**
 * Creates the client side of one turn on a WebSocket: one event a message. A failure before the first event of the
 * response is an `error` event, a later one `response.failed`; the connection stays open.
 */
export function createWebSocketSink(options: WebSocketSinkOptions): ClientSink {
  const { socket, requestId, lane, codex, model, clock } = options;
  let head: AnswerHead | null = null;
  let shown = false;
  let ended = false;
  let delivered = false;
  let gone = false;
  let sequence = -1;
  let responseId: string | null = null;
  let held: string[] = [];
  const onDrain: (() => void)[] = [];
  const onGone: (() => void)[] = [];
  const onDelivered: (() => void)[] = [];
  const call = (listeners: readonly (() => void)[]) => {
    for (const listener of listeners) guarded('client connection', listener)();
  };

  const stopDrain = socket.onDrain(() => call(onDrain));
  let stopGone = () => {};
  const release = () => {
    stopDrain();
    stopGone();
  };
  const write = (json: string) => socket.send(inLane(json, lane));
  /** Sends the last message. The answer counts as delivered once the operating system has it. */
  const writeLast = (message: string) =>
    void socket.send(message, () => {
      if (gone || delivered) return;
      delivered = true;
      release();
      call(onDelivered);
    });
  const end = (last: () => void, terminal: { type: string; json: string } | null = null) => {
    if (ended) return;
    ended = true;
    try {
      if (socket.open && !gone) last();
    } finally {
      options.onEnded(terminal);
    }
  };
  /** Sends why the turn is refused, as its last message unless other events replace it. */
  const refuse = (message: string, error: () => void) => {
    const { events, instead } = (!shown && options.onRefused?.(message)) || { events: [], instead: false };
    events.forEach((event, at) => {
      if (instead && at === events.length - 1) writeLast(event);
      else socket.send(event);
    });
    if (!instead) error();
  };
  stopGone = socket.onGone(() => {
    if (delivered || gone) return;
    gone = true;
    release();
    call(onGone);
    end(() => {});
  });
  /** Sends what HTTP sends in the headers of an answer. */
  const writeHead = () => {
    if (!codex || head === null) return;
    write(JSON.stringify({ type: 'response.metadata', headers: headHeaders(requestId, head) }));
  };
  const failed = (error: { code: string; message: string; bridge_code?: string }) => {
    const now = clock.wall();
    const events = failedEvent({ error, requestId, responseId, model, now, begun: shown, sequence });
    events.forEach(({ json }, at) => {
      if (at < events.length - 1) write(json);
      else writeLast(inLane(json, lane));
    });
    shown = true;
  };

  return {
    head(given) {
      head = given;
      options.onHead(given);
    },
    event(type, json, telemetry) {
      if (ended || !socket.open) return true;
      if (telemetry && !shown) {
        held.push(json);
        return true;
      }
      const early = held;
      held = [];
      for (const each of early) write(each);
      const first = !shown;
      shown = true;
      sequence = sequenceOf(json) ?? sequence;
      responseId ??= responseIdOf(type, json);
      options.onEvent?.(type, json, responseId);
      const keepsUp = write(json);
      if (first) writeHead();
      return keepsUp;
    },
    // Pings show the client that the connection is alive.
    open: () => {},
    end(type, json) {
      end(
        () => {
          for (const each of held) write(each);
          if (!shown) writeHead();
          shown = true;
          writeLast(inLane(json, lane));
        },
        { type, json },
      );
    },
    fail(error) {
      end(() =>
        refuse(error.message, () => {
          if (codex && error.entry.retry) return failed(repeatable(error));
          if (!shown) return writeLast(errorEventOf(error, requestId, lane));
          const { message, code } = error.envelope().error;
          failed({ code, message, bridge_code: error.code });
        }),
      );
    },
    relay(answer) {
      end(() =>
        refuse(`The upstream answered ${answer.status}.`, () => writeLast(relayedEvent(answer, requestId, lane))),
      );
    },
    cut() {
      // Another connection reads the answer now. Other turns of this connection go on.
      const error = new BridgeError('bridge_turn_cancelled');
      end(() => refuse(error.message, () => writeLast(errorEventOf(error, requestId, lane))));
    },
    get attached() {
      return !gone && !delivered && socket.open;
    },
    get shown() {
      return shown;
    },
    get committed() {
      return ended || shown;
    },
    onGone: (listener) => (gone ? listener() : void onGone.push(listener)),
    onDrain: (listener) => void onDrain.push(listener),
    onDelivered: (listener) => (delivered ? listener() : void onDelivered.push(listener)),
  };
}
