import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { BridgeError } from '../errors.ts';
import { type Caller, credentialOf } from '../session/port.ts';
import { clientHeaders } from '../upstream/answer-headers.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import { type UpstreamTarget, type UpstreamTransport, UpstreamUnreachable } from '../upstream/port.ts';

export interface PassOptions {
  transport: UpstreamTransport;
  target: UpstreamTarget;
  caller: Caller;
  /** Path below the upstream's base URL, with query. */
  path: string;
  body: Buffer | null;
  requestId: string;
}

/**
 * Passes one call that opens no turn to the provider and streams its answer back. Throws `bridge_upstream_unreachable`
 * when there is none; a client that goes away ends the call. Resolves to the provider's status, 499 for a client that left.
 */
export async function pass(req: Request, res: Response, options: PassOptions): Promise<number> {
  const { transport, target, caller, path, body, requestId } = options;
  const gone = new AbortController();
  res.once('close', () => gone.abort());
  const headers = upstreamHeaders({
    client: flatHeaders(req.headers),
    credential: credentialOf(caller),
    transport: 'http',
    also: target.forwardHeaders,
  });
  try {
    const type = req.headers['content-type'];
    const answer = await transport.call({
      target,
      method: req.method,
      path,
      headers: body && type ? { ...headers, 'content-type': type } : headers,
      body,
      signal: gone.signal,
    });
    res.writeHead(answer.status, {
      ...clientHeaders(answer.headers),
      'x-request-id': requestId,
    });
    await pipeline(answer.body, res);
    return answer.status;
  } catch (error) {
    if (gone.signal.aborted || res.headersSent) {
      res.destroy();
      return 499;
    }
    if (error instanceof UpstreamUnreachable) {
      throw new BridgeError('bridge_upstream_unreachable', { detail: `${error.message}.`, cause: error });
    }
    throw error;
  }
}

/** A request's headers as single lower-cased strings. */
export function flatHeaders(headers: Request['headers']): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, Array.isArray(value) ? value.join(', ') : value]],
    ),
  );
}
