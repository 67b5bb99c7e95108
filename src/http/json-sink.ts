import type { Response } from 'express';
import { BridgeError } from '../errors.ts';
import { memberText } from '../json.ts';
import type { AnswerHead, ClientSink } from '../session/port.ts';
import { normaliseError } from '../upstream/errors.ts';
import { watchConnection } from './connection.ts';
import { headHeaders, sendError } from './envelope.ts';
import { relayAnswer } from './relay-answer.ts';

/**
 * The client's end of a `stream: false` answer: events are not shown, the terminal's response object is the body. Status
 * and body leave together at the end, so every failure has its own status.
 */
export function createJsonSink({ res, requestId }: { res: Response; requestId: string }): ClientSink {
  const connection = watchConnection(res);
  let head: AnswerHead | null = null;
  let ended = false;
  const once = (write: () => unknown) => {
    if (ended) return;
    ended = true;
    if (!connection.open) return;
    try {
      write();
    } catch (error) {
      // What was to be said cannot be written: the client gets an answer all the same.
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
          // The text as it came: a value that was parsed and written again may have changed.
          res.status(200).set('content-type', 'application/json; charset=utf-8');
          return res.end(memberText(json, 'response') ?? 'null');
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
