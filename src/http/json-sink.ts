import type { Response } from 'express';
import type { Clock } from '../clock.ts';
import { BridgeError } from '../errors.ts';
import { memberText } from '../json.ts';
import type { AnswerHead, ClientSink } from '../session/port.ts';
import { normaliseError } from '../upstream/errors.ts';
import { watchConnection } from './connection.ts';
import { headHeaders, sendError } from './envelope.ts';
import { relayAnswer } from './relay-answer.ts';

export interface JsonSinkOptions {
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
        if (retryAfterSeconds !== null) res.set('retry-after', String(Math.ceil(retryAfterSeconds)));
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
