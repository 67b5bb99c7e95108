import type { Request, Response } from 'express';
import type { BridgeError } from '../errors.ts';
import { type ClientSink, isHidden } from '../session/port.ts';
import type { Clock } from '../system.ts';
import { parseFrame, responseIdOf } from '../upstream/frames.ts';
import type { UpstreamRequestHeaders } from '../upstream/port.ts';
import { createSseParser, frameOfEvent } from '../upstream/streams.ts';
import { sequenceOf } from './envelope.ts';
import { type Answer, pass, queryOf, segment, sendAnswer, type Way } from './relay.ts';

/**
 * Streams of responses that run in the background.
 *
 * The provider keeps the events of such a response and numbers them, so its own stream is the one that is resumed:
 * `GET /responses/:id?stream=true&starting_after=N`. Nothing of it is kept here, and any worker can continue the stream of any
 * other. Events that the client has are dropped by their number, and a stream that breaks off before its terminal event is
 * resumed after the last number that was sent: no number is missing or sent twice, whichever side breaks.
 */

/** Most attempts in a row that bring no new event. */
const MOST_ATTEMPTS = 6;
/** Pause before the second of them, in milliseconds; each later one doubles. */
const FIRST_PAUSE_MS = 100;
/** Most characters of one event. */
const EVENT_CHARS = 64 * 1024 * 1024;

export interface Followed extends Way {
  responseId: string;
  /** Query of the client's request; `stream` and `starting_after` are set by this code. */
  query: URLSearchParams;
  headers: UpstreamRequestHeaders;
  clock: Pick<Clock, 'after'>;
  /** Number of the last event that the client has; null when it has none. */
  last: number | null;
}

const isEventStream = ({ status, headers }: Answer) =>
  status >= 200 && status < 300 && (headers['content-type'] ?? '').includes('event-stream');

/** Requests the stream after the last event that the client has. */
function requestStream(followed: Followed, signal: AbortSignal) {
  const { transport, target, caller, responseId, query, headers, last } = followed;
  const wanted = new URLSearchParams(query);
  wanted.set('stream', 'true');
  if (last !== null) wanted.set('starting_after', String(last));
  const path = `/responses/${segment(responseId)}?${wanted}`;
  return transport.call({ target, hidden: isHidden(caller), method: 'GET', path, headers, body: null, signal });
}

/**
 * Relays the stream of a response to a sink until its terminal event. When it cannot be resumed any more, the client's
 * connection is cut: the response itself goes on, and the client may resume its stream later.
 *
 * @param first answer to the first request, if it was made already
 */
export async function followResponse(followed: Followed, sink: ClientSink, first: Answer | null = null): Promise<void> {
  const gone = new AbortController();
  let wake = () => {};
  sink.onGone(() => {
    gone.abort();
    wake();
  });
  sink.onDrain(() => wake());
  const at = { ...followed };
  let answer = first;
  let attempts = 0;

  /** Sends one event. Returns true when it was the last one. */
  const send = async (text: string): Promise<boolean> => {
    const frame = parseFrame(text);
    const number = sequenceOf(text);
    if (number !== null) {
      if (at.last !== null && number <= at.last) return false;
      at.last = number;
      attempts = 0;
    }
    if (frame.kind === 'terminal' && frame.end !== null) {
      sink.end(`response.${frame.end}`, text);
      return true;
    }
    if (frame.kind === 'error') {
      const { status = 502, code = null, message = '' } = frame.error ?? {};
      const body = Buffer.from(JSON.stringify({ error: { code, message } }));
      sink.relay({ status, headers: {}, body });
      return true;
    }
    if (!sink.event(frame.type, text, frame.kind === 'telemetry') && sink.attached) {
      await new Promise<void>((go) => {
        wake = go;
      });
    }
    return false;
  };

  /** Relays one answer. Returns true when the response has ended for the client. */
  const relay = async ({ body }: Answer): Promise<boolean> => {
    const texts: string[] = [];
    const parser = createSseParser((data, name) => {
      const text = frameOfEvent(data, name);
      if (text !== null) texts.push(text);
    }, EVENT_CHARS);
    const sendAll = async () => {
      for (let text = texts.shift(); text !== undefined; text = texts.shift()) if (await send(text)) return true;
      return false;
    };
    for await (const chunk of body as AsyncIterable<Buffer>) {
      parser.push(chunk);
      if (await sendAll()) return true;
    }
    parser.end();
    return sendAll();
  };

  while (!gone.signal.aborted) {
    try {
      answer ??= await requestStream(at, gone.signal);
      if (!isEventStream(answer)) {
        (answer.body as { destroy?(): void }).destroy?.();
        // It is refused for good: the provider does not know the response, or keeps no events of it.
        if (answer.status < 500 && answer.status !== 429) break;
      } else if (await relay(answer)) return;
    } catch (error) {
      if (error instanceof TypeError) throw error;
    }
    answer = null;
    attempts += 1;
    if (attempts >= MOST_ATTEMPTS) break;
    await new Promise<void>((go) => {
      const stop = followed.clock.after(FIRST_PAUSE_MS * 2 ** (attempts - 1), go);
      wake = () => {
        stop();
        go();
      };
    });
  }
  if (sink.attached) sink.cut();
}

/**
 * Answers `GET /responses/:id?stream=true`: relays the stream if there is one, and otherwise the provider's answer as it is.
 *
 * @returns the provider's status, or 499 when the client disconnected
 */
export async function streamResponse(
  req: Request,
  res: Response,
  options: Omit<Followed, 'query' | 'last'> & { requestId: string; sink(): ClientSink },
): Promise<number> {
  const { requestId, responseId, sink, ...way } = options;
  const query = queryOf(req);
  const after = Number(query.get('starting_after') ?? Number.NaN);
  const last = Number.isSafeInteger(after) && after >= 0 ? after : null;
  return pass(req, res, {
    ...way,
    path: `/responses/${segment(responseId)}?${query}`,
    body: null,
    requestId,
    async send(answer) {
      if (!isEventStream(answer)) return sendAnswer(req, res, answer, requestId);
      const opened = sink();
      // The next event may be a long time off.
      opened.open();
      await followResponse({ ...way, responseId, query, last }, opened, answer);
    },
  });
}

/** Errors after which a response in the background does not go on for its client. */
const final = new Set(['bridge_turn_cancelled', 'bridge_turn_timeout']);

/**
 * Wraps the sink of a turn in the background. If its stream breaks off here (the upstream connection, or the worker that ran
 * the turn, is lost), the rest comes from the provider, on the same connection.
 *
 * @param way.keep records the id of the response before its first event is shown; null when nothing needs to be recorded
 */
export function createBackgroundSink(
  inner: ClientSink,
  way: { keep: ((responseId: string) => Promise<void>) | null; follow(responseId: string, last: number | null): void },
): ClientSink {
  let responseId: string | null = null;
  let last: number | null = null;
  /** Calls that wait until the id is recorded; null when none waits. */
  let waiting: (() => void)[] | null = null;
  const drained: (() => void)[] = [];
  inner.onDrain(() => {
    if (waiting === null) for (const listener of drained) listener();
  });
  const inOrder = (call: () => void) => void (waiting === null ? call() : waiting.push(call));

  const begin = (id: string) => {
    responseId = id;
    if (way.keep === null) return;
    const held: (() => void)[] = [];
    waiting = held;
    const release = () => {
      waiting = null;
      for (const call of held) call();
      for (const listener of drained) listener();
    };
    // Without its record the response is only harder to find, so its client gets it anyway.
    way.keep(id).then(release, release);
  };

  return {
    head: (head) => inner.head(head),
    event(type, json, telemetry) {
      if (responseId === null) {
        const id = responseIdOf(type, json);
        if (id !== null) begin(id);
      }
      last = sequenceOf(json) ?? last;
      if (waiting === null) return inner.event(type, json, telemetry);
      waiting.push(() => void inner.event(type, json, telemetry));
      return false;
    },
    open: () => inOrder(() => inner.open()),
    end: (type, json) => inOrder(() => inner.end(type, json)),
    fail(error: BridgeError) {
      const id = responseId;
      inOrder(() => {
        if (id === null || final.has(error.code) || !inner.attached) inner.fail(error);
        else way.follow(id, last);
      });
    },
    relay: (answer) => inOrder(() => inner.relay(answer)),
    cut: () => inner.cut(),
    get attached() {
      return inner.attached;
    },
    get shown() {
      return inner.shown || waiting !== null;
    },
    get committed() {
      return inner.committed || waiting !== null;
    },
    onGone: (listener) => inner.onGone(listener),
    onDelivered: (listener) => inner.onDelivered(listener),
    onDrain: (listener) => void drained.push(listener),
  };
}
