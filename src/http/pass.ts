import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { BridgeError } from '../errors.ts';
import { type Caller, credentialOf } from '../session/port.ts';
import { clientHeaders } from '../upstream/answer-headers.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import { type HttpCall, type UpstreamTarget, type UpstreamTransport, UpstreamUnreachable } from '../upstream/port.ts';

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
 * Forwards one call that starts no turn to the provider and streams the answer back. The call is aborted when the
 * client disconnects.
 *
 * @returns the provider's status, or 499 when the client disconnected
 * @throws {BridgeError} `bridge_upstream_unreachable` when the provider cannot be reached
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
    if (error instanceof UpstreamUnreachable) throw unreachableError(error);
    throw error;
  }
}

/** Limits of a search for one item: pages read, items per page, and bytes per page. */
const MOST_PAGES = 50;
const PER_PAGE = 100;
const PAGE_BYTES = 16 * 1024 * 1024;

/**
 * Checks whether the list at a path below the upstream's base URL contains an item. Reads the list from its beginning
 * with the caller's credential, up to `MOST_PAGES` pages of `PER_PAGE` items.
 *
 * @throws {BridgeError} `bridge_upstream_unreachable`
 */
export async function listsItem(
  req: Request,
  options: Pick<PassOptions, 'transport' | 'target' | 'caller' | 'path'>,
  itemId: string,
): Promise<boolean> {
  const { transport, target, caller, path } = options;
  const credential = credentialOf(caller);
  const headers = upstreamHeaders({ client: flatHeaders(req.headers), credential, transport: 'http' });
  let after: string | null = null;
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const query = new URLSearchParams({ limit: String(PER_PAGE), ...(after === null ? {} : { after }) });
    const found = await readList(transport, { target, method: 'GET', path: `${path}?${query}`, headers, body: null });
    if (found.ids.includes(itemId)) return true;
    after = found.ids.at(-1) ?? null;
    if (!found.more || after === null) return false;
  }
  return false;
}

async function readList(transport: UpstreamTransport, call: HttpCall): Promise<{ ids: string[]; more: boolean }> {
  const none = { ids: [], more: false };
  try {
    const { status, body } = await transport.call(call);
    const chunks: Buffer[] = [];
    let size = 0;
    for await (const chunk of body as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > PAGE_BYTES) return none;
      chunks.push(chunk);
    }
    if (status !== 200) return none;
    const { data, has_more: more } = JSON.parse(Buffer.concat(chunks).toString('utf8')) as Record<string, unknown>;
    const ids = Array.isArray(data) ? data.map((item: { id?: unknown } | null) => item?.id) : [];
    return { ids: ids.filter((id) => typeof id === 'string'), more: more === true };
  } catch (error) {
    if (error instanceof UpstreamUnreachable) throw unreachableError(error);
    return none;
  }
}

const unreachableError = (cause: UpstreamUnreachable) =>
  new BridgeError('bridge_upstream_unreachable', { detail: `${cause.message}.`, cause });

/** Flattens request headers to single strings with lower-case names. */
export function flatHeaders(headers: Request['headers']): Record<string, string> {
  return Object.fromEntries(
    Object.entries(headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, Array.isArray(value) ? value.join(', ') : value]],
    ),
  );
}
