import express, { type NextFunction, type Request, type RequestHandler, type Response, type Router } from 'express';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { Ids } from '../ids.ts';
import type { Logger } from '../observe/log.ts';
import type { Caller } from '../session/port.ts';
import { StoreUnavailable } from '../store/port.ts';
import { comparisonOf, namesProviderObjects, referencesIn } from '../transcript/provider-ids.ts';
import type { UpstreamTarget, UpstreamTransport } from '../upstream/port.ts';
import { type ParsedBody, parseBody, parsedBefore, parseObject, readBody } from './body.ts';
import { sendError } from './envelope.ts';
import { createJsonSink } from './json-sink.ts';
import { flatHeaders, pass } from './pass.ts';
import type { TurnService } from './port.ts';
import { createSseSink } from './sse-sink.ts';
import { validateRequest } from './validate.ts';

export interface HttpFaceOptions {
  service: TurnService;
  authenticate(headers: Request['headers']): Caller;
  transport: UpstreamTransport;
  target: UpstreamTarget;
  config: Pick<Config, 'deadlines' | 'limits'>;
  clock: Clock;
  ids: Ids;
  logger: Logger;
}

/** Where clients look for the API: OpenAI's own prefix, and the one Codex uses with a ChatGPT login. */
const PREFIXES = ['/v1', '/backend-api/codex'];

/** The routes of the bridge, for any Express app. Every answer it gives by itself is OpenAI's error envelope. */
export function createHttpFace(options: HttpFaceOptions): Router {
  const { service, authenticate, transport, target, config, clock, ids } = options;
  const router = express.Router();

  router.use((_req, res, next) => {
    res.locals.requestId = ids.uuid();
    if (service.draining || service.leaving) res.set('connection', 'close');
    next();
  });

  const turn: RequestHandler = async (req, res) => {
    const receivedAt = clock.now();
    const requestId = res.locals.requestId as string;
    const caller = authenticate(req.headers);
    if (service.draining) throw new BridgeError('bridge_draining');
    const { body, text, bytes } = await bodyOf(req, config.limits.bodyBytes);
    validateRequest(body);
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
    service.turn({ requestId, caller, headers: flatHeaders(req.headers), body, text, bytes, receivedAt }, sink);
  };

  /** A call about a response: under a shared credential only for ids this scope has seen, told apart by nothing. */
  const aboutResponse: RequestHandler = async (req, res) => {
    const caller = authenticate(req.headers);
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
    const caller = authenticate(req.headers);
    const body = await readBody(req, config.limits.bodyBytes);
    const fields = parseObject(body);
    if (!caller.credentialIsClients) {
      const { scope } = caller;
      const compared = comparisonOf(fields);
      const foreign =
        namesProviderObjects(fields) ||
        !(await service.knowsItems(scope, referencesIn(fields))) ||
        (compared !== null && !(await service.knowsResponse(scope, compared)));
      if (foreign) throw new BridgeError('bridge_foreign_object');
      const anchor = fields.previous_response_id ?? null;
      const known = typeof anchor === 'string' && (await service.knowsResponse(scope, anchor));
      if ((anchor !== null && !known) || fields.conversation != null) throw new BridgeError('bridge_session_expired');
    }
    await passOn(req, res, caller, body);
  };
  const models: RequestHandler = (req, res) => passOn(req, res, authenticate(req.headers), null);

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

/**
 * An Express app that serves the bridge and nothing else; unknown paths get the envelope too.
 *
 * @param options `front` stands before every path
 */
export function createApp(
  router: Router,
  options: Pick<HttpFaceOptions, 'ids' | 'logger'> & { front?: RequestHandler },
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

function only(methods: string): RequestHandler {
  return (_req, res) => {
    res.set('allow', methods);
    throw new BridgeError('bridge_method_not_allowed');
  };
}

/** The body as an object. An outer app's own parser may have read it already. */
async function bodyOf(req: Request, limit: number): Promise<ParsedBody & { bytes: number }> {
  const type = req.headers['content-type'] ?? '';
  if (!/^application\/([\w.+-]+\+)?json\b/i.test(type)) throw new BridgeError('bridge_unsupported_media_type');
  if (req.body !== undefined && typeof req.body === 'object') {
    return { ...parsedBefore(req.body), bytes: Number(req.headers['content-length'] ?? 0) };
  }
  const raw = await readBody(req, limit);
  return { ...parseBody(raw), bytes: raw.length };
}

/** Answers whatever a route threw with the envelope. */
export function errorHandler({ ids, logger }: Pick<HttpFaceOptions, 'ids' | 'logger'>) {
  return (error: unknown, req: Request, res: Response, _next: NextFunction) => {
    const requestId = (res.locals.requestId as string | undefined) ?? ids.uuid();
    if (req.destroyed && res.destroyed) return;
    let known: BridgeError;
    if (error instanceof BridgeError) known = error;
    else if (error instanceof StoreUnavailable) known = new BridgeError('bridge_store_unavailable', { cause: error });
    else if (isMalformedPath(error)) known = new BridgeError('bridge_malformed_request', { detail: MALFORMED_PATH });
    else {
      known = new BridgeError('bridge_internal', { cause: error });
      logger.error({ requestId, err: error }, 'a request failed unexpectedly');
    }
    sendError(res, known, requestId);
  };
}

const MALFORMED_PATH = 'The path is not percent-encoded as a URL asks for.';

/** What the router throws for a parameter that cannot be decoded. */
const isMalformedPath = (error: unknown) =>
  error instanceof URIError || (error instanceof Error && (error as { status?: unknown }).status === 400);
