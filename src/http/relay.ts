import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Request, Response } from 'express';
import { BridgeError, NOT_SERVED } from '../errors.ts';
import { flatHeaders, REQUEST_ID_HEADER } from '../headers.ts';
import { type Caller, credentialOf, isHidden } from '../session/port.ts';
import { clientHeaders, upstreamHeaders } from '../upstream/headers.ts';
import { type HttpCall, type UpstreamTarget, type UpstreamTransport, UpstreamUnreachable } from '../upstream/port.ts';
import { discard, hasBody } from './envelope.ts';

/** Answer of the provider to one call. */
export type Answer = Awaited<ReturnType<UpstreamTransport['call']>>;

/** Way to the provider for one caller. */
export interface Way {
  transport: UpstreamTransport;
  target: UpstreamTarget;
  caller: Caller;
}

export interface PassOptions extends Way {
  /** Path below the upstream's base URL, with query. */
  path: string;
  /** Body to send; a stream is sent as it arrives. */
  body: Buffer | Readable | null;
  /** Headers of the body. Default for a buffer: the client's content type. */
  bodyHeaders?: Readonly<Record<string, string>>;
  requestId: string;
  /**
   * Called with a 2xx answer before anything of it is sent.
   *
   * @returns the answer to send in its place
   */
  inspect?: ((answer: Answer) => Promise<Answer>) | undefined;
  /** Sends the answer to the client. Default: `sendAnswer`. */
  send?(answer: Answer): Promise<void>;
}

/** Returns the headers of a call that starts no turn. */
export const headersFor = (req: Request, { caller, target }: Pick<Way, 'caller' | 'target'>) =>
  upstreamHeaders({
    client: flatHeaders(req.headers),
    credential: credentialOf(caller),
    transport: 'http',
    also: target.forwardHeaders,
  });

/**
 * Forwards one call that starts no turn to the provider and streams the answer back. The call is aborted when the
 * client disconnects.
 *
 * @returns the provider's status, or 499 when the client disconnected
 * @throws {BridgeError} `bridge_upstream_unreachable` when the provider cannot be reached, or the error with which the
 *   stream of the body was destroyed
 */
export async function pass(req: Request, res: Response, options: PassOptions): Promise<number> {
  const { transport, target, caller, path, body, requestId, inspect } = options;
  const gone = new AbortController();
  res.once('close', () => gone.abort());
  const headers = headersFor(req, options);
  const type = req.headers['content-type'];
  const bodyHeaders = options.bodyHeaders ?? (body && type ? { 'content-type': type } : {});
  /** Error with which the body ended before it was complete. */
  let broken: BridgeError | null = null;
  if (body instanceof Readable) {
    body.once('error', (error) => {
      if (error instanceof BridgeError) broken = error;
    });
  }
  try {
    let answer = await transport.call({
      target,
      hidden: isHidden(caller),
      method: req.method,
      path,
      headers: { ...headers, ...bodyHeaders },
      body,
      signal: gone.signal,
    });
    if (inspect && answer.status >= 200 && answer.status < 300) answer = await inspect(answer);
    await (options.send?.(answer) ?? sendAnswer(req, res, answer, requestId));
    return answer.status;
  } catch (error) {
    if (gone.signal.aborted || res.headersSent || (req.destroyed && !req.complete)) {
      res.destroy();
      return 499;
    }
    if (broken !== null) throw broken;
    if (error instanceof UpstreamUnreachable) throw unreachableError(error);
    throw error;
  } finally {
    if (body instanceof Readable) body.destroy();
  }
}

/** Streams an answer of the provider to the client. Rejects when either of them breaks off. */
export async function sendAnswer(req: Request, res: Response, answer: Answer, requestId: string): Promise<void> {
  // A refusal may come before the client has sent its whole body. Its connection must stay open until it has.
  const unread = hasBody(req) && !req.complete;
  const rest = unread ? new Promise<void>((over) => discard(req, over)) : null;
  res.writeHead(answer.status, {
    ...clientHeaders(answer.headers),
    ...(unread ? { connection: 'close' } : {}),
    [REQUEST_ID_HEADER]: requestId,
  });
  await pipeline(answer.body, res, { end: false });
  await rest;
  res.end();
  if (unread && !req.complete) req.destroy();
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
export async function listsItem(req: Request, way: Way & { path: string }, itemId: string): Promise<boolean> {
  const { transport, target, caller, path } = way;
  const common = { target, hidden: isHidden(caller), method: 'GET', headers: headersFor(req, way), body: null };
  let after: string | null = null;
  for (let page = 0; page < MOST_PAGES; page += 1) {
    const query = new URLSearchParams({ limit: String(PER_PAGE), ...(after === null ? {} : { after }) });
    const found = await readList(transport, { ...common, path: `${path}?${query}` });
    if (found.ids.includes(itemId)) return true;
    after = found.ids.at(-1) ?? null;
    if (!found.more || after === null) return false;
  }
  return false;
}

async function readList(transport: UpstreamTransport, call: HttpCall): Promise<{ ids: string[]; more: boolean }> {
  const none = { ids: [], more: false };
  try {
    const answer = await transport.call(call);
    const body = await collected(answer, PAGE_BYTES);
    if (answer.status !== 200 || body === null) return none;
    const { data, has_more: more } = JSON.parse(body.toString('utf8')) as Record<string, unknown>;
    const ids = Array.isArray(data) ? data.map((item: { id?: unknown } | null) => item?.id) : [];
    return { ids: ids.filter((id) => typeof id === 'string'), more: more === true };
  } catch (error) {
    if (error instanceof UpstreamUnreachable) throw unreachableError(error);
    return none;
  }
}

/** Reads the whole body of an answer. Null when it has more bytes than `most`; the answer is given up then. */
export async function collected(answer: Pick<Answer, 'body'>, most: number): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of answer.body as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > most) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Returns the error of a call that got no answer. */
export const unreachableError = (cause: UpstreamUnreachable): BridgeError =>
  new BridgeError('bridge_upstream_unreachable', { detail: `${cause.message}.`, cause });

/** Query parameters that refer to a position in a list. */
export const CURSORS = ['after', 'before'] as const;

/** Returns the error of a field or a query parameter that names an object of another scope. */
export const foreignObject = (param: string): BridgeError => new BridgeError('bridge_foreign_object', { param });

/** Returns the query of a request, whatever path its router is mounted on. */
export const queryOf = ({ originalUrl }: Request): URLSearchParams =>
  new URLSearchParams(originalUrl.includes('?') ? originalUrl.slice(originalUrl.indexOf('?') + 1) : '');

/**
 * Encodes one decoded path segment for the upstream path.
 *
 * @throws {BridgeError} `bridge_not_found` for a segment that a provider could resolve to a different path when it
 * decodes or normalises once more
 */
export function segment(text: string): string {
  const unsafe = text.includes('%') || text.split(/[\\/]/).some((piece) => /^\.{0,2}$/.test(piece));
  if (unsafe) throw new BridgeError('bridge_not_found', { detail: NOT_SERVED });
  return encodeURIComponent(text).replace(/%(?:3A|40|2C|3B|2B|3D|24|26)/g, decodeURIComponent);
}

/**
 * Returns a body that an outer app has read before the request reached the bridge, from `req.body`: bytes, text, or a value
 * whose original text is no longer available.
 *
 * @param req request with `readableDidRead`; without it the body is still to be read, because some parsers set `req.body`
 * without reading anything
 * @throws {BridgeError} `bridge_invalid_json` for a body that was read and left nowhere, `bridge_invalid_request` for a value
 * that is nested too deeply
 */
export function bytesTaken(req: Request): Buffer {
  const body: unknown = req.body;
  if (body === undefined || body === null) {
    throw new BridgeError('bridge_invalid_json', { detail: 'The app read it before the bridge and left no req.body.' });
  }
  if (body instanceof Uint8Array) return Buffer.from(body.buffer, body.byteOffset, body.length);
  try {
    return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BridgeError('bridge_invalid_request', { detail: 'The body is nested too deeply.' });
  }
}
