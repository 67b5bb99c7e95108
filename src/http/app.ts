import { createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import express, { type NextFunction, type Request, type RequestHandler, type Response, type Router } from 'express';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { flatHeaders, REQUEST_ID_HEADER } from '../headers.ts';
import type { Reader } from '../intake/pool.ts';
import { encodeText } from '../json.ts';
import type { Log } from '../log.ts';
import { type Caller, type ClientSink, credentialOf, type Shutdown, type TurnRequest } from '../session/port.ts';
import type { Lease, Quota } from '../session/quota.ts';
import { StoreUnavailable } from '../store/port.ts';
import type { Clock, Ids } from '../system.ts';
import { COMPARISON_PATH, namedInQuery } from '../transcript/provider-ids.ts';
import type { ReadRequest } from '../transcript/types.ts';
import { accountOf, clientHeaders, keyHeaders, upstreamHeaders } from '../upstream/headers.ts';
import { type HttpCall, type UpstreamTarget, type UpstreamTransport, UpstreamUnreachable } from '../upstream/port.ts';
import { bearerOf, digest } from './access.ts';
import { createJsonSink, createSseSink } from './answers.ts';
import { sendError } from './envelope.ts';
import { holdConnection } from './server.ts';

/** Returns the API keys sent in dedicated headers, in a fixed order. */
function keysIn(headers: IncomingHttpHeaders): [name: string, key: string][] {
  return keyHeaders.flatMap((name) => {
    const key = String(headers[name] ?? '').trim();
    return key === '' ? [] : [[name, key] as [string, string]];
  });
}

/**
 * Creates the function that authenticates a request and derives its scope.
 *
 * - With API keys configured, the scope is the key's tenant.
 * - With only a shared upstream key, or without any credential, the scope is `local`.
 * - A passed-through credential, together with the account it selects, is a scope of its own, identified by a keyed
 *   hash.
 *
 * @param pepper key of that hash; it is stored in the database and does not change when other secrets are rotated
 * @returns a function that throws {@link BridgeError} `bridge_unauthorized` for an unknown API key
 */
export function createAuthentication(config: Config, pepper: string): (headers: IncomingHttpHeaders) => Caller {
  const { key: upstreamKey } = config.upstream;
  const keys = config.security.apiKeys.map(({ tenant, key }) => ({ tenant, hash: digest(key) }));
  const keyed = (credential: string) => createHmac('sha256', pepper).update(credential).digest('hex');
  const shared =
    upstreamKey === null ? null : { authorization: `Bearer ${upstreamKey}`, fp: keyed(`Bearer ${upstreamKey}`) };

  const tenantOf = (headers: IncomingHttpHeaders): string => {
    if (keys.length === 0) return 'local';
    const given = [bearerOf(headers) ?? '', ...keysIn(headers).map(([, key]) => key)].map(digest);
    // Compare every key, so that the response time does not reveal which key is close to a match.
    const matches = keys.filter(({ hash }) => given.filter((one) => timingSafeEqual(hash, one)).length > 0);
    if (!matches[0]) throw new BridgeError('bridge_unauthorized');
    return `tenant:${matches[0].tenant}`;
  };

  return (headers) => {
    const tenant = tenantOf(headers);
    if (shared) {
      return {
        scope: tenant,
        credentialFp: shared.fp,
        upstreamAuthorization: shared.authorization,
        credentialIsClients: false,
      };
    }
    const authorization = headers.authorization ?? null;
    const given = keysIn(headers);
    const account = accountOf(headers);
    // A bearer token alone is hashed without the JSON wrapper, as in earlier versions, so that stored sessions keep
    // their scope.
    const alone = given.length === 0 && account === '';
    const credentialFp = keyed(alone ? (authorization ?? '') : JSON.stringify([authorization ?? '', given, account]));
    return {
      scope: alone && authorization === null ? 'local' : `cred:${credentialFp}`,
      credentialFp,
      upstreamAuthorization: authorization,
      credentialIsClients: true,
      ...(given.length > 0 ? { upstreamKeys: Object.fromEntries(given) } : {}),
    };
  };
}

/** Readiness of this worker to receive requests, with the reasons if it is not ready. */
export interface Readiness {
  ready: boolean;
  reasons: readonly string[];
}

/** Services of the bridge that the HTTP layer uses. */
export interface TurnService {
  /**
   * Starts a turn for a validated request and takes over its lease. Results and errors reach the client through the
   * sink.
   */
  turn(request: TurnRequest, sink: ClientSink, lease: Lease): void;
  /**
   * Returns whether a response id is known in this scope.
   *
   * @throws {StoreUnavailable}
   */
  knowsResponse(scope: string, responseId: string): Promise<boolean>;
  /**
   * Returns the first of these ids that no turn of this scope produced, or null when there is none.
   *
   * @throws {StoreUnavailable}
   */
  notMade(scope: string, ids: readonly string[]): Promise<string | null>;
  /**
   * Deletes the stored data of a response that the provider has deleted.
   *
   * @throws {StoreUnavailable}
   */
  forgetResponse(scope: string, responseId: string): Promise<void>;
  readiness(): Promise<Readiness>;
  /** Once it is `leaving`, answers ask clients to close their connections; once it is `refusing`, new turns are refused. */
  readonly shutdown: Readonly<Pick<Shutdown, 'leaving' | 'refusing'>>;
}

const unpackers = new Map<string, () => NodeJS.ReadWriteStream & { destroy(): void }>([
  ['gzip', createGunzip],
  ['x-gzip', createGunzip],
  ['deflate', createInflate],
  ['br', createBrotliDecompress],
  ['zstd', createZstdDecompress],
]);

/**
 * Size of the blocks in which a body is collected, in bytes. Each block has its own memory, so it can be transferred to
 * a worker thread.
 */
const BLOCK = 1_048_576;

/** Collects chunks into a few blocks. At no time is the whole body copied at once. */
function createBlocks() {
  const blocks: Buffer[] = [];
  let room = Buffer.alloc(0);
  let used = 0;
  return {
    push(chunk: Buffer) {
      for (let at = 0; at < chunk.length; ) {
        if (used === room.length) {
          if (used > 0) blocks.push(room);
          room = Buffer.allocUnsafeSlow(blocks.length === 0 ? Math.min(BLOCK, Math.max(4_096, chunk.length)) : BLOCK);
          used = 0;
        }
        const copied = chunk.copy(room, used, at);
        at += copied;
        used += copied;
      }
    },
    /** Returns all blocks, the last one trimmed. */
    end: (): Buffer[] => (used === 0 ? blocks : [...blocks, used === room.length ? room : room.subarray(0, used)]),
  };
}

/**
 * Reads and decompresses a whole request body. Both `limit` and the limits of the lease apply to the decompressed
 * bytes, so a small compressed body cannot exceed them.
 *
 * @param limit maximum size, in bytes
 * @returns the body in parts, each with memory of its own
 * @throws {BridgeError} `bridge_body_too_large`, `bridge_unsupported_media_type`, `bridge_invalid_json` (for a body
 * that cannot be decompressed), and any error of `lease.addBytes`
 */
export async function readBody(req: IncomingMessage, limit: number, lease: Pick<Lease, 'addBytes'>): Promise<Buffer[]> {
  const declared = Number(req.headers['content-length'] ?? 0);
  if (declared > limit) throw new BridgeError('bridge_body_too_large');
  const encoding = req.headers['content-encoding']?.toLowerCase().trim() ?? 'identity';
  // Leaving the loop must not destroy the connection: the client still has to receive an answer.
  const source = encoding === 'identity' ? req.iterator({ destroyOnReturn: false }) : unpack(req, encoding);
  const blocks = createBlocks();
  let size = 0;
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw new BridgeError('bridge_body_too_large');
      lease.addBytes(chunk.length);
      blocks.push(chunk);
    }
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new BridgeError('bridge_invalid_json', { detail: 'The body could not be read.', cause: error });
  }
  return blocks.end();
}

function unpack(req: IncomingMessage, encoding: string): Readable {
  const make = unpackers.get(encoding);
  if (!make) throw new BridgeError('bridge_unsupported_media_type');
  const unpacker = make();
  req.once('error', () => unpacker.destroy());
  return req.pipe(unpacker) as unknown as Readable;
}

/**
 * Serialises a body that an outer app's parser has already consumed; its original text is no longer available.
 *
 * @throws {BridgeError} `bridge_invalid_request` for a body that is nested too deeply
 */
function textOfParsed(body: object): string {
  try {
    return JSON.stringify(body);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new BridgeError('bridge_invalid_request', { detail: 'The body is nested too deeply.' });
  }
}

interface PassOptions {
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
      [REQUEST_ID_HEADER]: requestId,
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
async function listsItem(
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

interface HttpFaceOptions {
  service: TurnService;
  authenticate(headers: Request['headers']): Caller;
  quota: Pick<Quota, 'admit' | 'refuse'>;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits'>;
  reader: Reader;
  clock: Clock;
  ids: Ids;
  logger: Log<'error'>;
  /** Called for each request that is answered with an error before it became a turn. */
  onFailed?: ((request: FailedCall, error: BridgeError) => void) | undefined;
}

/** Request that was answered with an error, as operators may see it. */
export interface FailedCall {
  id: string;
  method: string | null;
  /** Path without its query, and without anything that is not part of an API. */
  path: string | null;
  /** True for a request to open a WebSocket. */
  upgrade: boolean;
  scope: string | null;
}

/** Base paths under which clients expect the API: OpenAI's own, and the one Codex uses with a ChatGPT login. */
const PREFIXES = ['/v1', '/backend-api/codex'];

/**
 * Creates the routes of the bridge, to be mounted in any Express app. Errors raised by the bridge itself are answered
 * with OpenAI's error envelope.
 */
export function createHttpFace(options: HttpFaceOptions): Router {
  const { service, authenticate, quota, transport, target, config, reader, clock, ids } = options;
  const router = express.Router();

  router.use((_req, res, next) => {
    res.locals.requestId = ids.uuid();
    // Connection, lease, sink and pipeline each listen for the end of the response. Raise the limit so that Node does
    // not report a listener leak.
    res.setMaxListeners(END_LISTENERS);
    if (service.shutdown.leaving || service.shutdown.refusing) res.set('connection', 'close');
    next();
  });

  /**
   * Authenticates a request and takes its quota lease. The lease ends with the response, unless `keep` is called: then
   * the code that took it over ends it.
   *
   * @throws {BridgeError} when authentication or admission refuses the request
   */
  const enter = (req: Request, res: Response) => {
    const caller = authenticate(req.headers);
    res.locals.scope = caller.scope;
    const unheld = holdConnection(req, res, caller.scope);
    if (unheld === 'scope') throw quota.refuse('connections');
    if (unheld === 'worker') throw new BridgeError('bridge_overloaded');
    const declared = Number(req.headers['content-length'] ?? 0);
    // An oversized body is refused later, so it reserves no bytes here.
    const lease = quota.admit(caller.scope, { declaredBytes: declared > config.limits.bodyBytes ? 0 : declared });
    if (res.closed) lease.end();
    res.locals.lease = lease;
    res.once('close', lease.end);
    return { caller, lease, keep: () => void res.off('close', lease.end) };
  };

  const turn: RequestHandler = async (req, res) => {
    const receivedAt = clock.now();
    const requestId = res.locals.requestId as string;
    const { caller, lease, keep } = enter(req, res);
    if (service.shutdown.refusing) throw new BridgeError('bridge_draining');
    const read = await bodyOf(req, res, lease);
    const { body } = read;
    res.socket?.setNoDelay(true);
    const sink =
      body.stream === true
        ? createSseSink({
            res,
            requestId,
            model: typeof body.model === 'string' ? body.model : null,
            clock,
            keepaliveMs: config.deadlines.keepalive,
            slowClientMs: config.deadlines.slowClient,
          })
        : createJsonSink({ res, requestId, clock, slowClientMs: config.deadlines.slowClient });
    service.turn({ ...read, requestId, caller, headers: flatHeaders(req.headers), receivedAt }, sink, lease);
    keep();
  };

  /**
   * Reads the request body and parses it off-thread. An outer app may have parsed it already; then its value is used.
   *
   * @throws {BridgeError} for a wrong media type, or when the body cannot be read
   */
  async function bodyOf(req: Request, res: Response, lease: Lease): Promise<ReadRequest> {
    const type = req.headers['content-type'] ?? '';
    if (!/^application\/([\w.+-]+\+)?json\b/i.test(type)) throw new BridgeError('bridge_unsupported_media_type');
    const gone = new AbortController();
    const leave = () => gone.abort();
    res.once('close', leave);
    try {
      const parsed = req.body !== undefined && typeof req.body === 'object';
      const source = parsed ? textOfParsed(req.body) : await readBody(req, config.limits.bodyBytes, lease);
      const { request } = await reader.read(source, 'body', gone.signal);
      return parsed ? { ...request, bytes: Number(req.headers['content-length'] ?? 0) } : request;
    } finally {
      res.off('close', leave);
    }
  }

  /**
   * Handles a call about one response. Under a shared credential, only ids that this scope has seen are passed on. The
   * error for a foreign id is the same as for one that does not exist.
   */
  const aboutResponse =
    (below: '' | '/input_items' | '/cancel'): RequestHandler =>
    async (req, res) => {
      const { caller } = enter(req, res);
      const id = String(req.params.id);
      if (!caller.credentialIsClients && !(await service.knowsResponse(caller.scope, id))) {
        throw new BridgeError('bridge_not_found', { detail: 'There is no such response.' });
      }
      const path = `/responses/${segment(id)}${below}`;
      const cursors = below === '/input_items' ? await ownCursors(req, caller, path) : [];
      const status = await passOn(req, res, caller, { path, body: null, checked: cursors });
      if (req.method === 'DELETE' && status < 300) await service.forgetResponse(caller.scope, id);
    };

  /**
   * Returns the names of the query parameters that are verified to refer to items of this response's own list.
   *
   * @throws {BridgeError} `bridge_foreign_object` for a cursor that refers to any other item
   */
  async function ownCursors(req: Request, caller: Caller, path: string): Promise<readonly string[]> {
    if (caller.credentialIsClients) return [];
    for (const name of CURSORS) {
      for (const cursor of queryOf(req).getAll(name)) {
        if ((await service.notMade(caller.scope, [cursor])) === null) continue;
        // The provider also assigns ids to the client's own items, so only the list shows whether this is one of them.
        if (!(await listsItem(req, { transport, target, caller, path }, cursor))) throw foreignObject(name);
      }
    }
    return CURSORS;
  }

  /**
   * Refuses a body that names objects of another scope, under a shared credential, on any route.
   *
   * @throws {BridgeError} `bridge_session_expired` or `bridge_foreign_object`
   * @throws {StoreUnavailable}
   */
  async function admit({ scope, credentialIsClients }: Caller, request: ReadRequest): Promise<void> {
    if (credentialIsClients) return;
    const { body, comparison } = request;
    const { owned, foreign } = request.names;
    const anchor = body.previous_response_id ?? null;
    const known = typeof anchor === 'string' && (await service.knowsResponse(scope, anchor));
    if ((anchor !== null && !known) || body.conversation != null) throw new BridgeError('bridge_session_expired');
    if (foreign !== null) throw foreignObject(foreign);
    const unknown = await service.notMade(scope, [...owned.keys()]);
    if (unknown !== null) throw foreignObject(owned.get(unknown)!);
    if (comparison !== null && !(await service.knowsResponse(scope, comparison))) throw foreignObject(COMPARISON_PATH);
  }

  /** Handles a call whose body has the shape of a turn but which starts none. */
  const likeTurn =
    (path: string): RequestHandler =>
    async (req, res) => {
      const { caller, lease } = enter(req, res);
      const read = await bodyOf(req, res, lease);
      await admit(caller, read);
      await passOn(req, res, caller, { path, body: await encodeText(read.text) });
    };
  const models: RequestHandler = (req, res) => {
    const id = req.params.id as readonly string[] | string | undefined;
    const path = ['/models', ...[id ?? []].flat().map(segment)].join('/');
    return passOn(req, res, enter(req, res).caller, { path, body: null });
  };

  /**
   * Forwards a call to the provider. The route builds the path; it is never copied from the request line, because the
   * provider may decode and normalise that one differently.
   *
   * @param to.checked query parameters already verified to name objects of this scope
   */
  const passOn = (
    req: Request,
    res: Response,
    caller: Caller,
    to: { path: string; body: Buffer | null; checked?: readonly string[] },
  ) => {
    const query = queryOf(req);
    const foreign = caller.credentialIsClients ? null : namedInQuery(query, to.checked);
    if (foreign !== null) throw foreignObject(foreign);
    const path = query.size === 0 ? to.path : `${to.path}?${query}`;
    return pass(req, res, { transport, target, caller, path, body: to.body, requestId: res.locals.requestId });
  };

  for (const prefix of PREFIXES) {
    const responses = router.route(`${prefix}/responses`);
    responses.post(turn).get(only('POST')).all(only('POST'));
    router.route(`${prefix}/responses/compact`).post(likeTurn('/responses/compact')).all(only('POST'));
    router.route(`${prefix}/responses/input_tokens`).post(likeTurn('/responses/input_tokens')).all(only('POST'));
    router.route(`${prefix}/models`).get(models).all(only('GET'));
    // Some providers name models `maker/model`.
    router.route(`${prefix}/models/*id`).get(models).all(only('GET'));
    router.route(`${prefix}/responses/:id`).get(aboutResponse('')).delete(aboutResponse('')).all(only('GET, DELETE'));
    router.route(`${prefix}/responses/:id/input_items`).get(aboutResponse('/input_items')).all(only('GET'));
    router.route(`${prefix}/responses/:id/cancel`).post(aboutResponse('/cancel')).all(only('POST'));
  }

  router.get('/health', (_req, res) => void res.json({ status: 'ok' }));
  router.get('/ready', async (_req, res) => {
    const { ready, reasons } = await service.readiness();
    res.status(ready ? 200 : 503).json({ status: ready ? 'ready' : 'not_ready', reasons });
  });
  router.use(errorHandler(options));
  return router;
}

/**
 * Creates an Express app that serves only the bridge and answers unknown paths with the error envelope.
 *
 * @param options `front` is middleware that runs before every route
 */
export function createApp(
  router: Router,
  options: Pick<HttpFaceOptions, 'ids' | 'logger' | 'onFailed'> & { front?: RequestHandler },
): express.Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  if (options.front) app.use(options.front);
  app.use(router);
  app.use(() => {
    throw new BridgeError('bridge_not_found');
  });
  app.use(errorHandler(options));
  return app;
}

/** Maximum number of close listeners on one response before Node warns. */
const END_LISTENERS = 32;

/** Query parameters that refer to a position in a list. */
const CURSORS = ['after', 'before'] as const;

const foreignObject = (param: string) => new BridgeError('bridge_foreign_object', { param });

const queryOf = ({ originalUrl }: Request) =>
  new URLSearchParams(originalUrl.includes('?') ? originalUrl.slice(originalUrl.indexOf('?') + 1) : '');

/**
 * Encodes one decoded path segment for the upstream path.
 *
 * @throws {BridgeError} `bridge_not_found` for a segment that a provider could resolve to a different path when it
 * decodes or normalises once more
 */
function segment(text: string): string {
  const unsafe = text.includes('%') || text.split(/[\\/]/).some((piece) => /^\.{0,2}$/.test(piece));
  if (unsafe) throw new BridgeError('bridge_not_found');
  return encodeURIComponent(text).replace(/%(?:3A|40|2C|3B|2B|3D|24|26)/g, decodeURIComponent);
}

function only(methods: string): RequestHandler {
  return (_req, res) => {
    res.set('allow', methods);
    throw new BridgeError('bridge_method_not_allowed');
  };
}

/** Creates the Express error handler that answers any error thrown by a route with the error envelope. */
export function errorHandler({ ids, logger, onFailed }: Pick<HttpFaceOptions, 'ids' | 'logger' | 'onFailed'>) {
  return (error: unknown, req: Request, res: Response, _next: NextFunction) => {
    const requestId = (res.locals.requestId as string | undefined) ?? ids.uuid();
    // End the lease now: the rest of a refused body is still read and discarded before the answer ends, and must not
    // count against the tenant.
    (res.locals.lease as Lease | undefined)?.end();
    if (req.destroyed && res.destroyed) return;
    let known: BridgeError;
    if (error instanceof BridgeError) known = error;
    else if (error instanceof StoreUnavailable) known = new BridgeError('bridge_store_unavailable', { cause: error });
    else if (isMalformedPath(error)) known = new BridgeError('bridge_malformed_request', { detail: MALFORMED_PATH });
    else {
      known = new BridgeError('bridge_internal', { cause: error });
      logger.error({ requestId, err: error }, 'a request failed unexpectedly');
    }
    const scope = (res.locals.scope as string | undefined) ?? null;
    onFailed?.({ id: requestId, method: req.method, path: shownPath(req.originalUrl), upgrade: false, scope }, known);
    sendError(res, known, requestId);
  };
}

/**
 * Returns the beginning of a path for operators: at most five segments that look like names or ids of an API. A client may
 * write anything into a path, a key included.
 */
export function shownPath(target: string): string {
  const [, ...segments] = (URL.parse(target)?.pathname ?? target.split('?', 1)[0]!).split('/');
  const shown = segments.slice(0, 5).map((segment) => (/^(?!sk-)[\w.-]{0,24}$/.test(segment) ? segment : '…'));
  return `/${[...shown, ...(segments.length > 5 ? ['…'] : [])].join('/')}`;
}

const MALFORMED_PATH = 'The path is not percent-encoded as a URL asks for.';

/** Recognises the router's error for a path parameter that cannot be decoded. */
const isMalformedPath = (error: unknown) =>
  error instanceof URIError || (error instanceof Error && (error as { status?: unknown }).status === 400);
