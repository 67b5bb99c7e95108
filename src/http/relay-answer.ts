import type { Response } from 'express';
import type { AnswerHead } from '../session/port.ts';
import { clientHeaders } from '../upstream/answer-headers.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import { headHeaders } from './envelope.ts';

/** Relays an upstream answer with status and body unchanged. Its own headers say more than its connection's. */
export function relayAnswer(res: Response, answer: UpstreamAnswer, requestId: string, head: AnswerHead | null): void {
  const { status, headers, body } = answer;
  res.writeHead(status >= 200 && status < 600 ? status : 502, {
    ...head?.headers,
    'content-type': 'application/json',
    ...clientHeaders(headers),
    ...headHeaders(requestId, head && { ...head, headers: undefined }),
  });
  res.end(body);
}
