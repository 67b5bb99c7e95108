import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type Request, type RequestHandler, type Response, type Router } from 'express';
import type { InspectionEvent } from 'xstate';
import { createAdminApi } from './admin/api.ts';
import type { AdminPort, LocalAnswer, LocalView, Question, UnstoredSession } from './admin/fleet.ts';
import { askEndedElsewhere } from './admin/fleet.ts';
import { advertisedUrl, checkAdvertised, internalHost } from './cluster/forward/advertise.ts';
import { createForwardTokens } from './cluster/forward/envelope.ts';
import { startInternalServer } from './cluster/forward/receiver.ts';
import { createForwarder } from './cluster/forward/sender.ts';
import { type Config, readConfig } from './config.ts';
import { BridgeError, NOT_SERVED } from './errors.ts';
import { explorer } from './explorer/index.ts';
import { type BridgeHooks, createHooks, hookNames, type UpstreamEntry } from './hooks.ts';
import { adminTokenOf, createOperatorAccess, needsAdminToken } from './http/access.ts';
import type { FailedCall, Readiness, TurnService } from './http/app.ts';
import { createHttpFace, errorHandler, PREFIXES, shownPath } from './http/app.ts';
import { sendError } from './http/envelope.ts';
import { apiPaths, createFront, isOwn, pathOf } from './http/front.ts';
import { answerSocket, createConnectionGuard, refuseUpgrade } from './http/server.ts';
import { createClientSockets } from './http/websocket.ts';
import { createReader } from './intake/pool.ts';
import { createObservatory } from './observe/index.ts';
import { createLogger, type Logger, safeLogger } from './observe/log.ts';
import type { MetricsSnapshot } from './observe/metrics/merged.ts';
import { startTelemetry } from './observe/telemetry/index.ts';
import { readOptions, withOptionNames } from './options.ts';
import { madeBy, referencesTo, storedInput } from './session/planning.ts';
import type { Session } from './session/session.ts';
import type { SettingOptions } from './setting-options.ts';
import { answeredAtStart, openStorage, type Storage } from './storage.ts';
import type { SessionStore } from './store/port.ts';
import type { ApplicationOrm } from './store/postgres/application.ts';
import { type Clock, type Ids, onFault, randomIds, reportFault, systemClock } from './system.ts';
import { type KeyRing, parseSecrets } from './token/keyring.ts';
import { type CredentialRefusal, createHidingTransport } from './upstream/redact.ts';
import { createUpstreamTransport } from './upstream/transport.ts';
import { version } from './version.ts';
import { type PeerListener, type PeerService, startWorker } from './worker.ts';

/**
 * Options of {@link createBridge}. All are optional. A setting that no option names is taken from `env`, then from the
 * environment of the process, then has its default.
 */
export interface BridgeOptions extends SettingOptions {
  /** Settings, named like the environment variables. */
  env?: Record<string, string | undefined> | undefined;
  /**
   * MikroORM 7 of the application, with the `postgresql` driver: its pool is used in place of a database of the bridge's own.
   * The tables have a schema of their own and need no entity in the application. The ORM stays open when the bridge closes.
   */
  orm?: ApplicationOrm | undefined;
  /** Functions of the application that watch and decide. */
  hooks?: BridgeHooks | undefined;
  /** Upstreams beside the configured one, by the names under which `hooks.chooseUpstream` chooses them. */
  upstreams?: Readonly<Record<string, string | UpstreamEntry>> | undefined;
  /**
   * False leaves the operators' paths out of `router`, `handler` and `handleUpgrade`: `/admin`, `/metrics`, `/inspect`. They
   * can be mounted elsewhere with `adminRouter`. Default true.
   */
  mountAdmin?: boolean | undefined;
  /** Pino, or any logger with its signature `(fields, message)`. Default: JSON lines on standard output. */
  logger?: Logger | undefined;
  /** Store to use instead of the configured database. It is not closed with the bridge. */
  store?: SessionStore | undefined;
  clock?: Clock | undefined;
  ids?: Ids | undefined;
  /** Returns a random number, uniform in [0, 1). */
  random?: (() => number) | undefined;
  /** Called each time this process has registered as a worker, always under a new id. */
  onRegistered?: ((workerId: string) => void) | undefined;
  /** Content of `/metrics` where several workers are scraped as one; null falls back to this worker's own. */
  metricsPage?: (() => Promise<string | null>) | undefined;
  /**
   * Receives XState's inspection events of every machine in this process, during the transition. It must only observe. With
   * it, each machine runs as an XState actor of its own, which costs each turn several times as much.
   */
  inspect?: ((event: InspectionEvent) => void) | undefined;
}
/** Middleware by the types that Express 4 and 5 have in common. */
type ExpressMiddleware = (req: IncomingMessage, res: ServerResponse, next: (error?: unknown) => void) => void;

/** Running bridge: routes for any HTTP server of Node, and `close`. */
export interface Bridge {
  /** Routes for an Express app, version 4 or 5. Requests for other paths are left to the app. */
  router: Router & ExpressMiddleware;
  /**
   * The same routes for any other server: `createServer(bridge.handler)`.
   *
   * @param next called for a request that is not for the bridge; without it, that request gets 404
   */
  handler(req: IncomingMessage, res: ServerResponse, next?: (error?: unknown) => void): void;
  /** Routes of operators alone, for an app of their own: see `mountAdmin`. */
  adminRouter: Router;
  config: Config;
  logger: Logger;
  ids: Ids;
  /**
   * Checks `Host` and `Origin` for every path of an app; the router applies it to the bridge's own paths. Names under which
   * an outer app is reached must be listed in HOLDFAST_PUBLIC_HOSTS.
   */
  front: RequestHandler;
  /** Bearer token that operators must send; null when none is needed from this machine. */
  readonly adminToken: AdminToken | null;
  /** Returns whether a request is for the bridge, by its path. An app with WebSockets of its own asks this first. */
  serves(req: { readonly url?: string | undefined }): boolean;
  /**
   * Handles the server's `upgrade` event: accepts WebSocket clients of the responses and viewers of the inspector. Any other
   * upgrade gets 426.
   */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Limits the client connections of a server by `HOLDFAST_MAX_CONNECTIONS` and `HOLDFAST_PEER_CONNECTIONS`. */
  guardConnections(server: Server): void;
  /** Records for operators a request that an outer app has refused. */
  onFailed(request: FailedCall, error: BridgeError): void;
  readonly workerId: string;
  /** Returns the sessions that have an actor in this process, with their states. */
  sessions(): { id: string; epoch: number; state: string }[];
  readiness(): Promise<Readiness>;
  /** Returns this worker's own metrics as data. */
  metrics(): Promise<MetricsSnapshot>;
  /**
   * Drains: announces its leave to the other workers and hands requests over to them, then admits nothing new, lets running
   * turns end, and releases everything. Idempotent.
   */
  close(): Promise<void>;
}

/** Admin token of a bridge. */
export interface AdminToken {
  readonly token: string;
  /** Set by HOLDFAST_ADMIN_TOKEN; otherwise generated. */
  readonly given: boolean;
  /** File of a generated token; null when it is derived from HOLDFAST_SECRETS. */
  readonly file: string | null;
  /** Generated by this start. */
  readonly fresh: boolean;
}

/** Options that are not settings, with the names of their members where those are fixed. */
const otherOptions: Readonly<Record<Exclude<keyof BridgeOptions, keyof SettingOptions>, readonly string[] | null>> = {
  env: null,
  orm: null,
  hooks: hookNames,
  upstreams: null,
  mountAdmin: null,
  logger: null,
  store: null,
  clock: null,
  ids: null,
  random: null,
  onRegistered: null,
  metricsPage: null,
  inspect: null,
};

function configOf(options: BridgeOptions): Config {
  const given = readOptions(options, otherOptions);
  const { orm, hooks } = options;
  if (orm !== undefined && given.env.DATABASE_URL !== undefined) {
    given.problems.push('orm and database.url exclude each other: both name the database');
  }
  return readConfig(
    { ...process.env, ...options.env, ...given.env },
    {
      problems: given.problems,
      database: orm !== undefined,
      authenticates: hooks?.authenticate !== undefined,
      ...(given.typed || orm || hooks ? { named: withOptionNames } : {}),
    },
  );
}

/**
 * Starts a bridge in this process.
 *
 * @param options settings, and what the application decides in code; a misspelled name is refused
 * @returns the bridge, registered as a worker and ready to serve
 * @throws `ConfigError`, or the error that keeps the database from opening
 * @example
 * const bridge = await createBridge({ upstream: 'https://api.openai.com/v1', deadlines: { turnBudget: 600_000 } });
 * createServer(bridge.handler).on('upgrade', bridge.handleUpgrade).listen(8787, '127.0.0.1');
 */
export async function createBridge(options: BridgeOptions = {}): Promise<Bridge> {
  const config = configOf(options);
  const { clock = systemClock, ids = randomIds, random = Math.random } = options;
  const logger = options.logger ? safeLogger(options.logger) : createLogger(config.logLevel);
  const storage: Storage = options.store
    ? {
        store: options.store,
        secrets: config.security.secrets ?? `once:${ids.uuid()}${ids.uuid()}`,
        adminToken: async () => null,
        embedded: false,
        shared: config.security.secrets !== null,
        location: config.databaseUrl,
        livenessPath: null,
        close: async () => {},
      }
    : await openStorage(config, logger, options.orm);
  const stopFaults = onFault((err, source, suppressed) => {
    logger.error({ err, source, suppressed }, 'an exception was contained at its source: report it');
  });
  try {
    return await assemble(config, storage, { ...options, clock, ids, random, logger, stopFaults });
  } catch (error) {
    stopFaults();
    await storage.close();
    throw error;
  }
}

/** Logs a refusal of a credential that clients do not know. They do not get the cause: the log is the only place to read it. */
const reportRefusal =
  (logger: Logger, { upstream }: Config) =>
  (refusal: CredentialRefusal, key: string) => {
    const which =
      key === upstream.key ? 'the shared credential (HOLDFAST_UPSTREAM_KEY)' : 'a credential that a hook named';
    logger.error(refusal, `the upstream refused ${which}`);
  };

/** Options of a bridge with their defaults. */
interface Means extends BridgeOptions {
  clock: Clock;
  ids: Ids;
  random: () => number;
  logger: Logger;
  stopFaults(): void;
}

/**
 * Returns the admin token: the configured one, or a generated one where a token is needed.
 *
 * @param kept returns the token stored on this machine, and makes it first if it does not exist; null when none is stored
 *   here
 * @returns null when operators need no token
 */
export async function adminTokenFor(
  config: Pick<Config, 'security' | 'upstream'>,
  secrets: KeyRing,
  kept: Storage['adminToken'],
): Promise<AdminToken | null> {
  const { adminToken: given } = config.security;
  if (given !== null) return { token: given, given: true, file: null, fresh: false };
  if (!needsAdminToken(config)) return null;
  const found = await kept();
  return found ? { ...found, given: false } : { token: adminTokenOf(secrets), given: false, file: null, fresh: false };
}

/** Most sessions without a row in one answer. */
const MOST_UNSTORED = 100;

/** Returns the sessions whose first turn is not stored yet: no row shows them. */
function unstoredOf(sessions: Iterable<Session>, clock: Pick<Clock, 'now' | 'wall'>): UnstoredSession[] {
  const found: UnstoredSession[] = [];
  for (const session of sessions) {
    const { state, queueLength } = session.view();
    const turn = session.turns.current;
    // Once the store has granted the start of the first turn, there is a row.
    const mayLackRow = state.startsWith('connecting') || (state === 'live.committing' && session.turns.head === null);
    if (!turn || !mayLackRow || turn.times.started !== null) continue;
    const { id, epoch, scope } = session;
    const sinceMs = clock.wall() - (clock.now() - turn.times.received);
    const model = typeof turn.request.body.model === 'string' ? turn.request.body.model : null;
    found.push({ id, epoch, scope, state, queueLength, model, since: sinceMs, cause: turn.cause });
    if (found.length === MOST_UNSTORED) break;
  }
  return found;
}

async function assemble(config: Config, storage: Storage, means: Means): Promise<Bridge> {
  const { clock, ids, random, inspect, onRegistered, mountAdmin = true } = means;
  const { deadlines, limits } = config;
  /** This worker, whose id changes when it registers again. */
  const self = { id: '' };
  const telemetry = await startTelemetry({ config, clock, logger: means.logger, workerId: () => self.id });
  const logger = telemetry?.logging(means.logger) ?? means.logger;
  const secrets = parseSecrets(storage.secrets);
  const adminToken = await adminTokenFor(config, secrets, storage.adminToken);
  const allow = createOperatorAccess(adminToken?.token ?? null);
  const observatory = createObservatory({
    config,
    allow,
    ticketKey: adminToken?.token,
    worker: self,
    clock,
    ids,
    logger,
    spanOf: telemetry?.idsOf,
    stories: storage.store,
    metricsPage: means.metricsPage,
    endedElsewhere: async (beginning) => askEndedElsewhere(operators, await store.workers(), beginning),
  });
  const store = observatory.store(storage.store);
  const forwardTokens = createForwardTokens({ secrets, clock });
  const hooks = createHooks({
    hooks: means.hooks ?? {},
    upstreams: means.upstreams ?? {},
    config,
    pepper: await answeredAtStart(deadlines.storeStart, () => store.pepper()),
    clock,
    logger,
    workerId: () => self.id,
    scopeOf: (id) => worker.registry.get(id)?.scope ?? null,
  });
  const observed = observatory.transport(
    createUpstreamTransport({
      clock,
      proxies: config.upstream.proxies,
      pulse: { pingMs: deadlines.ping, pongMs: deadlines.pong },
    }),
  );
  const reader = createReader({ logger });
  const transport = createHidingTransport(observed, reportRefusal(logger, config));
  let closing: Promise<void> | null = null;

  /** Returns this worker's data about sessions, for operators here and at other workers. */
  const tell =
    (session: PeerService['session'], all: () => Iterable<Session>) =>
    ({ sessionIds, recordOf, failures, activity, unstored }: Question): LocalAnswer => {
      const views: Record<string, LocalView> = Object.create(null);
      for (const id of sessionIds) {
        const found = session(id);
        if (!found) continue;
        const { state, epoch, queueLength, busy } = found.view();
        const { socket, socketAgeMs } = found;
        views[id] = { state, epoch, queueLength, busy, socketOpen: socket.open, socketAgeMs };
      }
      return {
        views,
        record: recordOf === null ? null : observatory.story(recordOf),
        ...(failures && {
          failures:
            failures.ended && failures.of !== null
              ? observatory.ended(failures.of, failures.limit)
              : observatory.failures(failures, failures.limit),
        }),
        ...(activity && { activity: observatory.activity(activity) }),
        ...(unstored && { unstored: unstoredOf(all(), clock) }),
      };
    };
  async function listen({ workerId, serve, claimed, session, sessions }: PeerService): Promise<PeerListener> {
    const host = internalHost({ ...config, databaseUrl: storage.location });
    const internal = await startInternalServer({
      host,
      port: config.internal.port,
      workerId,
      forwardTokens,
      clock,
      limits,
      reader,
      deadlines,
      serve(claims, request, sink) {
        telemetry?.received(request, claims.trace ?? null);
        serve(claims, request, sink);
      },
      onView: tell(session, sessions),
      onClaimed: claimed,
      logger,
    });
    try {
      const { advertiseUrl } = config.internal;
      const url = advertisedUrl({ advertiseUrl, host, port: internal.port, databaseUrl: storage.location });
      return {
        url,
        check: (id) => checkAdvertised({ url, workerId: id, clock, timeoutMs: deadlines.advertise }),
        close: internal.close,
      };
    } catch (error) {
      await internal.close(0);
      throw error;
    }
  }

  const worker = await startWorker({
    config,
    store,
    transport,
    clock,
    ids,
    random,
    secrets,
    version,
    livenessPath: storage.livenessPath,
    shared: storage.shared,
    listen: storage.shared && config.instancePolicy === 'forward' ? listen : null,
    forwarder: (workerId) =>
      createForwarder({ forwardTokens, clock, workerId, deadlines, logger, onForward: telemetry?.forwarding }),
    logger,
    inspect: {
      step: hooks.step
        ? (step) => {
            observatory.step(step);
            hooks.step?.(step);
          }
        : observatory.step,
      xstate: inspect,
    },
    onAdvertised(id) {
      self.id = id;
    },
    onRegistered,
    onForwarded: (kind) => observatory.metrics.forwarded(kind),
    onPlaced: telemetry
      ? (turn, session) => {
          observatory.placed(turn, session);
          telemetry.placed(turn.id, turn.request);
        }
      : observatory.placed,
    onRefused: (limit) => observatory.metrics.refused(limit),
    onGivenUp: () => observatory.metrics.bufferGivenUp(),
    onFinished:
      telemetry || hooks.onFinished
        ? (line, request, times) => {
            observatory.turnEnded(line, request);
            telemetry?.turnEnded(line, request, times);
            hooks.onFinished?.(line, request);
          }
        : observatory.turnEnded,
  });
  const { membership, registry, dispatcher, quota, forwarder, target, transport: upstream, shutdown } = worker;
  telemetry?.measure(observatory.metrics.registry);
  const turn: TurnService['turn'] = telemetry
    ? (request, sink, lease) => {
        telemetry.received(request);
        dispatcher.accept(request, sink, lease);
      }
    : dispatcher.accept.bind(dispatcher);
  const onFailed: Bridge['onFailed'] = telemetry
    ? (request, error) => {
        telemetry.failed(error);
        observatory.requestFailed(request, error);
      }
    : observatory.requestFailed;
  const guard = createConnectionGuard({
    limits,
    several: quota.several,
    onClosed: (reason) => observatory.metrics.connectionClosed(reason),
  });

  observatory.watch({
    sessions: () => [...registry.all()].map((session) => session.view().state),
    queued: () => [...registry.all()].reduce((sum, session) => sum + session.view().queueLength, 0),
    turnsInFlight: () => dispatcher.inFlight,
    turnBufferBytes: () => quota.bufferedBytes,
    unreadBytes: () => quota.unreadBytes,
    clientSockets: () => sockets.open,
    requestsInHand: () => quota.inHand.waiting + quota.inHand.running,
    connections: () => guard.open,
    sharedSockets: () => upstream.shared().sockets,
    lanes: () => upstream.shared().lanes,
  });

  /** A read that no cache answers. Probes that come while one is asked share its answer: anybody may send them. */
  let asked: Promise<unknown> | null = null;
  const databaseAnswers = () =>
    (asked ??= store.session('local', 'readiness').finally(() => {
      asked = null;
    }));
  const readiness = async (): Promise<Readiness> => {
    const reasons: string[] = [];
    if (shutdown.leaving || membership.draining) reasons.push('draining');
    if (!membership.mayStart()) reasons.push('lease not confirmed');
    await databaseAnswers().catch(() => reasons.push('database does not answer'));
    return { ready: reasons.length === 0, reasons };
  };
  const sockets = createClientSockets({
    service: { turn, shutdown },
    identify: hooks.identify,
    authenticate: hooks.authenticate,
    chooseUpstream: hooks.chooseUpstream,
    quota,
    config,
    reader,
    clock,
    ids,
    random,
    paths: PREFIXES.map((prefix) => `${prefix}/responses`),
    logger,
    onFailed,
  });
  const router = express.Router();
  const face = createHttpFace({
    service: {
      turn,
      async knowsResponse(scope, anchor) {
        const found = await store.lookup({ scope, anchor, tokenSessionId: null, hardKey: null });
        // A response in the background has no row before its end, and never one if its worker was killed.
        return found.anchor !== null || (await store.ownObjects(scope, [anchor])).length > 0;
      },
      async notMade(scope, named) {
        const made = await madeBy(store, scope, named, await referencesTo(store, scope, named));
        return named.find((id) => !made.has(id)) ?? null;
      },
      inputItems: (scope, credentialFp, responseId) => storedInput(store, { scope, credentialFp, responseId }),
      keepObjects: (...made) => store.keepObjects(...made),
      listObjects: (query) => store.listObjects(query),
      dropObject: (...named) => store.dropObject(...named),
      forgetResponse: async (scope, responseId) => void (await store.eraseResponse(scope, responseId)),
      readiness,
      shutdown,
    },
    identify: hooks.identify,
    authenticate: hooks.authenticate,
    chooseUpstream: hooks.chooseUpstream,
    quota,
    transport,
    target,
    config,
    reader,
    clock,
    ids,
    logger,
    onFailed,
  });
  const operators: AdminPort = {
    store,
    get workerId() {
      return membership.id;
    },
    here: tell(
      (id) => registry.get(id),
      () => registry.all(),
    ),
    there: async ({ id, internalUrl }, question) =>
      internalUrl === null
        ? null
        : ((await forwarder.view({ workerId: id, url: internalUrl }, question)) as LocalAnswer | null),
    hint({ id, internalUrl }, notice) {
      if (internalUrl !== null) void forwarder.claimed({ workerId: id, url: internalUrl }, notice);
    },
    tell: (id, action) => registry.get(id)?.send({ type: action === 'close' ? 'operator.close' : 'operator.release' }),
  };
  const admin = createAdminApi({ port: operators, allow, clock, logger, prices: config.prices });
  const front = createFront(config.server);
  const page = explorer(() => {
    throw new BridgeError('bridge_not_found', { detail: NOT_SERVED });
  });
  const operatorRoutes = [observatory.router, page, admin];
  const lastHandler = errorHandler({ ids, logger, onFailed });
  const adminRouter = express.Router();
  adminRouter.use(front.ownHandler, ...operatorRoutes, lastHandler);
  if (telemetry) router.use([...apiPaths], telemetry.handler);
  router.use(front.ownHandler, ...(mountAdmin ? operatorRoutes : []), face, lastHandler);
  const serves: Bridge['serves'] = (req) => isOwn(pathOf(req), mountAdmin);
  const app = express().disable('x-powered-by').disable('etag').use(router);

  async function close(): Promise<void> {
    sockets.leave(deadlines.lameDuck);
    await worker.close();
    await sockets.close();
    await hooks.settled();
    await reader.close();
    observatory.close();
    await Promise.all([transport.shutdown(), telemetry?.close()]);
    await storage.close();
    means.stopFaults();
    logger.info({ worker: membership.id }, 'stopped');
  }

  return {
    router: router as Bridge['router'],
    adminRouter,
    serves,
    handler(req, res, next) {
      if (!serves(req) && next) return next();
      // Express gives both the methods of its own.
      app(req as Request, res as Response, (error?: unknown) => {
        if (next) next(error);
        else {
          const failure = error
            ? new BridgeError('bridge_internal')
            : new BridgeError('bridge_not_found', { detail: NOT_SERVED });
          sendError(res as Response, failure, ids.uuid());
        }
      });
    },
    config,
    logger,
    ids,
    front: front.handler,
    adminToken,
    onFailed,
    handleUpgrade(req, socket, head) {
      const refused = (error: BridgeError) => {
        const path = shownPath(req.url ?? '');
        observatory.requestFailed(
          { id: ids.uuid(), method: req.method ?? null, path, upgrade: true, scope: null },
          error,
        );
      };
      // Node has removed its own listener from this socket; without one, an error of the socket would end the process.
      socket.on('error', () => socket.destroy());
      try {
        front.admit(req);
        if (mountAdmin && observatory.handleUpgrade(req, socket, head)) return;
        if (sockets.handleUpgrade(req, socket, head)) return;
        refuseUpgrade(req, socket);
        refused(new BridgeError('bridge_websocket_unsupported'));
      } catch (error) {
        if (!(error instanceof BridgeError)) reportFault(error, 'upgrade');
        const known = error instanceof BridgeError ? error : new BridgeError('bridge_internal', { cause: error });
        answerSocket(socket, known);
        refused(known);
      }
    },
    guardConnections: guard.watch,
    get workerId() {
      return membership.id;
    },
    sessions: () =>
      [...registry.all()].map((session) => ({ id: session.id, epoch: session.epoch, state: session.view().state })),
    readiness,
    metrics: () => observatory.metrics.registry.getMetricsAsJSON(),
    close: () => (closing ??= close()),
  };
}
