import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type RequestHandler, type Router } from 'express';
import type { InspectionEvent } from 'xstate';
import { createAdminApi } from './admin/api.ts';
import type { AdminPort, LocalAnswer, LocalView, Question, UnstoredSession } from './admin/fleet.ts';
import { askFailedElsewhere } from './admin/fleet.ts';
import { advertisedUrl, checkAdvertised, internalHost } from './cluster/forward/advertise.ts';
import { createForwardTokens } from './cluster/forward/envelope.ts';
import { startInternalServer } from './cluster/forward/receiver.ts';
import { createForwarder } from './cluster/forward/sender.ts';
import { type Config, readConfig } from './config.ts';
import { BridgeError } from './errors.ts';
import { explorer } from './explorer/index.ts';
import { adminTokenOf, createOperatorAccess, needsAdminToken } from './http/access.ts';
import type { FailedCall, Readiness } from './http/app.ts';
import { createAuthentication, createHttpFace, errorHandler, shownPath } from './http/app.ts';
import { createFront } from './http/front.ts';
import { answerSocket, createConnectionGuard, refuseUpgrade } from './http/server.ts';
import { createReader } from './intake/pool.ts';
import { createObservatory } from './observe/index.ts';
import { createLogger, type Logger } from './observe/log.ts';
import type { MetricsSnapshot } from './observe/metrics/merged.ts';
import { referencesTo } from './session/planning.ts';
import type { Session } from './session/session.ts';
import { openStorage, type Storage } from './storage.ts';
import type { SessionStore } from './store/port.ts';
import { type Clock, type Ids, onFault, randomIds, reportFault, systemClock } from './system.ts';
import { type KeyRing, parseSecrets } from './token/keyring.ts';
import { type CredentialRefusal, createRedactingTransport } from './upstream/redact.ts';
import { createUpstreamTransport } from './upstream/transport.ts';
import { version } from './version.ts';
import { type PeerListener, type PeerService, startWorker } from './worker.ts';

/** Options of {@link createBridge}. All are optional; the rest is configured by environment variables. */
export interface BridgeOptions {
  /** Settings, named like the environment variables. They override the process's own environment. */
  env?: Record<string, string | undefined>;
  /** Default: JSON lines on standard output. */
  logger?: Logger;
  /** Store to use instead of the configured database. It is not closed with the bridge. */
  store?: SessionStore;
  clock?: Clock;
  ids?: Ids;
  /** Returns a random number, uniform in [0, 1). */
  random?: () => number;
  /** Called each time this process has registered as a worker, always under a new id. */
  onRegistered?: (workerId: string) => void;
  /** Content of `/metrics` where several workers are scraped as one; null falls back to this worker's own. */
  metricsPage?: () => Promise<string | null>;
  /** Receives XState's inspection events of every machine in this process, during the transition. It must only observe. */
  inspect?: (event: InspectionEvent) => void;
}

/** Running bridge: routes for an Express app, and `close`. */
export interface Bridge {
  router: Router;
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
  /**
   * Handles the server's `upgrade` event: accepts viewers of the inspector. Any other upgrade gets 426, which makes clients
   * use HTTP.
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

/**
 * Starts a bridge in this process.
 *
 * @param options settings override those of the process's environment
 * @returns the bridge, registered as a worker and ready to serve
 * @throws `ConfigError`, or the error that keeps the database from opening
 */
export async function createBridge(options: BridgeOptions = {}): Promise<Bridge> {
  const config = readConfig({ ...process.env, ...options.env });
  const { clock = systemClock, ids = randomIds, random = Math.random } = options;
  const logger = options.logger ?? createLogger(config.logLevel);
  const storage: Storage = options.store
    ? {
        store: options.store,
        secrets: config.security.secrets ?? `once:${ids.uuid()}${ids.uuid()}`,
        adminToken: async () => null,
        embedded: false,
        shared: config.security.secrets !== null,
        livenessPath: null,
        close: async () => {},
      }
    : await openStorage(config, logger);
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

/** Logs a refusal of the shared credential. Clients do not get the cause, so the log is the only place to read it. */
const reportRefusal = (logger: Logger) => (refusal: CredentialRefusal) =>
  logger.error(refusal, 'the upstream refused the shared credential (HOLDFAST_UPSTREAM_KEY)');

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
  const { clock, ids, random, logger, inspect, onRegistered } = means;
  const { deadlines, limits } = config;
  let advertisedId = '';
  const secrets = parseSecrets(storage.secrets);
  const adminToken = await adminTokenFor(config, secrets, storage.adminToken);
  const allow = createOperatorAccess(adminToken?.token ?? null);
  const observatory = createObservatory({
    config,
    allow,
    workerId: () => advertisedId,
    clock,
    ids,
    logger,
    stories: storage.store,
    metricsPage: means.metricsPage,
    failedElsewhere: async (id) => askFailedElsewhere(operators, await store.workers(), id),
  });
  const store = observatory.store(storage.store);
  const forwardTokens = createForwardTokens({ secrets, clock });
  const authenticate = createAuthentication(config, await store.pepper());
  const observed = observatory.transport(
    createUpstreamTransport({
      clock,
      proxies: config.upstream.proxies,
      pulse: { pingMs: deadlines.ping, pongMs: deadlines.pong },
    }),
  );
  const reader = createReader({ logger });
  const { key } = config.upstream;
  const transport =
    key === null ? observed : createRedactingTransport(observed, { key, onRefused: reportRefusal(logger) });
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
        ...(failures && { failures: observatory.failures(failures, failures.limit) }),
        ...(activity && { activity: observatory.activity(activity) }),
        ...(unstored && { unstored: unstoredOf(all(), clock) }),
      };
    };
  async function listen({ workerId, serve, claimed, session, sessions }: PeerService): Promise<PeerListener> {
    const host = internalHost(config);
    const internal = await startInternalServer({
      host,
      port: config.internal.port,
      workerId,
      forwardTokens,
      clock,
      limits,
      reader,
      deadlines,
      serve,
      onView: tell(session, sessions),
      onClaimed: claimed,
      logger,
    });
    try {
      const { advertiseUrl } = config.internal;
      const url = advertisedUrl({ advertiseUrl, host, port: internal.port, databaseUrl: config.databaseUrl });
      return { url, check: (id) => checkAdvertised({ url, workerId: id, clock }), close: internal.close };
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
    forwarder: (workerId) => createForwarder({ forwardTokens, clock, workerId, deadlines, logger }),
    logger,
    inspect: inspect
      ? (event) => {
          observatory.inspect(event);
          inspect(event);
        }
      : observatory.inspect,
    onAdvertised(id) {
      advertisedId = id;
    },
    onRegistered,
    onForwarded: (kind) => observatory.metrics.forwarded(kind),
    onPlaced: observatory.placed,
    onRefused: (limit) => observatory.metrics.refused(limit),
    onGivenUp: () => observatory.metrics.bufferGivenUp(),
    onFinished: observatory.turnEnded,
  });
  const { membership, registry, dispatcher, quota, forwarder, target, shutdown } = worker;
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
    requestsInHand: () => quota.inHand.waiting + quota.inHand.running,
    connections: () => guard.open,
  });

  const readiness = async (): Promise<Readiness> => {
    const reasons: string[] = [];
    if (shutdown.leaving || membership.draining) reasons.push('draining');
    if (!membership.mayStart()) reasons.push('lease not confirmed');
    await store.pepper().catch(() => reasons.push('database does not answer'));
    return { ready: reasons.length === 0, reasons };
  };
  const router = express.Router();
  const face = createHttpFace({
    service: {
      turn: dispatcher.accept.bind(dispatcher),
      async knowsResponse(scope, anchor) {
        const found = await store.lookup({ scope, anchor, tokenSessionId: null, hardKey: null });
        return found.anchor !== null;
      },
      async notMade(scope, named) {
        const made = new Set((await referencesTo(store, scope, named)).map(({ itemId }) => itemId));
        return named.find((id) => !made.has(id)) ?? null;
      },
      forgetResponse: async (scope, responseId) => void (await store.eraseResponse(scope, responseId)),
      readiness,
      shutdown,
    },
    authenticate,
    quota,
    transport,
    target,
    config,
    reader,
    clock,
    ids,
    logger,
    onFailed: observatory.requestFailed,
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
    throw new BridgeError('bridge_not_found');
  });
  router.use(
    front.ownHandler,
    observatory.router,
    page,
    admin,
    face,
    errorHandler({ ids, logger, onFailed: observatory.requestFailed }),
  );

  async function close(): Promise<void> {
    await worker.close();
    await reader.close();
    observatory.close();
    await transport.shutdown();
    await storage.close();
    means.stopFaults();
    logger.info({ worker: membership.id }, 'stopped');
  }

  return {
    router,
    config,
    logger,
    ids,
    front: front.handler,
    adminToken,
    onFailed: observatory.requestFailed,
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
        if (observatory.handleUpgrade(req, socket, head)) return;
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
