import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type NextFunction, type Request, type Response, type Router } from 'express';
import type { InspectionEvent } from 'xstate';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { sendError } from '../http/envelope.ts';
import type { Ids } from '../ids.ts';
import type { SessionStore } from '../store/port.ts';
import type { UpstreamTransport } from '../upstream/port.ts';
import { type AccessRule, createOperatorAccess } from './access.ts';
import { createFailures, type FailedRequest } from './failures.ts';
import type { FlightRecord } from './flight.ts';
import type { ActorLike } from './inspect/identity.ts';
import { createInspection } from './inspect/index.ts';
import { type Logger, type TurnLine, turnLine } from './log.ts';
import { createMetrics, type Metrics, type Readings } from './metrics/index.ts';
import { metricsPage } from './metrics/page.ts';
import { observeStore } from './metrics/store.ts';
import { observeTransport } from './metrics/transport.ts';
import { createRecorder } from './recorder.ts';
import { storiesRouter } from './stories.ts';

export interface ObservatoryOptions {
  config: Pick<Config, 'inspect' | 'limits' | 'security'>;
  /** This worker's identity of the moment; asked only once actors run. */
  workerId(): string;
  clock: Clock;
  ids: Ids;
  logger: Logger;
  /** Default: `createOperatorAccess` with the admin token. */
  allow?: AccessRule;
  /** Where stories of bad ends are kept. */
  stories: SessionStore;
  /** Asks the other workers for a request that failed there, and for what they remember of it. Default: there are none. */
  failedElsewhere?: (id: string) => Promise<{ failed: FailedRequest; record: FlightRecord | null } | null>;
  /** Also report the process's own metrics. Default true. */
  processMetrics?: boolean;
  /** What `/metrics` shows in place of this worker's own; null: its own. */
  metricsPage?: (() => Promise<string | null>) | undefined;
}

/** Everything by which a worker can be watched: metrics, the log line of each turn, the inspector and the recorder. */
export interface Observatory {
  readonly metrics: Metrics;
  /** The same store and transport, counted and timed. */
  store(inner: SessionStore): SessionStore;
  transport(inner: UpstreamTransport): UpstreamTransport;
  /** The `inspect` option of every actor. Never throws. */
  readonly inspect: (event: InspectionEvent) => void;
  /** A turn was placed on a session. */
  placed(turn: { readonly actor: ActorLike }, session: { readonly id: string }): void;
  /** A turn has ended: its log line, its metrics and, with a bad end, its story. */
  turnEnded(line: TurnLine): void;
  /** Sources of the gauges; sockets and viewers are known here already. */
  watch(readings: Omit<Readings, 'sockets' | 'viewers'>): void;
  /** What is remembered of a session here; null for nothing. */
  story(sessionId: string): FlightRecord | null;
  /** The last requests that failed here, newest first. @param of a request, turn or session id; null for all */
  failures(of: string | null, limit: number): FailedRequest[];
  /** A request that was no turn got an error of the bridge. */
  requestFailed(request: string, error: BridgeError): void;
  /** `/metrics`, `/inspect` and what belongs to it, `/admin/stories`. Answers its own errors. */
  readonly router: Router;
  /** For the server's `upgrade` event: false when the request is not for the inspector and still wants an answer. */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  close(): void;
}

export function createObservatory(options: ObservatoryOptions): Observatory {
  const { config, workerId, clock, ids, logger } = options;
  const { limits } = config;
  const allow = options.allow ?? createOperatorAccess(config.security.adminToken);
  const metrics = createMetrics({ clock, defaults: options.processMetrics ?? true });
  /** Best effort: a store that does not answer is told of elsewhere. */
  const keep = (sessionId: string, turnId: string, record: FlightRecord) => {
    options.stories.keepStory(sessionId, turnId, record).catch((error) => {
      logger.debug({ err: error, session: sessionId }, 'a story could not be kept');
    });
  };
  const recorder = createRecorder({ workerId, clock, events: limits.recordedEvents, onBadEnd: keep });
  const failures = createFailures({ workerId, clock });
  const failedHere = (id: string) => {
    const [failed] = failures.list(id, 1);
    return failed ? { failed, record: failed.session === null ? null : recorder.story(failed.session) } : null;
  };
  const inspection = createInspection({
    workerId,
    clock,
    ids,
    allow,
    content: config.inspect.content,
    inspectorUrl: config.inspect.url,
    bufferBytes: limits.inspectBufferBytes,
    viewers: limits.inspectViewers,
    sessions: limits.inspectSessions,
    onCutOff: metrics.viewerCutOff,
    onError: (error) => logger.warn({ err: error }, 'showing an event to the inspector failed'),
  });
  metrics.watch({ viewers: () => inspection.viewers });

  const router = express.Router();
  router.get('/metrics', metricsPage(metrics.registry, allow, options.metricsPage));
  router.use(inspection.router);
  router.use(
    storiesRouter({
      store: options.stories,
      remembered: (sessionId) => recorder.story(sessionId),
      failed: async (id) => failedHere(id) ?? (await options.failedElsewhere?.(id)) ?? null,
      allow,
    }),
  );
  router.use((error: unknown, _req: Request, res: Response, next: NextFunction) => {
    if (!(error instanceof BridgeError)) return next(error);
    sendError(res, error, (res.locals.requestId as string | undefined) ?? ids.uuid());
  });

  return {
    metrics,
    store: (inner) => observeStore(inner, metrics, clock),
    transport(inner) {
      const observed = observeTransport(inner, metrics, clock);
      metrics.watch({ sockets: () => observed.open });
      return observed.transport;
    },
    inspect(event) {
      recorder.observe(event);
      inspection.observe(event);
    },
    placed({ actor }, { id }) {
      recorder.place(actor, id);
      inspection.place(actor, id);
    },
    turnEnded(line) {
      turnLine(logger, line);
      metrics.turnEnded(line);
      recorder.turnEnded(line);
      failures.turnEnded(line);
    },
    watch: (readings) => metrics.watch(readings),
    story: (sessionId) => recorder.story(sessionId),
    failures: failures.list,
    requestFailed: (request, { code, detail }) =>
      failures.requestFailed(request, code, detail?.replace(/\.$/, '') ?? null),
    router,
    handleUpgrade: inspection.handleUpgrade,
    close() {
      inspection.close();
      metrics.stop();
    },
  };
}
