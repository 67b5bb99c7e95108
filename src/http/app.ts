import { createHmac, timingSafeEqual } from 'node:crypto';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import express, { type NextFunction, type Request, type RequestHandler, type Response, type Router } from 'express';
import type { Config } from '../config.ts';
import { BridgeError, NOT_SERVED } from '../errors.ts';
import { flatHeaders, REQUEST_ID_HEADER } from '../headers.ts';
import type { Reader } from '../intake/pool.ts';
import type { Kind } from '../intake/read.ts';
import { encodeText } from '../json.ts';
import type { Log } from '../log.ts';
import { hardKeyOf } from '../session/decide.ts';
import type { Caller, ClientSink, Shutdown, TurnRequest } from '../session/port.ts';
import type { Lease, Quota } from '../session/quota.ts';
import { RESPONSE_KIND, StoreUnavailable } from '../store/port.ts';
import type { Clock, Ids } from '../system.ts';
import { CONVERSATION_PATHS, namedInQuery } from '../transcript/provider-ids.ts';
import { COMPARISON_PATH } from '../transcript/read.ts';
import type { ReadRequest } from '../transcript/types.ts';
import { passFamilies, realtimeFamilies } from '../upstream/families.ts';
import { accountOf, keyHeaders } from '../upstream/headers.ts';
import type { UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { bearerOf, digest } from './access.ts';
import { createJsonSink, createSseSink } from './answers.ts';
import { createBackgroundSink, followResponse, streamResponse } from './background.ts';
import { sendError } from './envelope.ts';
import { apiPaths } from './front.ts';
import { pageOfItems } from './input-items.ts';
import { reasonOf } from './operations.ts';
import { mountPassing, type ObjectService } from './passing.ts';
import {
  type Answer,
  bytesTaken,
  CURSORS,
  foreignObject,
  headersFor,
  listsItem,
  type PassOptions,
  pass,
  queryOf,
  segment,
  type Way,
} from './relay.ts';
import { holdConnection, type UpgradeListener } from './server.ts';

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
 * - A passed-through credential, together with the account it selects, is a scope of its own, identified by the beginning
 *   of a keyed hash: 96 bits, which hold apart any number of credentials and keep the keys of all tables short.
 *
 * @param pepper key of that hash; it is stored in the database and does not change when other secrets are rotated
 * @returns a function that throws {@link BridgeError} `bridge_unauthorized` for an unknown API key
 */
export function createAuthentication(
  config: Config,
  pepper: string,
): (req: Pick<IncomingMessage, 'headers'>) => Caller {
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

  return ({ headers }) => {
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
      scope: alone && authorization === null ? 'local' : `cred:${credentialFp.slice(0, 24)}`,
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
export interface TurnService extends ObjectService {
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
   * Returns the first of these ids that neither a turn nor another call of this scope made, or null when there is none.
   *
   * @throws {StoreUnavailable}
   */
  notMade(scope: string, ids: readonly string[]): Promise<string | null>;
  /**
   * Returns the JSON texts of the items from which a response was made, in order: the whole context before its output. Null
   * when the provider can list them itself, or they are not stored here.
   *
   * @throws {StoreUnavailable}
   */
  inputItems(scope: string, credentialFp: string, responseId: string): Promise<readonly string[] | null>;
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
 * Reads and decompresses a whole request body. Both `limit` and the limits of the lease apply to the decompressed
 * bytes, so a small compressed body cannot exceed them.
 *
 * @param limit maximum size, in bytes
 * @param push receives the body
 * @throws {BridgeError} `bridge_body_too_large`, `bridge_unsupported_media_type`, `bridge_invalid_json` (for a body
 * that cannot be decompressed), and any error of `lease.addBytes`
 */
async function readBody(
  req: IncomingMessage,
  limit: number,
  lease: Pick<Lease, 'addBytes'>,
  push: (chunk: Buffer) => void,
): Promise<void> {
  const declared = Number(req.headers['content-length'] ?? 0);
  if (declared > limit) throw new BridgeError('bridge_body_too_large');
  const encoding = req.headers['content-encoding']?.toLowerCase().trim() ?? 'identity';
  // Leaving the loop must not destroy the connection: the client still has to receive an answer.
  const source = encoding === 'identity' ? req.iterator({ destroyOnReturn: false }) : unpack(req, encoding);
  let size = 0;
  try {
    for await (const chunk of source as AsyncIterable<Buffer>) {
      size += chunk.length;
      if (size > limit) throw new BridgeError('bridge_body_too_large');
      lease.addBytes(chunk.length);
      push(chunk);
    }
  } catch (error) {
    if (error instanceof BridgeError) throw error;
    throw new BridgeError('bridge_invalid_json', { detail: 'The body could not be read.', cause: error });
  }
}

function unpack(req: IncomingMessage, encoding: string): Readable {
  const make = unpackers.get(encoding);
  if (!make) throw new BridgeError('bridge_unsupported_media_type');
  const unpacker = make();
  req.once('error', () => unpacker.destroy());
  return req.pipe(unpacker) as unknown as Readable;
}

/**
 * Returns the body that an outer app has read before the request reached the bridge.
 *
 * @param limit maximum size, in bytes
 * @throws {BridgeError} `bridge_body_too_large`, and any error of `bytesTaken` and of `lease.addBytes`
 */
function takenBody(req: Request, limit: number, lease: Pick<Lease, 'addBytes'>): Buffer {
  const bytes = bytesTaken(req);
  if (bytes.length > limit) throw new BridgeError('bridge_body_too_large');
  lease.addBytes(bytes.length);
  return bytes;
}

interface HttpFaceOptions {
  service: TurnService;
  /**
   * Asks the embedding application who sends a request, for `authenticate`. Never rejects. Absent: there is nothing to ask.
   */
  identify?: ((req: IncomingMessage) => Promise<void>) | undefined;
  authenticate(req: IncomingMessage): Caller;
  /**
   * Returns the caller with the upstream that the embedding application chooses. Absent: it chooses none.
   *
   * @param model model that the body names; null for a request without one
   * @throws {BridgeError} `bridge_hook_failed`
   */
  chooseUpstream?: ((req: IncomingMessage, caller: Caller, model: string | null) => Promise<Caller>) | undefined;
  quota: Pick<Quota, 'admit' | 'refuse'>;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits' | 'upstream'>;
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
  /** True for a request that showed no credential. */
  anonymous?: boolean;
  scope: string | null;
}

/** Base paths under which clients expect the API: OpenAI's own, and the one Codex uses with a ChatGPT login. */
export const PREFIXES = ['/v1', '/backend-api/codex'];

/**
 * Creates the routes of the bridge, to be mounted in any Express app. Errors raised by the bridge itself are answered
 * with OpenAI's error envelope.
 */
export function createHttpFace(options: HttpFaceOptions): Router {
  const { service, authenticate, identify, quota, transport, target, config, reader, clock, ids } = options;
  const choose = options.chooseUpstream ?? (async (_req: IncomingMessage, caller: Caller) => caller);
  const wayOf = (caller: Caller): Way => ({ transport, target: caller.target ?? target, caller });
  const router = express.Router();

  router.use((_req, res, next) => {
    res.locals.requestId = ids.uuid();
    // Connection, lease, sink and pipeline each listen for the end of the response. Raise the limit so that Node does
    // not report a listener leak.
    res.setMaxListeners(END_LISTENERS);
    if (service.shutdown.leaving || service.shutdown.refusing) res.set('connection', 'close');
    next();
  });
  if (identify) {
    router.use([...apiPaths], async (req, _res, next) => {
      await identify(req);
      next();
    });
  }

  /**
   * Authenticates a request and takes its quota lease. The lease ends with the response, unless `keep` is called: then
   * the code that took it over ends it.
   *
   * @param held the body is held in memory, so its announced length counts against the limits
   * @throws {BridgeError} when authentication or admission refuses the request
   */
  const enter = (req: Request, res: Response, held = true) => {
    const caller = authenticate(req);
    res.locals.scope = caller.scope;
    const unheld = holdConnection(req, res, caller.scope);
    if (unheld === 'scope') throw quota.refuse('connections');
    if (unheld === 'worker') throw new BridgeError('bridge_overloaded');
    const declared = Number(req.headers['content-length'] ?? 0);
    // An oversized body is refused later, so it reserves no bytes here.
    const reserved = held && declared <= config.limits.bodyBytes ? declared : 0;
    const lease = quota.admit(caller.scope, { declaredBytes: reserved });
    if (res.closed) lease.end();
    res.locals.lease = lease;
    res.once('close', lease.end);
    return { caller, lease, keep: () => void res.off('close', lease.end) };
  };

  const turn: RequestHandler = async (req, res) => {
    const receivedAt = clock.now();
    const requestId = res.locals.requestId as string;
    const { caller: sender, lease, keep } = enter(req, res);
    if (service.shutdown.refusing) throw new BridgeError('bridge_draining');
    const read = await bodyOf(req, res, { caller: sender, lease });
    const { body } = read;
    const caller = await choose(req, sender, modelOf(read));
    res.socket?.setNoDelay(true);
    const streamed = body.stream === true;
    const plain = streamed
      ? sseSink(res, typeof body.model === 'string' ? body.model : null)
      : createJsonSink({ res, requestId, clock, slowClientMs: config.deadlines.slowClient });
    const sink = streamed && body.background === true ? background(req, caller, plain) : plain;
    service.turn({ ...read, requestId, caller, headers: flatHeaders(req.headers), receivedAt }, sink, lease);
    keep();
  };

  /**
   * Reads the request body and parses it off-thread. An outer app may have parsed it already; then its value is used.
   *
   * @throws {BridgeError} for a wrong media type, or when the body cannot be read
   */
  async function bodyOf(
    req: Request,
    res: Response,
    { caller, lease }: { caller: Caller; lease: Lease },
    kind: Kind = 'body',
  ): Promise<ReadRequest> {
    const type = req.headers['content-type'] ?? '';
    if (!/^application\/([\w.+-]+\+)?json\b/i.test(type)) throw new BridgeError('bridge_unsupported_media_type');
    const gone = new AbortController();
    const leave = () => gone.abort();
    res.once('close', leave);
    try {
      const key = kind === 'body' ? hardKeyOf(flatHeaders(req.headers)) : null;
      const belonging = {
        conversation: key && `${caller.scope}:${key.kind}:${key.hash}`,
        // An upstream that the application chooses may have a credential that several tenants share.
        named: !caller.credentialIsClients || options.chooseUpstream !== undefined,
      };
      const { 'content-encoding': coding, 'content-length': length } = req.headers;
      const bytes = coding === undefined && length !== undefined ? Number(length) : undefined;
      const received = reader.receive(belonging, bytes);
      const limit = config.limits.bodyBytes;
      if (req.readableDidRead) received.push(takenBody(req, limit, lease));
      else await readBody(req, limit, lease, (chunk) => received.push(chunk));
      return (await reader.read(received, kind, { gone: gone.signal, ...belonging })).request;
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
      const caller = await choose(req, enter(req, res).caller, null);
      const id = String(req.params.id);
      if (!caller.credentialIsClients && !(await service.knowsResponse(caller.scope, id))) {
        throw new BridgeError('bridge_not_found', { detail: 'There is no such response.' });
      }
      const path = `/responses/${segment(id)}${below}`;
      if (below === '/input_items' && (await listStored(req, res, caller, id))) return;
      if (below === '' && req.method === 'GET' && queryOf(req).get('stream') === 'true')
        return follow(req, res, caller, id);
      const cursors = below === '/input_items' ? await ownCursors(req, caller, path) : [];
      // Before the client has the answer, so that its next call finds the data gone.
      const forgotten = async (answer: Answer) => {
        await service.forgetResponse(caller.scope, id);
        return answer;
      };
      const inspect = req.method === 'DELETE' ? forgotten : undefined;
      await passOn(req, res, caller, { path, body: null, checked: cursors, inspect });
    };

  /** Answers `input_items` from the rows. Returns false when the provider can list the items, or they are not stored here. */
  async function listStored(
    req: Request,
    res: Response,
    { scope, credentialFp }: Caller,
    id: string,
  ): Promise<boolean> {
    const items = await service.inputItems(scope, credentialFp, id);
    if (items === null) return false;
    const page = pageOfItems(items, id, queryOf(req));
    res.set({ 'content-type': 'application/json; charset=utf-8', [REQUEST_ID_HEADER]: res.locals.requestId as string });
    res.status(200).send(page);
    return true;
  }

  /** Answers `GET /responses/:id?stream=true`. */
  async function follow(req: Request, res: Response, caller: Caller, responseId: string): Promise<void> {
    const query = queryOf(req);
    const foreign = caller.credentialIsClients ? null : namedInQuery(query);
    if (foreign !== null) throw foreignObject(foreign);
    const way = wayOf(caller);
    const requestId = res.locals.requestId as string;
    const headers = headersFor(req, way);
    await streamResponse(req, res, { ...way, requestId, responseId, headers, clock, sink: () => sseSink(res, null) });
  }

  const sseSink = (res: Response, model: string | null) =>
    createSseSink({
      res,
      requestId: res.locals.requestId as string,
      model,
      clock,
      keepaliveMs: config.deadlines.keepalive,
      slowClientMs: config.deadlines.slowClient,
    });

  /** Wraps the sink of a turn in the background, so that its stream goes on when it breaks off here. */
  function background(req: Request, caller: Caller, sink: ClientSink): ClientSink {
    const way = wayOf(caller);
    const headers = headersFor(req, way);
    const { scope, credentialIsClients } = caller;
    return createBackgroundSink(sink, {
      keep: credentialIsClients ? null : (id) => service.keepObjects(scope, RESPONSE_KIND, [id]),
      follow: (responseId, last) =>
        void followResponse({ ...way, responseId, headers, clock, last, query: new URLSearchParams() }, sink),
    });
  }

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
        if (!(await listsItem(req, { ...wayOf(caller), path }, cursor))) throw foreignObject(name);
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
    if (anchor !== null && !known) throw new BridgeError('bridge_session_expired');
    if (foreign !== null) throw foreignObject(foreign);
    const unknown = await service.notMade(scope, [...owned.keys()]);
    if (unknown === null) return admitComparison(scope, comparison);
    const path = owned.get(unknown)!;
    throw CONVERSATION_PATHS.includes(path) ? new BridgeError('bridge_session_expired') : foreignObject(path);
  }

  /** Refuses a comparison with a response that the scope did not make. */
  async function admitComparison(scope: string, comparison: string | null): Promise<void> {
    if (comparison !== null && !(await service.knowsResponse(scope, comparison))) throw foreignObject(COMPARISON_PATH);
  }

  /** Handles a call whose body has the shape of a turn but which starts none. */
  const likeTurn =
    (path: string): RequestHandler =>
    async (req, res) => {
      const { caller: sender, lease } = enter(req, res);
      const read = await bodyOf(req, res, { caller: sender, lease });
      const caller = await choose(req, sender, modelOf(read));
      await admit(caller, read);
      await passOn(req, res, caller, { path, body: await encodeText(String(read.text)) });
    };
  const models: RequestHandler = async (req, res) => {
    const caller = await choose(req, enter(req, res).caller, null);
    const id = req.params.id as readonly string[] | string | undefined;
    const path = ['/models', ...[id ?? []].flat().map(segment)].join('/');
    if (req.method === 'DELETE' && !caller.credentialIsClients)
      throw new BridgeError('bridge_shared_credential', { detail: reasonOf('models') });
    await passOn(req, res, caller, { path, body: null });
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
    to: Pick<PassOptions, 'inspect'> & { path: string; body: Buffer | null; checked?: readonly string[] },
  ) => {
    const query = queryOf(req);
    const foreign = caller.credentialIsClients ? null : namedInQuery(query, to.checked);
    if (foreign !== null) throw foreignObject(foreign);
    const path = query.size === 0 ? to.path : `${to.path}?${query}`;
    const { body, inspect } = to;
    return pass(req, res, { ...wayOf(caller), path, body, inspect, requestId: res.locals.requestId });
  };

  for (const prefix of PREFIXES) {
    const responses = router.route(`${prefix}/responses`);
    responses.post(turn).get(only('POST')).all(only('POST'));
    router.route(`${prefix}/responses/compact`).post(likeTurn('/responses/compact')).all(only('POST'));
    router.route(`${prefix}/responses/input_tokens`).post(likeTurn('/responses/input_tokens')).all(only('POST'));
    router.route(`${prefix}/models`).get(models).all(only('GET'));
    // Some providers name models `maker/model`.
    router.route(`${prefix}/models/*id`).get(models).delete(models).all(only('GET, DELETE'));
    router.route(`${prefix}/responses/:id`).get(aboutResponse('')).delete(aboutResponse('')).all(only('GET, DELETE'));
    router.route(`${prefix}/responses/:id/input_items`).get(aboutResponse('/input_items')).all(only('GET'));
    router.route(`${prefix}/responses/:id/cancel`).post(aboutResponse('/cancel')).all(only('POST'));
    mountPassing(router, prefix, {
      service,
      wayOf,
      config,
      uuid: ids.uuid,
      async enter(req, res, held) {
        const { caller, lease } = enter(req, res, held);
        return { caller: await choose(req, caller, null), lease };
      },
      read: bodyOf,
      ownCursors,
    });
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
  app.use(plainPaths);
  app.use(router);
  app.use(() => {
    throw new BridgeError('bridge_not_found', { detail: NOT_SERVED });
  });
  app.use(errorHandler(options));
  return app;
}

export const modelOf = ({ body: { model } }: ReadRequest) => (typeof model === 'string' ? model : null);

/** First segments of the paths that are served below the base paths. */
const served: ReadonlySet<string> = new Set([
  'responses',
  'conversations',
  'models',
  ...passFamilies,
  ...realtimeFamilies,
]);

/**
 * Adds the base path to a request without one, for clients whose base URL is that of the bridge itself. Only for an app of its
 * own: an outer app has paths such as `/files` of its own.
 */
function addBasePath(req: IncomingMessage): void {
  const [first = ''] = (req.url ?? '').slice(1).split(/[/?]/, 1);
  if (served.has(first.toLowerCase())) req.url = `${PREFIXES[0]}${req.url}`;
}

const plainPaths: RequestHandler = (req, _res, next) => {
  addBasePath(req);
  next();
};

/** Returns the handler of upgrades that belongs to `createApp`: it takes the paths without a base path too. */
export const plainUpgrades =
  (take: UpgradeListener): UpgradeListener =>
  (req, socket, head) => {
    addBasePath(req);
    take(req, socket, head);
  };

/** Maximum number of close listeners on one response before Node warns. */
const END_LISTENERS = 32;

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
    const call = { id: requestId, method: req.method, path: shownPath(req.originalUrl), upgrade: false, scope };
    onFailed?.({ ...call, anonymous: req.headers.authorization === undefined }, known);
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
