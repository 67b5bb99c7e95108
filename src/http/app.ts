import express, { type NextFunction, type Request, type RequestHandler, type Response, type Router } from 'express';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { Ids } from '../ids.ts';
import type { Reader } from '../intake/pool.ts';
import { encodeText } from '../json.ts';
import type { Logger } from '../observe/log.ts';
import type { Caller } from '../session/port.ts';
import type { Lease, Quota } from '../session/quota.ts';
import { StoreUnavailable } from '../store/port.ts';
import type { ReadRequest } from '../transcript/types.ts';
import type { UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { readBody, textOfParsed } from './body.ts';
import { holdConnection } from './connections.ts';
import { sendError } from './envelope.ts';
import { createJsonSink } from './json-sink.ts';
import { flatHeaders, pass } from './pass.ts';
import type { TurnService } from './port.ts';
import { createSseSink } from './sse-sink.ts';

export interface HttpFaceOptions {
  service: TurnService;
  authenticate(headers: Request['headers']): Caller;
  quota: Pick<Quota, 'admit' | 'refuse'>;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits'>;
  reader: Reader;
  clock: Clock;
  ids: Ids;
  logger: Logger;
}

/** Where clients look for the API: OpenAI's own prefix, and the one Codex uses with a ChatGPT login. */
const PREFIXES = ['/v1', '/backend-api/codex'];

/** The routes of the bridge, for any Express app. Every answer it gives by itself is OpenAI's error envelope. */
export function createHttpFace(options: HttpFaceOptions): Router {
  const { service, authenticate, quota, transport, target, config, reader, clock, ids } = options;
  const router = express.Router();

  router.use((_req, res, next) => {
    res.locals.requestId = ids.uuid();
    if (service.draining || service.leaving) res.set('connection', 'close');
    next();
  });

  /**
   * Who asks, and what the request counts for until its answer has ended, or until `keep`: then who took the lease ends
   * it. Throws what authentication and admission throw.
   */
  const enter = (req: Request, res: Response) => {
    const caller = authenticate(req.headers);
    const unheld = holdConnection(req, res, caller.scope);
    if (unheld === 'scope') throw quota.refuse('connections');
    if (unheld === 'worker') throw new BridgeError('bridge_overloaded');
    const lease = quota.admit(caller.scope, { declaredBytes: Number(req.headers['content-length'] ?? 0) });
    if (res.closed) lease.end();
    res.once('close', lease.end);
    return { caller, lease, keep: () => void res.off('close', lease.end) };
  };

  const turn: RequestHandler = async (req, res) => {
    const receivedAt = clock.now();
    const requestId = res.locals.requestId as string;
    const { caller, lease, keep } = enter(req, res);
    if (service.draining) throw new BridgeError('bridge_draining');
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
        : createJsonSink({ res, requestId });
    service.turn({ ...read, requestId, caller, headers: flatHeaders(req.headers), receivedAt }, sink, lease);
    keep();
  };

  /** The body as it was read. An outer app's own parser may have parsed it already. */
  async function bodyOf(req: Request, res: Response, lease: Lease): Promise<ReadRequest> {
    const type = req.headers['content-type'] ?? '';
    if (!/^application\/([\w.+-]+\+)?json\b/i.test(type)) throw new BridgeError('bridge_unsupported_media_type');
    const gone = new AbortController();
    res.once('close', () => gone.abort());
    const parsed = req.body !== undefined && typeof req.body === 'object';
    const source = parsed ? textOfParsed(req.body) : await readBody(req, config.limits.bodyBytes, lease);
    const { request } = await reader.read(source, 'body', gone.signal);
    return parsed ? { ...request, bytes: Number(req.headers['content-length'] ?? 0) } : request;
  }

  /** A call about a response: under a shared credential only for ids this scope has seen, told apart by nothing. */
  const aboutResponse: RequestHandler = async (req, res) => {
    const { caller } = enter(req, res);
    const id = String(req.params.id);
    if (!caller.credentialIsClients && !(await service.knowsResponse(caller.scope, id))) {
      throw new BridgeError('bridge_not_found', { detail: 'There is no such response.' });
    }
    const status = await passOn(req, res, caller, null);
    if (req.method === 'DELETE' && status < 300) await service.forgetResponse(caller.scope, id);
  };
  /**
   * A call whose body is like a turn's but opens none. Under a shared credential it may name only what belongs to this
   * scope, as a turn may.
   */
  const likeTurn: RequestHandler = async (req, res) => {
    const { caller, lease } = enter(req, res);
    const { body, text, comparison, references, namesProviderObjects } = await bodyOf(req, res, lease);
    if (!caller.credentialIsClients) {
      const { scope } = caller;
      const foreign =
        namesProviderObjects ||
        !(await service.knowsItems(scope, references)) ||
        (comparison !== null && !(await service.knowsResponse(scope, comparison)));
      if (foreign) throw new BridgeError('bridge_foreign_object');
      const anchor = body.previous_response_id ?? null;
      const known = typeof anchor === 'string' && (await service.knowsResponse(scope, anchor));
      if ((anchor !== null && !known) || body.conversation != null) throw new BridgeError('bridge_session_expired');
    }
    await passOn(req, res, caller, await encodeText(text));
  };
  const models: RequestHandler = (req, res) => passOn(req, res, enter(req, res).caller, null);

  const passOn = (req: Request, res: Response, caller: Caller, body: Buffer | null) => {
    const path = req.originalUrl.slice(req.originalUrl.indexOf(req.path));
    const below = PREFIXES.reduce((rest, prefix) => (rest.startsWith(prefix) ? rest.slice(prefix.length) : rest), path);
    return pass(req, res, { transport, target, caller, path: below, body, requestId: res.locals.requestId });
  };

  for (const prefix of PREFIXES) {
    const responses = router.route(`${prefix}/responses`);
    responses.post(turn).get(only('POST')).all(only('POST'));
    router.route(`${prefix}/responses/compact`).post(likeTurn).all(only('POST'));
    router.route(`${prefix}/responses/input_tokens`).post(likeTurn).all(only('POST'));
    router.route(`${prefix}/models`).get(models).all(only('GET'));
    // Some providers name models `maker/model`.
    router.route(`${prefix}/models/*id`).get(models).all(only('GET'));
    router.route(`${prefix}/responses/:id`).get(aboutResponse).delete(aboutResponse).all(only('GET, DELETE'));
    router.route(`${prefix}/responses/:id/input_items`).get(aboutResponse).all(only('GET'));
    router.route(`${prefix}/responses/:id/cancel`).post(aboutResponse).all(only('POST'));
  }

  router.get('/health', (_req, res) => void res.json({ status: 'ok' }));
  router.get('/ready', async (_req, res) => {
    const { ready, reasons } = await service.readiness();
    res.status(ready ? 200 : 503).json({ status: ready ? 'ready' : 'not_ready', reasons });
  });
  router.use(errorHandler(options));
  return router;
}

/** An Express app that serves the bridge and nothing else; unknown paths get the envelope too. */
export function createApp(router: Router, options: Pick<HttpFaceOptions, 'ids' | 'logger'>): express.Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.use(router);
  app.use(() => {
    throw new BridgeError('bridge_not_found');
  });
  app.use(errorHandler(options));
  return app;
}

function only(methods: string): RequestHandler {
  return (_req, res) => {
    res.set('allow', methods);
    throw new BridgeError('bridge_method_not_allowed');
  };
}

function errorHandler({ ids, logger }: Pick<HttpFaceOptions, 'ids' | 'logger'>) {
  return (error: unknown, req: Request, res: Response, _next: NextFunction) => {
    const requestId = (res.locals.requestId as string | undefined) ?? ids.uuid();
    if (req.destroyed && res.destroyed) return;
    let known: BridgeError;
    if (error instanceof BridgeError) known = error;
    else if (error instanceof StoreUnavailable) known = new BridgeError('bridge_store_unavailable', { cause: error });
    else {
      known = new BridgeError('bridge_internal', { cause: error });
      logger.error({ requestId, err: error }, 'a request failed unexpectedly');
    }
    // What is left of a body nobody will read must not keep the connection.
    if (!req.complete) res.set('connection', 'close');
    sendError(res, known, requestId);
  };
}
