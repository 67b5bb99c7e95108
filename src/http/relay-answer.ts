import type { Response } from 'express';
import type { UpstreamAnswer } from '../upstream/port.ts';

/** Headers of a provider's answer that mean something to its client; the rest belongs to the connection or to us. */
const passed = new Set([
  'content-type',
  'retry-after',
  'retry-after-ms',
  'x-should-retry',
  'openai-organization',
  'openai-processing-ms',
  'openai-version',
  'openai-model',
  'www-authenticate',
]);

/** @returns the headers of an upstream answer that may go to the client */
export function clientHeaders(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).filter(
      ([name]) => passed.has(name.toLowerCase()) || /^x-(ratelimit|codex)-(?!turn-state)/i.test(name),
    ),
  );
}

/** Relays an upstream answer with status and body unchanged. */
export function relayAnswer(res: Response, answer: UpstreamAnswer, extra: Record<string, string>): void {
  const { status, headers, body } = answer;
  const type = headers['content-type'] ?? 'application/json';
  res.writeHead(status >= 200 && status < 600 ? status : 502, {
    ...clientHeaders(headers),
    'content-type': type,
    ...extra,
  });
  res.end(body);
}
