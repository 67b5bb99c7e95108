import type { Response } from 'express';
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
  const once = (write: () => void) => {
    if (ended) return;
    ended = true;
    if (connection.open) write();
  };

  return {
    head: (given) => {
      head = given;
    },
    event: () => true,
    open: () => {},
    end(type, json) {
      once(() => {
        const failure = type === 'response.failed' ? normaliseError(JSON.parse(json)) : null;
        res.status(failure ? failure.status : 200).set(headHeaders(requestId, head));
        const { code, message, type: kind, param } = failure ?? {};
        if (failure) res.json({ error: { message, type: kind, code, param } });
        else res.type('json').send(memberText(json, 'response') ?? 'null');
      });
    },
    fail: (error) => once(() => sendError(res, error, requestId, head)),
    relay: (answer) => once(() => relayAnswer(res, answer, headHeaders(requestId, head))),
    cut() {
      ended = true;
      res.destroy();
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
