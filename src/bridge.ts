import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type Router } from 'express';
import type { InspectionEvent } from 'xstate';
import { createAdminApi } from './admin/api.ts';
import type { LocalAnswer, LocalView, Question } from './admin/port.ts';
import { explorer } from './admin/ui/index.ts';
import { type Clock, systemClock } from './clock.ts';
import { announcedUrl, checkAnnounced } from './cluster/forward/announce.ts';
import { createForwarder } from './cluster/forward/forwarder.ts';
import { createHops, type Hop } from './cluster/forward/hop.ts';
import type { HopSink } from './cluster/forward/hop-sink.ts';
import { startInternalServer } from './cluster/forward/internal-server.ts';
import { startJanitor } from './cluster/janitor.ts';
import { startMembership } from './cluster/membership.ts';
import { createPeers } from './cluster/peers.ts';
import { type Config, readConfig } from './config.ts';
import { createHttpFace } from './http/app.ts';
import { createAuthentication } from './http/authenticate.ts';
import type { Readiness } from './http/port.ts';
import { refuseUpgrade } from './http/upgrade.ts';
import { type Ids, randomIds } from './ids.ts';
import { createOperatorAccess } from './observe/access.ts';
import { createObservatory } from './observe/index.ts';
import { createLogger, type Logger } from './observe/log.ts';
import { classify } from './resolve/classify.ts';
import { createDispatcher } from './session/dispatcher.ts';
import { drain, releaseIdle } from './session/drain.ts';
import { describeTurn } from './session/line.ts';
import type { Peers } from './session/peers.ts';
import type { TurnRequest } from './session/port.ts';
import { createRoster } from './session/roster.ts';
import { openStorage, type Storage } from './storage.ts';
import type { SessionStore } from './store/port.ts';
import { parseSecrets } from './token/keyring.ts';
import { createTokens, scopeKindOf } from './token/token.ts';
import { contextFingerprint, requestFingerprint } from './transcript/fingerprint.ts';
import { shapeOf } from './transcript/shape.ts';
import { createHttpOnlyMemory } from './upstream/http-only.ts';
import type { UpstreamTarget } from './upstream/port.ts';
import { createUpstreamTransport } from './upstream/transport.ts';
import { version } from './version.ts';

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
  /** Receives XState's inspection events of every machine that runs here, while the step is under way: look, do not act. */
  inspect?: (event: InspectionEvent) => void;
}

/** A running bridge: routes for an Express app, and its end. */
export interface Bridge {
  router: Router;
  config: Config;
  logger: Logger;
  ids: Ids;
  /** For the server's `upgrade` event: the inspector's viewers; everybody else gets 426, which makes clients use HTTP. */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  readonly workerId: string;
  /** Sessions that have an actor here now, with the state each is in. */
  sessions(): { id: string; epoch: number; state: string }[];
  readiness(): Promise<Readiness>;
  /**
   * Drains: first it leaves (others are told, requests are given to them), then nothing new is admitted, running turns
   * may end, everything is given back. Safe to call twice.
   */
  close(): Promise<void>;
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
        embedded: false,
        shared: config.security.secrets !== null,
        livenessPath: null,
        close: async () => {},
      }
    : await openStorage(config, logger);
  try {
    const { onRegistered, inspect } = options;
    return await assemble(config, storage, { clock, ids, random, logger, onRegistered, inspect });
  } catch (error) {
    await storage.close();
    throw error;
  }
}

interface Means {
  clock: Clock;
  ids: Ids;
  random: () => number;
  logger: Logger;
  onRegistered: BridgeOptions['onRegistered'];
  inspect: BridgeOptions['inspect'];
}

/** How long the listener for peers lets its last answers be written, milliseconds. */
const INTERNAL_GRACE = 1_000;

async function assemble(config: Config, storage: Storage, means: Means): Promise<Bridge> {
  const { clock, ids, random, logger, onRegistered } = means;
  const { deadlines, limits } = config;
  let announcedId = '';
  const observatory = createObservatory({
    config,
    workerId: () => announcedId,
    clock,
    ids,
    logger,
    stories: storage.store,
  });
  const inspect = (event: InspectionEvent) => {
    observatory.inspect(event);
    means.inspect?.(event);
  };
  const store = observatory.store(storage.store);
  const secrets = parseSecrets(storage.secrets);
  const tokens = createTokens({ secrets, clock, ttlSeconds: limits.retentionHours * 3600 });
  const hops = createHops({ secrets, clock });
  const authenticate = createAuthentication(config, await store.pepper());
  const transport = observatory.transport(createUpstreamTransport({ clock }));
  const target: UpstreamTarget = { id: upstreamId(config.upstream.url), baseUrl: config.upstream.url };
  const httpOnly = createHttpOnlyMemory(config.upstream.transport, clock);
  const roster = createRoster(limits.sockets);
  const background = new Set<Promise<void>>();
  let leaving = false;
  let refusing = false;
  let closing: Promise<void> | null = null;

  /** What another worker sent: run it at the epoch it names, or say that it is not ours. */
  const serve = (hop: Hop, request: TurnRequest, sink: HopSink) => {
    const { mode, turnId, sessionId, epoch } = hop;
    const mine = mode === 'run' ? roster.exact(sessionId ?? '', epoch ?? -1) !== null : !leaving;
    if (!mine) return sink.notOwner();
    dispatcher.accept(request, sink, { mode, turnId, sessionId, epoch, notOwner: () => sink.notOwner() });
  };
  /** What this worker knows of its sessions, for operators here and at other workers. */
  const here = ({ sessionIds, recordOf }: Question): LocalAnswer => {
    const views: Record<string, LocalView> = {};
    for (const id of sessionIds) {
      const session = roster.get(id);
      if (!session) continue;
      const { state, epoch, queueLength, busy } = session.view();
      const { socketOpen, socketAgeMs } = session;
      views[id] = { state, epoch, queueLength, busy, socketOpen, socketAgeMs };
    }
    return { views, record: recordOf === null ? null : observatory.story(recordOf) };
  };
  const internal =
    storage.shared && config.instancePolicy === 'forward'
      ? await startInternalServer({
          host: config.internal.host,
          port: config.internal.port,
          workerId: () => announcedId,
          hops,
          clock,
          limits,
          deadlines,
          serve,
          onView: here,
          onClaimed: ({ sessionId, epoch }) => roster.older(sessionId, epoch)?.send({ type: 'operator.release' }),
          logger,
        })
      : null;
  let internalUrl: string | null = null;
  try {
    if (internal)
      internalUrl = announcedUrl({ ...config.internal, port: internal.port, databaseUrl: config.databaseUrl });
  } catch (error) {
    await internal?.close(0);
    throw error;
  }

  const membership = await startMembership({
    store,
    clock,
    ids,
    deadlines,
    version,
    internalUrl,
    livenessPath: storage.livenessPath,
    log: logger,
    inspect,
    onRegistered,
    async announce(id) {
      announcedId = id;
      if (internalUrl !== null) await checkAnnounced({ url: internalUrl, workerId: id, clock });
    },
    onDead() {
      for (const session of [...roster.all()]) session.send({ type: 'worker.dead' });
    },
  }).catch(async (error) => {
    await internal?.close(0);
    throw error;
  });
  const forwarder = createForwarder({ hops, clock, workerId: () => membership.id, deadlines, logger });
  const others = createPeers({ store, forwarder, me: () => membership.id, mayJudge: membership.mayJudge, random });
  const peers: Peers = {
    ...others,
    async forward(...hop) {
      const result = await others.forward(...hop);
      observatory.metrics.forwarded(result.kind);
      return result;
    },
  };
  const dispatcher = createDispatcher({
    store,
    roster,
    config,
    clock,
    ids,
    peers,
    inspect,
    onPlaced: observatory.placed,
    sessions: {
      store,
      transport,
      target,
      config,
      clock,
      random,
      worker: membership,
      httpOnly,
      log: logger,
      inspect,
      background(work) {
        background.add(work);
        void work.finally(() => background.delete(work));
      },
      issueToken(sessionId, epoch, turn) {
        const { caller } = turn.request;
        return tokens.issue({ sessionId, epoch, scope: caller.scope, scopeKind: scopeKindOf(caller) });
      },
    },
    classify: (request) =>
      classify({
        request,
        tokens,
        transcript: { shapeOf, contextFingerprint, requestFingerprint },
        limits: { frameBytes: limits.frameBytes, webSocket: !httpOnly.has(target.id) },
      }),
    onFinished: (turn, session) => observatory.turnEnded(describeTurn(turn, session, clock.now())),
  });

  observatory.watch({
    sessions: () => [...roster.all()].map((session) => session.view().state),
    queued: () => [...roster.all()].reduce((sum, session) => sum + session.view().queueLength, 0),
    turnsInFlight: () => dispatcher.inFlight,
    turnBufferBytes: () => dispatcher.bufferedBytes,
  });

  const janitor = startJanitor({
    store,
    clock,
    random,
    everyMs: deadlines.janitor,
    retentionHours: limits.retentionHours,
    log: logger,
  });

  const readiness = async (): Promise<Readiness> => {
    const reasons: string[] = [];
    if (leaving || membership.draining) reasons.push('draining');
    if (!membership.mayStart()) reasons.push('lease not confirmed');
    await store.pepper().catch(() => reasons.push('database does not answer'));
    return { ready: reasons.length === 0, reasons };
  };
  const router = express.Router();
  const face = createHttpFace({
    service: {
      turn: (request, sink) => dispatcher.accept(request, sink),
      async knowsResponse(scope, anchor) {
        const found = await store.lookup({ scope, anchor, tokenSessionId: null, hardKey: null });
        return found.anchor !== null;
      },
      forgetResponse: async (scope, responseId) => void (await store.eraseResponse(scope, responseId)),
      readiness,
      get leaving() {
        return leaving;
      },
      get draining() {
        return refusing;
      },
    },
    authenticate,
    transport,
    target,
    config,
    clock,
    ids,
    logger,
  });
  const admin = createAdminApi({
    port: {
      store,
      get workerId() {
        return membership.id;
      },
      here,
      there: async ({ id, internalUrl }, question) =>
        internalUrl === null
          ? null
          : ((await forwarder.view({ workerId: id, url: internalUrl }, question)) as LocalAnswer | null),
      hint({ id, internalUrl }, session) {
        if (internalUrl !== null) void forwarder.claimed({ workerId: id, url: internalUrl }, session);
      },
      tell: (id, action) => roster.get(id)?.send({ type: action === 'close' ? 'operator.close' : 'operator.release' }),
    },
    allow: createOperatorAccess(config.security.adminToken),
    logger,
  });
  router.use(observatory.router, explorer(), admin, face);

  /** Lame duck: while the balancers learn of it, this worker still takes requests and gives them to those that stay. */
  async function leave(): Promise<void> {
    leaving = true;
    membership.drain();
    releaseIdle(roster);
    const stays = storage.shared ? await peers.serving().catch(() => null) : null;
    if (stays) await new Promise<void>((over) => clock.after(deadlines.lameDuck, over));
    refusing = true;
  }

  async function close(): Promise<void> {
    janitor.stop();
    await leave();
    await drain({ roster, dispatcher, clock }, deadlines.drain);
    await Promise.allSettled(background);
    await internal?.close(INTERNAL_GRACE);
    await membership.stop();
    observatory.close();
    await forwarder.close();
    await transport.shutdown();
    await storage.close();
    logger.info({ worker: membership.id }, 'stopped');
  }

  return {
    router,
    config,
    logger,
    ids,
    handleUpgrade(req, socket, head) {
      if (!observatory.handleUpgrade(req, socket, head)) refuseUpgrade(req, socket);
    },
    get workerId() {
      return membership.id;
    },
    sessions: () =>
      [...roster.all()].map((session) => ({ id: session.id, epoch: session.epoch, state: session.view().state })),
    readiness,
    close: () => (closing ??= close()),
  };
}

/** What is stored to recognise an upstream: its address, without what could be secret in it. */
function upstreamId(url: string): string {
  const { protocol, host, pathname } = new URL(url);
  const address = `${protocol}//${host}${pathname}`;
  return address.length <= 80 ? address : createHash('sha256').update(address).digest('hex');
}
