import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type NextFunction, type Request, type Response, type Router } from 'express';
import type { InspectionEvent } from 'xstate';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { type AccessRule, createOperatorAccess } from '../http/access.ts';
import { sendError } from '../http/envelope.ts';
import type { TurnLine } from '../session/turn.ts';
import type { SessionStore } from '../store/port.ts';
import type { Clock, Ids } from '../system.ts';
import type { UpstreamTransport } from '../upstream/port.ts';
import { createInspection } from './inspect/index.ts';
import type { Logger } from './log.ts';
import { createMetrics, type Metrics, type Readings } from './metrics/index.ts';
import { metricsPage } from './metrics/merged.ts';
import { observeStore, observeTransport } from './metrics/wrappers.ts';
import { storiesRouter } from './stories.ts';
import type { ActorLike, FlightRecord } from './trace.ts';
import { createFailures, createRecorder, type FailedRequest } from './trace.ts';

interface ObservatoryOptions {
  config: Pick<Config, 'inspect' | 'limits' | 'security'>;
  /** Returns this worker's current id. Called only once actors run. */
  workerId(): string;
  clock: Clock;
  ids: Ids;
  logger: Logger;
  /** Access check for operators. Default: `createOperatorAccess` with the admin token. */
  allow?: AccessRule;
  /** Store in which stories of turns that ended badly are kept. */
  stories: SessionStore;
  /**
   * Asks the other workers for a request by the beginning of an id, and for their record of its session. Default: there are
   * no other workers.
   */
  endedElsewhere?: (beginning: string) => Promise<{ failed: FailedRequest; record: FlightRecord | null } | null>;
  /** True to report the metrics of the process as well. Default true. */
  processMetrics?: boolean;
  /**
   * Returns the page that `/metrics` shows instead of this worker's own metrics. Where it returns null, the worker's
   * own metrics are shown.
   */
  metricsPage?: (() => Promise<string | null>) | undefined;
}

/** Observability of one worker: metrics, a log line per turn, the inspector and the event recorder. */
export interface Observatory {
  readonly metrics: Metrics;
  /** Wraps the store so that its calls are counted and timed. */
  store(inner: SessionStore): SessionStore;
  /** Wraps the transport so that handshakes are timed and connections counted. */
  transport(inner: UpstreamTransport): UpstreamTransport;
  /** The `inspect` option of every actor. Never throws. */
  readonly inspect: (event: InspectionEvent) => void;
  /** Records that a turn was placed on a session. */
  placed(turn: { readonly actor: ActorLike }, session: { readonly id: string }): void;
  /** Records the end of a turn: its log line, its metrics and, after a bad end, its story. */
  turnEnded(line: TurnLine): void;
  /** Adds sources for the gauges, except for sockets and viewers, which the observatory itself counts. */
  watch(readings: Omit<Readings, 'sockets' | 'viewers'>): void;
  /** Returns the record of a session on this worker, or null when there is none. */
  story(sessionId: string): FlightRecord | null;
  /**
   * Returns the last requests that failed here, newest first.
   *
   * @param of request, turn or session id; null for all
   * @param limit maximum number of entries returned
   */
  failures(of: string | null, limit: number): FailedRequest[];
  /** Returns the last requests that ended here, well or not, by the beginning of an id. */
  ended(beginning: string, limit: number): FailedRequest[];
  /** Records a request that did not become a turn that the bridge answered with an error. */
  requestFailed(request: string, error: BridgeError): void;
  /** Routes `/metrics`, `/inspect` and its subpaths, and `/admin/stories`, with their own error answers. */
  readonly router: Router;
  /**
   * Handles the server's `upgrade` event. Returns false when the request is not for the inspector; the caller must then
   * answer it.
   */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  close(): void;
}

/** Most requests that the beginning of an id may name. */
const MOST_NAMED = 5;

/** Creates the observability of one worker: its metrics, recorder, inspector and routes. */
export function createObservatory(options: ObservatoryOptions): Observatory {
  const { config, workerId, clock, ids, logger } = options;
  const { limits } = config;
  const allow = options.allow ?? createOperatorAccess(config.security.adminToken);
  const metrics = createMetrics({ clock, defaults: options.processMetrics ?? true });
  /** Best effort: an unavailable store is reported elsewhere. */
  const keep = (sessionId: string, turnId: string, record: FlightRecord) => {
    options.stories.keepStory(sessionId, turnId, record).catch((error) => {
      logger.debug({ err: error, session: sessionId }, 'a story could not be kept');
    });
  };
  const recorder = createRecorder({ workerId, clock, events: limits.recordedEvents, onBadEnd: keep });
  const failures = createFailures({ workerId, clock });
  const endedHere = (beginning: string) =>
    failures
      .ended(beginning, MOST_NAMED)
      .map((failed) => ({ failed, record: failed.session === null ? null : recorder.story(failed.session) }));
  const inspection = createInspection({
    workerId,
    clock,
    ids,
    recorder,
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
      async ended(beginning) {
        const here = endedHere(beginning);
        if (here.length > 0) return here;
        const there = await options.endedElsewhere?.(beginning);
        return there ? [there] : [];
      },
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
    inspect: recorder.observe,
    placed: ({ actor }, { id }) => recorder.place(actor, id),
    turnEnded(line) {
      logger.info(line, 'turn');
      metrics.turnEnded(line);
      recorder.turnEnded(line);
      failures.turnEnded(line);
    },
    watch: (readings) => metrics.watch(readings),
    story: (sessionId) => recorder.story(sessionId),
    failures: failures.list,
    ended: failures.ended,
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
