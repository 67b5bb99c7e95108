import type { Response } from 'express';
import type { AnswerHead } from '../session/port.ts';
import { clientHeaders } from '../upstream/answer-headers.ts';
import type { UpstreamAnswer } from '../upstream/port.ts';
import { headHeaders } from './envelope.ts';

/**
 * Relays an upstream answer with its status and body unchanged. Headers of the answer itself override those of its
 * upstream connection.
 */
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
