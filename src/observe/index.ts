import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import express, { type NextFunction, type Request, type Response, type Router } from 'express';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { type AccessRule, createOperatorAccess } from '../http/access.ts';
import type { FailedCall } from '../http/app.ts';
import { sendError } from '../http/envelope.ts';
import type { Observed, Step } from '../runtime/index.ts';
import type { TurnRequest } from '../session/port.ts';
import { type TurnLine, tenantOf } from '../session/turn.ts';
import type { SessionStore } from '../store/port.ts';
import type { Clock, Ids } from '../system.ts';
import type { UpstreamTransport } from '../upstream/port.ts';
import { type Activity, type ActivityWindow, createActivity, reasonOf, type WorkerCounts } from './activity.ts';
import { createFailures, type FailedRequest, type FailureFilter } from './failures.ts';
import { createInspection } from './inspect/index.ts';
import type { Logger } from './log.ts';
import { createMetrics, type Metrics, type Readings } from './metrics/index.ts';
import { metricsPage } from './metrics/merged.ts';
import { observeStore, observeTransport } from './metrics/wrappers.ts';
import { storiesRouter } from './stories.ts';
import type { SpanIds } from './telemetry/port.ts';
import type { FlightRecord } from './trace.ts';
import { createRecorder } from './trace.ts';

interface ObservatoryOptions {
  config: Pick<Config, 'inspect' | 'limits' | 'prices' | 'security'>;
  /** This worker, with its current id. Read only once actors run. */
  worker: { readonly id: string };
  clock: Clock;
  ids: Ids;
  logger: Logger;
  /** Access check for operators. Default: `createOperatorAccess` with the admin token. */
  allow?: AccessRule;
  /** Secret that signs the inspector's tickets, the same on all workers. Default: one of this worker's own. */
  ticketKey?: string | undefined;
  /** Returns the ids of a turn's span, for its log line. Default: turns have no spans. */
  spanOf?: ((request: TurnRequest) => SpanIds | null) | undefined;
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
  /** Sees every step of every machine. Never throws. */
  readonly step: (step: Step) => void;
  /** Records that a turn was placed on a session. */
  placed(turn: { readonly record: Observed }, session: { readonly id: string }): void;
  /** Records the end of a turn: its log line, its metrics and, after a bad end, its story. */
  turnEnded(line: TurnLine, request: TurnRequest): void;
  /** Adds the sources for the gauges, except for sockets and viewers, which the observatory itself counts. */
  watch(readings: Omit<Readings, 'sockets' | 'viewers'> & Required<Pick<Readings, CountName>>): void;
  /** Returns the record of a session on this worker, or null when there is none. */
  story(sessionId: string): FlightRecord | null;
  /** Returns at most `limit` of the last requests that failed here and match, newest first. */
  failures(filter: FailureFilter, limit: number): FailedRequest[];
  /** Returns the last requests that ended here, well or not, by the beginning of an id. */
  ended(beginning: string, limit: number): FailedRequest[];
  /** Returns the sums of this worker's activity. */
  activity(window: ActivityWindow): Activity;
  /** Records a request that the bridge answered with an error before it became a turn. */
  requestFailed(request: FailedCall, error: BridgeError): void;
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

type CountName = Exclude<keyof WorkerCounts, 'sockets' | 'inFlight'> | 'turnsInFlight';

/** Paths of operators. Their own mistakes there are no failures of clients; a refused access is one. */
const ofOperators = /^\/(?:admin|inspect|metrics)(?:\/|$)/;

/** Creates the observability of one worker: its metrics, recorder, inspector and routes. */
export function createObservatory(options: ObservatoryOptions): Observatory {
  const { config, worker, clock, ids, logger } = options;
  const workerId = () => worker.id;
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
  const activity = createActivity({ workerId, clock, prices: config.prices });
  let openSockets = () => 0;
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
    ticketKey: options.ticketKey ?? ids.uuid(),
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
    store: (inner) => observeStore(inner, { ...metrics, onCall: activity.storeCalled }, clock),
    transport(inner) {
      const observed = observeTransport(inner, metrics, clock);
      openSockets = () => observed.open;
      metrics.watch({ sockets: openSockets });
      return observed.transport;
    },
    step: recorder.observe,
    placed: ({ record }, { id }) => recorder.place(record, id),
    turnEnded(line, request) {
      const span = options.spanOf?.(request);
      logger.info(span ? { ...line, ...span } : line, 'turn');
      metrics.turnEnded(line);
      recorder.turnEnded(line);
      failures.turnEnded(line);
      activity.turnEnded(line);
    },
    watch(readings) {
      metrics.watch(readings);
      const { queued, turnsInFlight, connections } = readings;
      activity.watch(() => ({
        sockets: openSockets(),
        queued: queued(),
        inFlight: turnsInFlight(),
        connections: connections(),
      }));
    },
    story: (sessionId) => recorder.story(sessionId),
    failures: failures.list,
    ended: failures.ended,
    activity: activity.read,
    requestFailed({ scope, anonymous, ...request }, { code, status, detail, param }) {
      // Of the operators' own requests, wrong tokens count. One without a token is how a page finds out that it needs one.
      const isRefusal = status === 401 || status === 403;
      if (ofOperators.test(request.path ?? '') && status < 500 && (!isRefusal || anonymous)) return;
      const tenant = scope === null ? null : tenantOf(scope);
      // The detail of a client's own mistake may repeat what it sent; the name of the field does not.
      const field = param !== null && /^[\w.[\]-]{1,60}$/.test(param) ? `field ${param}` : null;
      const cause = status >= 500 ? (detail?.replace(/\.$/, '') ?? null) : field;
      failures.requestFailed({ ...request, tenant }, code, cause);
      activity.requestFailed(reasonOf({ fault: code, upstreamStatus: null }));
    },
    router,
    handleUpgrade: inspection.handleUpgrade,
    close() {
      inspection.close();
      metrics.stop();
      activity.stop();
    },
  };
}
