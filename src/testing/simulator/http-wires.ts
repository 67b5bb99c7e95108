import type { ServerResponse } from 'node:http';
import { errorFrame, errorObject } from './error-shapes.ts';
import type { SimEvent } from './events.ts';
import { isTerminal } from './program.ts';
import type { Wire } from './wire.ts';

/** Sends a JSON answer (a string is sent as plain text), unless the answer has already started. */
export function answer(
  res: ServerResponse,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (res.headersSent || res.destroyed) return;
  const text = typeof body === 'string' ? body : JSON.stringify(body ?? {});
  res.writeHead(status, { 'content-type': typeof body === 'string' ? 'text/plain' : 'application/json', ...headers });
  res.end(text);
}

/** Returns a signal that is aborted when the client disconnects before its answer is finished. */
function goneSignal(res: ServerResponse): AbortSignal {
  const gone = new AbortController();
  res.on('close', () => {
    if (!res.writableFinished) gone.abort();
  });
  return gone.signal;
}

const retryAfter = (seconds: number | undefined): Record<string, string> =>
  seconds === undefined ? {} : { 'retry-after': String(seconds) };

const never = () => new Promise<void>(() => undefined);

/** Creates the wire of a turn answered as server-sent events. The status is sent with the first event. */
export function sseWire(res: ServerResponse, headers: Readonly<Record<string, string>>): Wire {
  const begin = () => {
    if (!res.headersSent)
      res.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-cache',
        ...headers,
      });
  };
  const write = (type: string, data: string) => {
    begin();
    res.write(`event: ${type}\ndata: ${data}\n\n`);
  };
  return {
    transport: 'http',
    gone: goneSignal(res),
    send: (event) => write(event.type, JSON.stringify(event)),
    raw: (text) => write('message', text),
    refuse(error, shape, sequence) {
      if (!res.headersSent)
        return answer(
          res,
          error.status,
          { error: errorObject(error) },
          { ...headers, ...retryAfter(error.retryAfter) },
        );
      write('error', JSON.stringify(errorFrame(error, shape, sequence)));
    },
    respond: (status, extra, body) => answer(res, status, body, { ...headers, ...extra }),
    close() {
      begin();
      res.end();
    },
    reset: () => void res.socket?.resetAndDestroy(),
    finish() {
      if (!res.writableEnded) {
        begin();
        res.end();
      }
    },
    next: never,
  };
}

/**
 * Creates the wire of a turn answered as one JSON body. With `queued`, for `background`, the answer is the response as
 * queued.
 */
export function jsonWire(res: ServerResponse, headers: Readonly<Record<string, string>>, queued: boolean): Wire {
  let result: Record<string, unknown> | null = null;
  return {
    transport: 'http',
    gone: goneSignal(res),
    send(event: SimEvent) {
      const response = event.response as Record<string, unknown> | undefined;
      if (queued && event.type === 'response.queued') result = response!;
      if (!queued && isTerminal(event)) result = response!;
    },
    raw: () => undefined,
    refuse: (error) =>
      answer(res, error.status, { error: errorObject(error) }, { ...headers, ...retryAfter(error.retryAfter) }),
    respond: (status, extra, body) => answer(res, status, body, { ...headers, ...extra }),
    close: () => void res.destroy(),
    reset: () => void res.socket?.resetAndDestroy(),
    finish() {
      if (result) answer(res, 200, result, headers);
      else if (!res.writableEnded) res.destroy();
    },
    next: never,
  };
}
