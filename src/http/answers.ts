import type { Response } from 'express';
import { BridgeError } from '../errors.ts';
import { headHeaders, RETRY_AFTER_HEADER } from '../headers.ts';
import { memberText } from '../json.ts';
import type { AnswerHead, ClientSink } from '../session/port.ts';
import { type Clock, guarded } from '../system.ts';
import { normaliseError } from '../upstream/errors.ts';
import { responseIdOf } from '../upstream/frames.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import { failedEvent, relayAnswer, sendError, sequenceOf } from './envelope.ts';
import { watchConnection } from './server.ts';

interface JsonSinkOptions {
  res: Response;
  requestId: string;
  clock: Clock;
  /** Time for which a client may accept no part of its answer before its connection is closed, in milliseconds. */
  slowClientMs: number;
}

/** Size of the pieces in which a body is written, in bytes. Each accepted piece shows that the client is reading. */
const PIECE_BYTES = 65_536;

/**
 * Creates the client side of a `stream: false` answer. Events are not sent; the response object of the terminal event
 * becomes the body. Status and body are sent together at the end, so every failure gets its own status.
 */
export function createJsonSink({ res, requestId, clock, slowClientMs }: JsonSinkOptions): ClientSink {
  const connection = watchConnection(res);
  let stopPatience = () => {};
  const wait = () => {
    stopPatience();
    if (connection.open) stopPatience = clock.after(slowClientMs, () => res.destroy());
  };
  connection.onGone(() => stopPatience());
  connection.onDelivered(() => stopPatience());
  const writeBody = (body: Buffer) => {
    let at = 0;
    const more = () => {
      wait();
      while (at < body.length && connection.open) {
        const piece = body.subarray(at, at + PIECE_BYTES);
        at += PIECE_BYTES;
        if (!res.write(piece)) return void res.once('drain', more);
      }
      res.end();
    };
    more();
  };
  let head: AnswerHead | null = null;
  let ended = false;
  const once = (write: () => unknown) => {
    if (ended) return;
    ended = true;
    if (!connection.open) return;
    try {
      write();
      wait();
    } catch (error) {
      // The answer could not be written. Send an error instead, so that the client gets an answer.
      sendError(res, new BridgeError('bridge_internal', { cause: error }), requestId);
      throw error;
    }
  };

  return {
    head: (given) => {
      head = given;
    },
    event: () => true,
    open: () => {},
    end(type, json) {
      once(() => {
        res.set(headHeaders(requestId, head));
        if (type !== 'response.failed') {
          // Use the original text: parsing and serialising a value again may change it.
          const body = Buffer.from(memberText(json, 'response') ?? 'null');
          res.status(200).set({
            'content-type': 'application/json; charset=utf-8',
            'content-length': String(body.length),
          });
          return writeBody(body);
        }
        const { status, code, message, type: kind, param, retryAfterSeconds } = normaliseError(JSON.parse(json));
        if (retryAfterSeconds !== null) res.set(RETRY_AFTER_HEADER, String(Math.ceil(retryAfterSeconds)));
        res.status(status).json({ error: { message, type: kind, code, param } });
      });
    },
    fail: (error) => once(() => sendError(res, error, requestId, head)),
    relay: (answer) => once(() => relayAnswer(res, answer, requestId, head)),
    cut() {
      ended = true;
      if (!res.writableEnded) res.destroy();
    },
    get attached() {
      return connection.open;
    },
    shown: false,
    get committed() {
      return ended;
    },
    onGone: connection.onGone,
    onDelivered: connection.onDelivered,
    onDrain: () => {},
  };
}

interface SseSinkOptions {
  res: Response;
  requestId: string;
  /** Model named in the request. */
  model: string | null;
  clock: Clock;
  /** Interval between keepalive comments while no event is sent, in milliseconds. */
  keepaliveMs: number;
  /** Time for which a client may read nothing before its connection is closed, in milliseconds. */
  slowClientMs: number;
}

const NUMBER = '"sequence_number"';
/** Returns whether an event seems to have a sequence number: mostly its last member, which a long text shows at once. */
const isNumbered = (json: string) => json.includes(NUMBER, json.length - 64) || json.includes(NUMBER);

/** Text that is written at once, in characters. Shorter events of one read of the upstream share a chunk. */
const CHUNK = 16_384;

/**
 * Creates the client side of a streamed answer. Events that arrive in one turn of the event loop are written as one chunk.
 * The status is held back until the first event, so that an early failure can use its own status. After the headers were
 * sent, every failure is one `response.failed` event, because clients ignore a bare `error` event.
 */
export function createSseSink(options: SseSinkOptions): ClientSink {
  const { res, requestId, clock, keepaliveMs, slowClientMs } = options;
  const connection = watchConnection(res);
  let head: AnswerHead | null = null;
  let shown = false;
  /** The last event that has a sequence number. */
  let numbered: string | null = null;
  let responseId: string | null = null;
  let opened = false;
  let ended = false;
  let stalled = false;
  /** The type of the last event, and what stands before the data of such an event. */
  let named = { type: '', before: beforeData('') };
  /** Events that are still to be written in this turn of the event loop. */
  let batch = '';
  /** Time of the last write, in monotonic milliseconds. */
  let wroteAt = 0;
  let stopKeepalive = () => {};
  let stopPatience = () => {};
  const drained: (() => void)[] = [];

  res.on('drain', () => {
    stalled = false;
    stopPatience();
    if (ended) awaitDelivery();
    for (const listener of drained) listener();
  });
  connection.onGone(() => release());
  connection.onDelivered(() => release());
  const release = () => {
    stopKeepalive();
    stopPatience();
  };

  /** Arms the keepalive. The timer is not restarted for each event: when it fires, it waits for the rest of the interval. */
  const keepalive = (ms = keepaliveMs) => {
    stopKeepalive = clock.after(ms, () => {
      if (batch !== '') flush();
      const left = wroteAt + keepaliveMs - clock.now();
      if (left > 0) return keepalive(left);
      if (connection.open && !stalled) write(': keepalive\n\n');
      flush();
      keepalive();
    });
  };
  /** Sends the status and the headers, together with the first events if there are any in this turn of the event loop. */
  const open = (withEvents: boolean) => {
    if (opened || res.headersSent || !connection.open) return;
    opened = true;
    res.status(200).set({
      'content-type': 'text/event-stream; charset=utf-8',
      'cache-control': 'no-cache, no-transform',
      'x-accel-buffering': 'no',
      ...headHeaders(requestId, head),
    });
    if (withEvents) res.writeHead(200);
    else res.flushHeaders();
    wroteAt = clock.now();
    keepalive();
  };
  /**
   * Writes to the client. Returns false when the client reads more slowly than data arrives; `slowClientMs` then starts
   * to run.
   */
  const write = (text: string): boolean => {
    if (!connection.open) return true;
    if (batch === '') process.nextTick(flush);
    batch += text;
    if (batch.length >= CHUNK) flush();
    return !stalled;
  };
  const flush = guarded(
    'client connection',
    () => {
      const text = batch;
      batch = '';
      wroteAt = clock.now();
      if (text === '' || !connection.open || res.write(text) || stalled) return;
      stalled = true;
      stopPatience = clock.after(slowClientMs, () => res.destroy());
    },
    () => res.destroy(),
  );
  /** Ends the answer, and limits the time in which its rest must be delivered. */
  const close = () => {
    flush();
    res.end();
    awaitDelivery();
  };
  /**
   * Limits the time in which the buffered rest of an ended answer must be delivered; otherwise a client that stops
   * reading would hold its connection. While stalled, the timer of `write` already runs.
   */
  const awaitDelivery = () => {
    if (!stalled && connection.open) stopPatience = clock.after(slowClientMs, () => res.destroy());
  };
  const fail = (error: { code: string; message: string; bridge_code?: string }) => {
    const { model } = options;
    const now = clock.wall();
    const sequence = (numbered === null ? null : sequenceOf(numbered)) ?? -1;
    for (const { type, json } of failedEvent({ error, requestId, responseId, model, now, begun: shown, sequence }))
      write(eventText(type, json));
    shown = true;
    close();
  };

  return {
    head: (given) => {
      head = given;
    },
    event(type, json, telemetry) {
      if (ended || !connection.open) return true;
      // The openai package rejects event types that it does not know, and no client over HTTP reads these: what they say
      // about quotas and the model is in the headers.
      if (telemetry) return true;
      open(true);
      shown = true;
      if (isNumbered(json)) numbered = json;
      responseId ??= responseIdOf(type, json);
      if (type !== named.type) named = { type, before: beforeData(type) };
      return write(named.before + dataText(json));
    },
    open: () => open(false),
    end(type, json) {
      if (ended) return;
      ended = true;
      stopKeepalive();
      if (!connection.open) return;
      open(true);
      shown = true;
      write(eventText(type, json));
      close();
    },
    fail(error) {
      if (ended) return;
      ended = true;
      stopKeepalive();
      if (!connection.open) return;
      if (!res.headersSent) return sendError(res, error, requestId, head);
      const { message, code } = error.envelope().error;
      fail({ code, message, bridge_code: error.code });
    },
    relay(answer: UpstreamAnswer) {
      if (ended) return;
      ended = true;
      stopKeepalive();
      if (!connection.open) return;
      if (!res.headersSent) return relayAnswer(res, answer, requestId, head);
      const { code, message } = describe(answer);
      fail({ code, message });
    },
    cut() {
      ended = true;
      release();
      res.destroy();
    },
    get attached() {
      return connection.open;
    },
    get shown() {
      return shown;
    },
    get committed() {
      return ended || res.headersSent;
    },
    onGone: connection.onGone,
    onDelivered: connection.onDelivered,
    onDrain: (listener) => void drained.push(listener),
  };
}

const hasBreak = (text: string) => text.includes('\n') || text.includes('\r');

/** Returns the beginning of a server-sent event. A type that is empty or contains a line break cannot be an event name. */
const beforeData = (type: string) => (hasBreak(type) || type === '' ? 'data: ' : `event: ${type}\ndata: `);

/**
 * Returns the data of a server-sent event with the end of the event. Line breaks can stand only between the tokens of
 * pretty-printed JSON, never inside its strings, so removing them changes no value.
 */
const dataText = (json: string) => `${hasBreak(json) ? json.replaceAll(/[\r\n]+/g, '') : json}\n\n`;

/** Formats one server-sent event as an `event` line and one `data` line. */
const eventText = (type: string, json: string) => beforeData(type) + dataText(json);

/** Returns the code and message of an upstream refusal that has to be sent as an event. */
function describe(answer: UpstreamAnswer): { code: string; message: string } {
  try {
    const { error } = JSON.parse(answer.body.toString('utf8')) as {
      error?: { code?: unknown; type?: unknown; message?: unknown };
    };
    const message = typeof error?.message === 'string' ? error.message : `The upstream answered ${answer.status}.`;
    return { code: String(error?.code ?? error?.type ?? 'server_error'), message };
  } catch {
    const { code } = new BridgeError('bridge_upstream_lost').envelope().error;
    return { code, message: `The upstream answered ${answer.status}.` };
  }
}
