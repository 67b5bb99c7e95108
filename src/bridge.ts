import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type RequestHandler, type Router } from 'express';
import type { InspectionEvent } from 'xstate';
import { createAdminApi } from './admin/api.ts';
import { askFailedElsewhere } from './admin/ask.ts';
import type { AdminPort, LocalAnswer, LocalView, Question } from './admin/port.ts';
import { explorer } from './admin/ui/index.ts';
import { type Clock, systemClock } from './clock.ts';
import { announcedUrl, checkAnnounced, internalHost } from './cluster/forward/announce.ts';
import { createForwarder } from './cluster/forward/forwarder.ts';
import { createHops } from './cluster/forward/hop.ts';
import { startInternalServer } from './cluster/forward/internal-server.ts';
import { type Config, readConfig } from './config.ts';
import { BridgeError } from './errors.ts';
import { onFault, reportFault } from './faults.ts';
import { createHttpFace, errorHandler } from './http/app.ts';
import { createAuthentication } from './http/authenticate.ts';
import { createConnectionGuard } from './http/connections.ts';
import { createFront } from './http/front.ts';
import type { Readiness } from './http/port.ts';
import { answerSocket, refuseUpgrade } from './http/upgrade.ts';
import { type Ids, randomIds } from './ids.ts';
import { createReader } from './intake/pool.ts';
import { adminTokenOf, createOperatorAccess, needsAdminToken } from './observe/access.ts';
import { createObservatory } from './observe/index.ts';
import { createLogger, type Logger } from './observe/log.ts';
import type { MetricsSnapshot } from './observe/metrics/merged.ts';
import { referencesTo } from './session/history.ts';
import { describeTurn } from './session/line.ts';
import { openStorage, type Storage } from './storage.ts';
import type { SessionStore } from './store/port.ts';
import { type KeyRing, parseSecrets } from './token/keyring.ts';
import { type CredentialRefusal, createDiscreetTransport } from './upstream/discreet.ts';
import { createUpstreamTransport } from './upstream/transport.ts';
import { version } from './version.ts';
import { type PeerListener, type PeerService, startWorker } from './worker.ts';

export interface BridgeOptions {
  /** Settings, by the names of the environment variables; they win over the process's own environment. */
  env?: Record<string, string | undefined>;
  /** Defaults to JSON lines on standard output. */
  logger?: Logger;
  /** A store of your own instead of the configured database; it is not closed with the bridge. */
  store?: SessionStore;
  clock?: Clock;
  ids?: Ids;
  /** Uniform in [0, 1). */
  random?: () => number;
  /** Called whenever this process has become a worker, under an id it never had before. */
  onRegistered?: (workerId: string) => void;
  /** What `/metrics` shows in place of this worker's own, where several are scraped as one; null: its own. */
  metricsPage?: () => Promise<string | null>;
  /** Receives XState's inspection events of every machine that runs here, while the step is under way: look, do not act. */
  inspect?: (event: InspectionEvent) => void;
}

/** A running bridge: routes for an Express app, and its end. */
export interface Bridge {
  router: Router;
  config: Config;
  logger: Logger;
  ids: Ids;
  /**
   * The rule on `Host` and `Origin` for every path of an app of its own; the router applies it to the bridge's paths. An
   * outer app that is reached under other names lists them in HOLDFAST_PUBLIC_HOSTS.
   */
  front: RequestHandler;
  /** What operators must send as bearer; null: nothing, from this machine. */
  readonly adminToken: AdminToken | null;
  /** For the server's `upgrade` event: the inspector's viewers; everybody else gets 426, which makes clients use HTTP. */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** Bounds the client connections of a server, as `HOLDFAST_MAX_CONNECTIONS` and `HOLDFAST_PEER_CONNECTIONS` say. */
  guardConnections(server: Server): void;
  readonly workerId: string;
  /** Sessions that have an actor here now, with the state each is in. */
  sessions(): { id: string; epoch: number; state: string }[];
  readiness(): Promise<Readiness>;
  /** What `/metrics` would show of this worker alone, as data. */
  metrics(): Promise<MetricsSnapshot>;
  /**
   * Drains: first it leaves (others are told, requests are given to them), then nothing new is admitted, running turns
   * may end, everything is given back. Safe to call twice.
   */
  close(): Promise<void>;
}

/** The admin token of a bridge. */
export interface AdminToken {
  readonly token: string;
  /** HOLDFAST_ADMIN_TOKEN gave it; otherwise it was generated. */
  readonly given: boolean;
  /** Where a generated one is kept; null: it follows from HOLDFAST_SECRETS. */
  readonly file: string | null;
  /** It is new with this start. */
  readonly fresh: boolean;
}

/** Starts a bridge inside this process. Throws `ConfigError`, and whatever keeps the database from opening. */
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
    logger.error({ err, source, suppressed }, 'an exception ended what it arose from, and nothing else: report it');
  });
  try {
    const { onRegistered, inspect, metricsPage } = options;
    return await assemble(config, storage, {
      clock,
      ids,
      random,
      logger,
      onRegistered,
      inspect,
      metricsPage,
      stopFaults,
    });
  } catch (error) {
    stopFaults();
    await storage.close();
    throw error;
  }
}

/** Clients are not shown why: only here the operator reads that the credential was refused. */
const reportRefusal = (logger: Logger) => (refusal: CredentialRefusal) =>
  logger.error(refusal, 'the upstream refused the shared credential (HOLDFAST_UPSTREAM_KEY)');

interface Means {
  clock: Clock;
  ids: Ids;
  random: () => number;
  logger: Logger;
  onRegistered: BridgeOptions['onRegistered'];
  inspect: BridgeOptions['inspect'];
  metricsPage: BridgeOptions['metricsPage'];
  stopFaults(): void;
}

/** The token operators need: the one that was given, or where one is needed one that was made. */
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

async function assemble(config: Config, storage: Storage, means: Means): Promise<Bridge> {
  const { clock, ids, random, logger, onRegistered } = means;
  const { deadlines, limits } = config;
  let announcedId = '';
  const secrets = parseSecrets(storage.secrets);
  const adminToken = await adminTokenFor(config, secrets, storage.adminToken);
  const allow = createOperatorAccess(adminToken?.token ?? null);
  const observatory = createObservatory({
    config,
    allow,
    workerId: () => announcedId,
    clock,
    ids,
    logger,
    stories: storage.store,
    metricsPage: means.metricsPage,
    failedElsewhere: async (id) => askFailedElsewhere(operators, await store.workers(), id),
  });
  const store = observatory.store(storage.store);
  const hops = createHops({ secrets, clock });
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
    key === null ? observed : createDiscreetTransport(observed, { key, onRefused: reportRefusal(logger) });
  let closing: Promise<void> | null = null;

  /** What is known of this worker's sessions, for operators here and at other workers. */
  const tell =
    (session: PeerService['session']) =>
    ({ sessionIds, recordOf, failures }: Question): LocalAnswer => {
      const views: Record<string, LocalView> = Object.create(null);
      for (const id of sessionIds) {
        const found = session(id);
        if (!found) continue;
        const { state, epoch, queueLength, busy } = found.view();
        const { socketOpen, socketAgeMs } = found;
        views[id] = { state, epoch, queueLength, busy, socketOpen, socketAgeMs };
      }
      return {
        views,
        record: recordOf === null ? null : observatory.story(recordOf),
        ...(failures && { failures: observatory.failures(failures.of, failures.limit) }),
      };
    };
  async function listen({ workerId, serve, claimed, session }: PeerService): Promise<PeerListener> {
    const host = internalHost(config);
    const internal = await startInternalServer({
      host,
      port: config.internal.port,
      workerId,
      hops,
      clock,
      limits,
      reader,
      deadlines,
      serve,
      onView: tell(session),
      onClaimed: claimed,
      logger,
    });
    try {
      const { advertiseUrl } = config.internal;
      const url = announcedUrl({ advertiseUrl, host, port: internal.port, databaseUrl: config.databaseUrl });
      return { url, check: (id) => checkAnnounced({ url, workerId: id, clock }), close: internal.close };
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
    forwarder: (workerId) => createForwarder({ hops, clock, workerId, deadlines, logger }),
    logger,
    inspect(event) {
      observatory.inspect(event);
      means.inspect?.(event);
    },
    onAnnounced(id) {
      announcedId = id;
    },
    onRegistered,
    onForwarded: (kind) => observatory.metrics.forwarded(kind),
    onPlaced: observatory.placed,
    onRefused: (limit) => observatory.metrics.refused(limit),
    onGivenUp: () => observatory.metrics.bufferGivenUp(),
    onFinished: (turn, session) => observatory.turnEnded(describeTurn(turn, session, clock.now())),
  });
  const { membership, roster, dispatcher, quota, forwarder, target } = worker;
  const guard = createConnectionGuard({
    limits,
    several: quota.several,
    onClosed: (reason) => observatory.metrics.connectionClosed(reason),
  });

  observatory.watch({
    sessions: () => [...roster.all()].map((session) => session.view().state),
    queued: () => [...roster.all()].reduce((sum, session) => sum + session.view().queueLength, 0),
    turnsInFlight: () => dispatcher.inFlight,
    turnBufferBytes: () => quota.bufferedBytes,
    unreadBytes: () => quota.unreadBytes,
    requestsInHand: () => quota.inHand.waiting + quota.inHand.running,
    connections: () => guard.open,
  });

  const readiness = async (): Promise<Readiness> => {
    const reasons: string[] = [];
    if (worker.leaving || membership.draining) reasons.push('draining');
    if (!membership.mayStart()) reasons.push('lease not confirmed');
    await store.pepper().catch(() => reasons.push('database does not answer'));
    return { ready: reasons.length === 0, reasons };
  };
  const router = express.Router();
  const face = createHttpFace({
    service: {
      turn: (request, sink, lease) => dispatcher.accept(request, sink, undefined, lease),
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
      get leaving() {
        return worker.leaving;
      },
      get draining() {
        return worker.refusing;
      },
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
    here: tell(roster.get),
    there: async ({ id, internalUrl }, question) =>
      internalUrl === null
        ? null
        : ((await forwarder.view({ workerId: id, url: internalUrl }, question)) as LocalAnswer | null),
    hint({ id, internalUrl }, notice) {
      if (internalUrl !== null) void forwarder.claimed({ workerId: id, url: internalUrl }, notice);
    },
    tell: (id, action) => roster.get(id)?.send({ type: action === 'close' ? 'operator.close' : 'operator.release' }),
  };
  const admin = createAdminApi({ port: operators, allow, clock, logger });
  const front = createFront(config.server);
  router.use(front.ownHandler, observatory.router, explorer(), admin, face, errorHandler({ ids, logger }));

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
    handleUpgrade(req, socket, head) {
      // Node has no listener on this socket any more, and without one its error would end the process.
      socket.on('error', () => socket.destroy());
      try {
        front.admit(req);
        if (!observatory.handleUpgrade(req, socket, head)) refuseUpgrade(req, socket);
      } catch (error) {
        if (!(error instanceof BridgeError)) reportFault(error, 'upgrade');
        const known = error instanceof BridgeError ? error : new BridgeError('bridge_internal', { cause: error });
        answerSocket(socket, known);
      }
    },
    guardConnections: guard.watch,
    get workerId() {
      return membership.id;
    },
    sessions: () =>
      [...roster.all()].map((session) => ({ id: session.id, epoch: session.epoch, state: session.view().state })),
    readiness,
    metrics: () => observatory.metrics.registry.getMetricsAsJSON(),
    close: () => (closing ??= close()),
  };
}
