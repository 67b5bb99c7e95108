import { AsyncLocalStorage } from 'node:async_hooks';
import type { IncomingMessage, ServerResponse } from 'node:http';
import {
  type Attributes,
  type Context,
  context,
  createTraceState,
  type HrTime,
  isSpanContextValid,
  ROOT_CONTEXT,
  type Span,
  SpanKind,
  SpanStatusCode,
  type Tracer,
  type TracerProvider,
  trace,
} from '@opentelemetry/api';
import type { Config } from '../../config.ts';
import type { TurnRequest } from '../../session/port.ts';
import type { TurnLine, TurnTimes } from '../../session/turn.ts';
import { type Clock, reportFault } from '../../system.ts';
import { version } from '../../version.ts';
import type { Logger } from '../log.ts';
import { tokensOf } from '../metrics/index.ts';
import { endedBadly, endingOf } from '../trace.ts';
import type { SpanIds, Traces } from './port.ts';

/** Returns the tracer of Holdfast: of these tracers, or of those that the application has registered. */
export const tracerOf = (tracers: TracerProvider | undefined): Tracer =>
  (tracers ?? trace.getTracerProvider()).getTracer('holdfast', version);

/** HTTP request whose span is open. */
interface Call {
  /** Where in the trace its turn belongs. */
  context: Context;
  /** Null where the application's own span covers the request. */
  span: Span | null;
  ids: SpanIds;
  /** The handler of the request still runs: later, what is called in its name may concern another request. */
  open: boolean;
}

/** Spans of one turn that are open. */
interface OpenTurn {
  span: Span;
  context: Context;
  ids: SpanIds;
  /** Span of the message that began the turn, where that is no HTTP request of a client. */
  entry: Span | null;
  /** Running attempt to forward it. */
  forward: Span | null;
  /** Wall-clock time minus the monotonic time, in milliseconds. Fixed for a turn, so that its spans fit each other. */
  offset: number;
}

/** Longest value of `tracestate` that is passed on, in characters. */
const LONGEST_STATE = 512;
const TRACEPARENT = /^00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;

/** Returns the place in a trace that W3C headers name; the root where they name none. */
function placeOf(traceparent: string | undefined, tracestate: string | undefined): Context {
  const [, traceId, spanId, flags] = TRACEPARENT.exec(traceparent?.trim() ?? '') ?? [];
  if (traceId === undefined) return ROOT_CONTEXT;
  const named = {
    ...{ traceId, spanId: spanId!, traceFlags: Number.parseInt(flags!, 16) & 1, isRemote: true },
    ...(tracestate && tracestate.length <= LONGEST_STATE ? { traceState: createTraceState(tracestate) } : {}),
  };
  return isSpanContextValid(named) ? trace.setSpanContext(ROOT_CONTEXT, named) : ROOT_CONTEXT;
}

function traceparentOf(span: Span): string | undefined {
  const place = span.spanContext();
  if (!isSpanContextValid(place)) return undefined;
  return `00-${place.traceId}-${place.spanId}-0${place.traceFlags & 1}`.toLowerCase();
}

function idsIn(place: Context): SpanIds {
  const named = trace.getSpanContext(place);
  return { trace_id: named?.traceId ?? '', span_id: named?.spanId ?? '' };
}

const hrTime = (ms: number): HrTime => [Math.floor(ms / 1_000), Math.round((ms % 1_000) * 1_000_000)];

/** Wraps a function so that an exception of an application's tracer provider reaches no turn. */
function contained<A extends unknown[], R>(run: (...args: A) => R, otherwise: R): (...args: A) => R {
  return (...args) => {
    try {
      return run(...args);
    } catch (error) {
      reportFault(error, 'listener');
      return otherwise;
    }
  };
}

/** Returns attributes without those that have no value. */
const present = (given: Record<string, string | number | boolean | null | undefined>): Attributes =>
  Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined)) as Attributes;

/** Parts of a turn's time that get a span: its name, and the fields of the times at which it begins and ends. */
const parts: readonly (readonly [string, keyof TurnTimes, keyof TurnTimes])[] = [
  ['place', 'received', 'placed'],
  ['queue', 'placed', 'begun'],
  ['connect', 'begun', 'ready'],
  ['commit start', 'ready', 'started'],
  ['commit settle', 'answered', 'ended'],
];
/** A wait for the queue or for a connection that is shorter is none, in milliseconds. */
const NO_WAIT_MS = 1;
const waits: ReadonlySet<string> = new Set(['queue', 'connect']);

/** Creates the spans of one bridge. Those of a turn are made of its record when it has ended, except for the turn's own. */
export function createTraces(from: {
  tracer: Tracer;
  clock: Clock;
  config: Pick<Config, 'upstream'>;
  workerId(): string;
}): Traces {
  const { tracer, clock, workerId } = from;
  const upstream = new URL(from.config.upstream.url);
  const server = {
    'server.address': upstream.hostname,
    'server.port': Number(upstream.port) || (upstream.protocol === 'http:' ? 80 : 443),
  };
  const calls = new AsyncLocalStorage<Call>();
  const turns = new WeakMap<TurnRequest, OpenTurn>();
  /** Ids for log lines, by the ids of turns that are placed. */
  const named = new Map<string, SpanIds>();
  const offsetNow = () => clock.wall() - clock.now();

  function callOf(req: IncomingMessage, startTime: HrTime): Call {
    const active = trace.getSpanContext(context.active());
    if (active && isSpanContextValid(active)) {
      const place = context.active();
      return { context: place, span: null, ids: idsIn(place), open: true };
    }
    const { traceparent, tracestate } = req.headers;
    const parent = placeOf(onlyOne(traceparent), onlyOne(tracestate));
    const attributes = { 'http.request.method': req.method ?? 'GET', 'url.scheme': 'http' };
    const span = tracer.startSpan(
      attributes['http.request.method'],
      { kind: SpanKind.SERVER, startTime, attributes },
      parent,
    );
    const place = trace.setSpan(parent, span);
    return { context: place, span, ids: idsIn(place), open: true };
  }

  /** Ends the span of an HTTP request. */
  function answered(span: Span, req: IncomingMessage, res: ServerResponse, endTime: HrTime): void {
    const route = (req as { route?: { path?: unknown } }).route?.path;
    const { requestId } = (res as { locals?: { requestId?: string } }).locals ?? {};
    const status = res.headersSent ? res.statusCode : null;
    span.setAttributes(
      present({
        'http.response.status_code': status,
        'http.route': typeof route === 'string' ? route : null,
        'holdfast.request.id': requestId,
        'holdfast.worker.id': workerId(),
      }),
    );
    if (typeof route === 'string') span.updateName(`${req.method} ${route}`);
    if (status !== null && status >= 500) span.setStatus({ code: SpanStatusCode.ERROR });
    span.end(endTime);
  }

  /** Makes the spans of the parts of a turn's time. */
  function describeParts(turn: OpenTurn, times: TurnTimes): void {
    for (const [name, begin, end] of parts) {
      const [from, to] = [times[begin], times[end]];
      if (from === null || to === null || to < from || (waits.has(name) && to - from < NO_WAIT_MS)) continue;
      const startTime = hrTime(turn.offset + from);
      tracer.startSpan(name, { startTime }, turn.context).end(hrTime(turn.offset + to));
    }
  }

  /** Makes the span of the call of the model: from its frame to the end of the answer. */
  function describeCall(turn: OpenTurn, line: TurnLine, request: TurnRequest, times: TurnTimes, over: number): void {
    if (times.sent === null) return;
    const at = (ms: number) => hrTime(turn.offset + ms);
    const tokens = line.tokens === null ? null : tokensOf(line.tokens);
    const attributes = present({
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': upstream.hostname.endsWith('.azure.com') ? 'azure.ai.openai' : 'openai',
      'gen_ai.request.model': line.model,
      'gen_ai.request.stream': request.body.stream === true,
      'gen_ai.response.id': line.response,
      'gen_ai.conversation.id': line.session,
      'gen_ai.usage.input_tokens': tokens?.input,
      'gen_ai.usage.cache_read.input_tokens': tokens?.cached,
      'gen_ai.usage.output_tokens': tokens?.output,
      'gen_ai.usage.reasoning.output_tokens': tokens?.reasoning,
      'holdfast.upstream.request.id': line.upstreamRequest,
      // The address of an upstream that a hook chose is the application's secret.
      ...(request.caller.target ? {} : server),
    });
    const name = line.model === null ? 'chat' : `chat ${line.model}`;
    const span = tracer.startSpan(name, { kind: SpanKind.CLIENT, startTime: at(times.sent), attributes }, turn.context);
    if (times.firstEvent !== null && times.firstEvent >= times.sent) span.addEvent('first event', at(times.firstEvent));
    judge(span, line);
    span.end(at(Math.max(times.sent, times.answered ?? times.ended ?? over)));
  }

  const begin = contained<[IncomingMessage, HrTime], Call | null>(callOf, null);
  const end = contained(answered, undefined);

  return {
    handler(req, res, next) {
      const offset = offsetNow();
      const call = begin(req, hrTime(offset + clock.now()));
      if (!call) return next();
      res.once('close', () => {
        call.open = false;
        if (call.span) end(call.span, req, res, hrTime(offset + clock.now()));
      });
      calls.run(call, next);
    },

    received: contained((request, hop) => {
      const offset = offsetNow();
      const startTime = hrTime(offset + request.receivedAt);
      const call = hop === undefined && request.clientTransport !== 'websocket' ? calls.getStore() : undefined;
      let place: Context;
      let entry: Span | null = null;
      if (call) {
        call.open = false;
        place = call.context;
      } else {
        const { traceparent, tracestate } = request.headers;
        const parent = placeOf(hop === undefined ? traceparent : (hop ?? undefined), tracestate);
        const name = hop === undefined ? 'response.create' : 'forwarded request';
        entry = tracer.startSpan(name, { kind: SpanKind.SERVER, startTime }, parent);
        place = trace.setSpan(parent, entry);
      }
      const span = tracer.startSpan('turn', { startTime }, place);
      const inside = trace.setSpan(place, span);
      turns.set(request, { span, context: inside, ids: idsIn(inside), entry, forward: null, offset });
    }, undefined),

    forwarding: contained((request) => {
      const turn = turns.get(request);
      if (!turn) return undefined;
      const startTime = hrTime(turn.offset + clock.now());
      turn.forward?.end(startTime);
      turn.forward = tracer.startSpan('forward', { kind: SpanKind.CLIENT, startTime }, turn.context);
      return traceparentOf(turn.forward);
    }, undefined),

    placed(turnId, request) {
      const ids = turns.get(request)?.ids;
      if (ids) named.set(turnId, ids);
    },

    idsOf: (request) => turns.get(request)?.ids ?? null,

    turnEnded: contained((line, request, times) => {
      const turn = turns.get(request);
      if (!turn) return;
      turns.delete(request);
      named.delete(line.turn);
      const over = clock.now();
      const endTime = hrTime(turn.offset + over);
      turn.forward?.end(endTime);
      if (turn.span.isRecording()) {
        describeParts(turn, times);
        describeCall(turn, line, request, times, over);
        turn.span.setAttributes(describe(line, workerId()));
        judge(turn.span, line);
      }
      turn.span.end(endTime);
      turn.entry?.setAttributes(present({ 'holdfast.request.id': line.request, 'holdfast.worker.id': workerId() }));
      turn.entry?.end(endTime);
    }, undefined),

    failed: contained(({ code }) => {
      calls.getStore()?.span?.setAttributes({ 'error.type': code, 'holdfast.fault': code });
    }, undefined),

    logging(logger) {
      const idsFor = (fields: { turn?: unknown }): SpanIds | undefined => {
        const known = typeof fields.turn === 'string' ? named.get(fields.turn) : undefined;
        if (known) return known;
        const call = calls.getStore();
        return call?.open ? call.ids : undefined;
      };
      const at = (level: 'debug' | 'info' | 'warn' | 'error' | 'fatal') => (fields: object, message: string) => {
        const ids = idsFor(fields);
        logger[level]?.(ids ? { ...ids, ...fields } : fields, message);
      };
      const levels: Logger = { debug: at('debug'), info: at('info'), warn: at('warn'), error: at('error') };
      return logger.fatal ? { ...levels, fatal: at('fatal') } : levels;
    },
  };
}

const onlyOne = (header: string | string[] | undefined) => (typeof header === 'string' ? header : undefined);

/** Marks a span as failed, unless its turn ended well, or as its client wanted. */
function judge(span: Span, line: TurnLine): void {
  if (!endedBadly(endingOf(line))) return;
  const reason = line.fault ?? (line.upstreamStatus === null ? line.terminal : String(line.upstreamStatus));
  span.setAttribute('error.type', reason);
  span.setStatus({ code: SpanStatusCode.ERROR });
}

/** Returns what the log line of a turn says, as attributes. Times are those of the spans. */
function describe(line: TurnLine, worker: string): Attributes {
  return present({
    'holdfast.request.id': line.request,
    'holdfast.turn.id': line.turn,
    'holdfast.session.id': line.session,
    'holdfast.session.epoch': line.epoch,
    'holdfast.worker.id': worker,
    'holdfast.tenant': line.tenant.slice(0, 200),
    'holdfast.transport': line.transport,
    'holdfast.outcome': line.outcome,
    'holdfast.decided_by': line.decidedBy,
    'holdfast.shape': line.shape,
    'holdfast.form': line.form,
    'holdfast.terminal': line.terminal,
    'holdfast.fault': line.fault,
    'holdfast.cause': line.cause?.slice(0, 200),
    'holdfast.own_ms': line.ownMs,
    'holdfast.items.client': line.itemsFromClient,
    'holdfast.items.upstream': line.itemsSent,
    'holdfast.bytes.client': line.bytesFromClient,
    'holdfast.bytes.upstream': line.bytesSent,
    'gen_ai.request.model': line.model,
    'http.response.status_code': line.status,
  });
}
