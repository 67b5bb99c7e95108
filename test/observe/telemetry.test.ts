import { trace } from '@opentelemetry/api';
import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from '@opentelemetry/sdk-trace';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import WebSocket from 'ws';
import { createBridge } from '../../src/index.ts';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { until } from '../support/until.ts';
import { type CollectedSpan, type Collector, startCollector } from './collector.ts';

const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const CLIENT_SPAN = '00f067aa0ba902b7';
const traceparent = `00-${TRACE}-${CLIENT_SPAN}-01`;

let collector: Collector;
let open: TestBridge[];
let lines: Record<string, unknown>[];

beforeEach(async () => {
  collector = await startCollector();
  open = [];
  lines = [];
  vi.stubEnv('OTEL_EXPORTER_OTLP_ENDPOINT', collector.url);
  vi.stubEnv('OTEL_EXPORTER_OTLP_PROTOCOL', 'http/json');
  vi.stubEnv('OTEL_BSP_SCHEDULE_DELAY', '20');
});
afterEach(async () => {
  for (const bridge of open) await bridge.close();
  vi.unstubAllEnvs();
  await collector.close();
});

async function start(options: TestBridgeOptions = {}): Promise<TestBridge> {
  const logger = pino({ level: 'debug', base: null }, { write: (text) => void lines.push(JSON.parse(text)) });
  const at = await startTestBridge({ logger, ...options });
  // A bridge beside another one is closed first.
  open.unshift(at);
  return at;
}

const say = (at: TestBridge, more: object = {}, headers: Record<string, string> = {}) =>
  post(at.url, { model: 'gpt-5', stream: true, store: false, input: 'the secret question', ...more }, headers);

const named = (spans: readonly CollectedSpan[], name: string) => spans.filter((span) => span.name === name);
const childrenOf = (spans: readonly CollectedSpan[], { spanId }: CollectedSpan) =>
  spans.filter(({ parentSpanId }) => parentSpanId === spanId);
const turnLines = () => lines.filter(({ msg }) => msg === 'turn');

describe('traces', () => {
  it('A turn has a span below that of its request, in the trace of its client, with its parts below it', async () => {
    const at = await start();
    const { headers } = await say(at, {}, { traceparent, tracestate: 'vendor=1' });
    await until(() => named(collector.spans, 'POST /v1/responses').length === 1);
    const spans = await collector.collected(6);
    const [request] = named(spans, 'POST /v1/responses');
    const [turn] = named(spans, 'turn');
    const [call] = named(spans, 'chat gpt-5');
    expect(new Set(spans.map(({ traceId }) => traceId))).toEqual(new Set([TRACE]));
    expect(request).toMatchObject({
      kind: 'server',
      parentSpanId: CLIENT_SPAN,
      failed: false,
      attributes: {
        'http.request.method': 'POST',
        'http.route': '/v1/responses',
        'http.response.status_code': 200,
        'holdfast.request.id': headers['x-request-id'],
        'holdfast.worker.id': at.bridge.workerId,
      },
    });
    expect(request!.resource).toMatchObject({ 'service.name': 'holdfast' });
    expect(turn).toMatchObject({
      parentSpanId: request!.spanId,
      attributes: {
        'holdfast.outcome': 'created',
        'holdfast.form': 'full',
        'holdfast.terminal': 'completed',
        'holdfast.session.id': headers['x-holdfast-session'],
        'holdfast.own_ms': expect.any(Number),
        'gen_ai.request.model': 'gpt-5',
      },
    });
    expect(call).toMatchObject({
      kind: 'client',
      parentSpanId: turn!.spanId,
      attributes: {
        'gen_ai.operation.name': 'chat',
        'gen_ai.provider.name': 'openai',
        'gen_ai.request.model': 'gpt-5',
        'gen_ai.conversation.id': headers['x-holdfast-session'],
        'gen_ai.response.id': expect.stringMatching(/^resp_/),
        'gen_ai.usage.input_tokens': expect.any(Number),
        'gen_ai.usage.output_tokens': expect.any(Number),
        'server.address': '127.0.0.1',
      },
      events: [{ name: 'first event' }],
    });
    const parts = childrenOf(spans, turn!);
    expect(parts.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['place', 'commit start', 'chat gpt-5', 'commit settle']),
    );
    for (const part of parts) {
      expect(part.startNs).toBeGreaterThanOrEqual(turn!.startNs);
      expect(part.endNs).toBeGreaterThanOrEqual(part.startNs);
      expect(part.endNs).toBeLessThanOrEqual(turn!.endNs);
    }
    // The client's own header goes on as before; the place of Holdfast in the trace does not.
    expect(at.simulator.journal.of('upgrade')[0]!.headers).toMatchObject({ traceparent, tracestate: 'vendor=1' });
    const sent = Buffer.concat(collector.requests.map(({ body }) => body)).toString('utf8');
    expect(sent).not.toMatch(/secret question|sk-test/);
    expect(turnLines()).toMatchObject([{ trace_id: TRACE, span_id: turn!.spanId }]);
  });

  it('A turn that another worker serves is one trace over both workers', async () => {
    const owner = await start();
    const other = await start({ beside: owner });
    const first = await say(owner);
    await collector.collected(6);
    const second = await say(other, { previous_response_id: first.body.id, input: 'more' }, { traceparent });
    expect(second.headers['x-holdfast-outcome']).toBe('live_reuse');
    const ofTrace = () => collector.spans.filter(({ traceId }) => traceId === TRACE);
    await until(() => named(ofTrace(), 'turn').length === 2 && named(ofTrace(), 'POST /v1/responses').length === 1);
    await until(() => named(ofTrace(), 'forwarded request').length === 1);
    const spans = ofTrace();
    const [request] = named(spans, 'POST /v1/responses');
    const [outer] = childrenOf(spans, request!);
    const [forward] = named(childrenOf(spans, outer!), 'forward');
    const [entry] = childrenOf(spans, forward!);
    const [inner] = childrenOf(spans, entry!);
    expect([request!.parentSpanId, outer!.name, entry!.name, inner!.name]).toEqual([
      CLIENT_SPAN,
      'turn',
      'forwarded request',
      'turn',
    ]);
    expect([forward!.kind, entry!.kind]).toEqual(['client', 'server']);
    expect(outer!.attributes).toMatchObject({
      'holdfast.outcome': 'forwarded',
      'holdfast.worker.id': other.bridge.workerId,
    });
    expect(inner!.attributes).toMatchObject({
      'holdfast.outcome': 'live_reuse',
      'holdfast.form': 'delta',
      'holdfast.worker.id': owner.bridge.workerId,
      'holdfast.request.id': request!.attributes['holdfast.request.id'],
    });
    expect(childrenOf(spans, inner!).map(({ name }) => name)).toContain('chat gpt-5');
    expect(turnLines().filter(({ trace_id: id }) => id === TRACE)).toHaveLength(2);
  });

  it('Each turn of a WebSocket belongs to the trace that its own message names', async () => {
    const at = await start();
    const socket = new WebSocket(`${at.url.replace('http', 'ws')}/v1/responses`, {
      headers: { authorization: 'Bearer sk-test' },
    });
    await new Promise((opened) => socket.once('open', opened));
    for (const trace of ['a'.repeat(32), 'b'.repeat(32)]) {
      const ended = new Promise<void>((end) =>
        socket.on('message', (text) => {
          if (JSON.parse(String(text)).type === 'response.completed') end();
        }),
      );
      const metadata = { ws_request_header_traceparent: `00-${trace}-${CLIENT_SPAN}-01` };
      socket.send(JSON.stringify({ type: 'response.create', model: 'm', input: trace, client_metadata: metadata }));
      await ended;
      await until(() => named(collector.spans, 'response.create').some(({ traceId }) => traceId === trace));
      const [entry] = named(collector.spans, 'response.create').filter(({ traceId }) => traceId === trace);
      expect(entry).toMatchObject({ kind: 'server', parentSpanId: CLIENT_SPAN });
      expect(childrenOf(collector.spans, entry!)).toMatchObject([{ name: 'turn' }]);
      socket.removeAllListeners('message');
    }
    socket.close();
  });

  it('A failed turn and a refused request are marked, with the code of the error', async () => {
    const at = await start();
    at.simulator.script.onTurn({}, { kind: 'failed', code: 'server_error' }, { times: 1 });
    await say(at);
    await post(at.url, '{"model":');
    await until(() => named(collector.spans, 'POST /v1/responses').length === 2);
    expect(named(collector.spans, 'turn')).toMatchObject([
      { failed: true, attributes: { 'holdfast.terminal': 'failed' } },
    ]);
    const refused = collector.spans.find(({ attributes }) => attributes['http.response.status_code'] === 400);
    expect(refused).toMatchObject({ failed: false, attributes: { 'error.type': 'bridge_invalid_json' } });
  });

  it('A client that is not sampled has no spans, and its log line has the trace that it named', async () => {
    const at = await start();
    await say(at, {}, { traceparent: `00-${TRACE}-${CLIENT_SPAN}-00` });
    await say(at, {}, { traceparent: '00-nonsense' });
    await until(() => named(collector.spans, 'POST /v1/responses').length === 1);
    expect(collector.spans.filter(({ traceId }) => traceId === TRACE)).toEqual([]);
    expect(turnLines()[0]).toMatchObject({ trace_id: TRACE });
  });

  it('Where the application has registered a tracer provider, it gets the spans, below its own, and nothing is exported', async () => {
    const exporter = new InMemorySpanExporter();
    const provider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] });
    trace.setGlobalTracerProvider(provider);
    try {
      const at = await start();
      await say(at, {}, { traceparent });
      await until(() => exporter.getFinishedSpans().some(({ name }) => name === 'POST /v1/responses'));
      const spans = exporter.getFinishedSpans();
      expect(spans.map(({ name }) => name)).toEqual(
        expect.arrayContaining(['turn', 'chat gpt-5', 'POST /v1/responses']),
      );
      expect(spans.every((span) => span.spanContext().traceId === TRACE)).toBe(true);
      await at.close();
      open = [];
      expect(collector.requests).toEqual([]);
    } finally {
      trace.disable();
      await provider.shutdown();
    }
  });
});

describe('metrics', () => {
  it('The exported metrics are those of /metrics: names, labels, values, buckets', async () => {
    const at = await start();
    vi.stubEnv('OTEL_METRIC_EXPORT_INTERVAL', '100');
    const measured = await start({ beside: at });
    const first = await say(measured);
    await say(measured, { previous_response_id: first.body.id, input: 'more' });
    const turns = () =>
      collector.metrics.get('holdfast_turns_total')?.points.reduce((sum, { value }) => sum + value!, 0);
    await until(() => turns() === 2);
    const page = await (await fetch(`${measured.url}/metrics`)).text();
    const help = new Set([...page.matchAll(/^# TYPE (\S+) /gm)].map(([, name]) => name!));
    const exported = [...collector.metrics.keys()];
    expect(exported.length).toBeGreaterThan(40);
    expect(exported.filter((name) => !help.has(name))).toEqual([]);
    for (const name of ['holdfast_turns_total', 'holdfast_turns_sent_total', 'holdfast_tokens_total']) {
      const metric = collector.metrics.get(name)!;
      expect(metric).toMatchObject({ kind: 'sum', monotonic: true });
      const lines = metric.points.map(({ labels, value }) => {
        const text = Object.entries(labels).map(([label, of]) => `${label}="${of}"`);
        return `${name}{${text.join(',')}} ${value}`;
      });
      for (const line of lines) expect(page.split('\n')).toContain(line);
    }
    const { points, kind, unit } = collector.metrics.get('holdfast_turn_total_milliseconds')!;
    expect([kind, unit, points.length]).toEqual(['histogram', 'ms', 1]);
    const { count, boundaries, counts } = points[0]!.histogram!;
    expect([count, counts.reduce((a, b) => a + b), counts.length]).toEqual([2, 2, boundaries.length + 1]);
    expect(collector.metrics.get('holdfast_sessions')).toMatchObject({ kind: 'gauge' });
  });
});

describe('the collector', () => {
  it('A collector that is down changes no turn, is reported once, and does not hold up the end', async () => {
    await collector.close();
    vi.stubEnv('OTEL_EXPORTER_OTLP_TIMEOUT', '50');
    const at = await start();
    const reported = () => lines.filter(({ msg }) => msg === 'the collector of OpenTelemetry takes no exports');
    for (const input of ['one', 'two', 'three']) {
      expect((await say(at, { input })).body.status).toBe('completed');
      await until(() => reported().length === 1);
    }
    await at.close();
    open = [];
    expect(reported().map(({ signal }) => signal)).toEqual(['traces', 'metrics']);
    collector = await startCollector();
  });

  it('A collector that refuses is reported once, and once more when it takes exports again', async () => {
    collector.answer(400);
    const at = await start();
    const about = () => lines.filter(({ signal }) => signal === 'traces').map(({ level, msg }) => [level, msg]);
    await say(at);
    await until(() => about().length === 1);
    await say(at);
    await until(() => collector.requests.filter(({ path }) => path === '/v1/traces').length > 1);
    collector.answer(200);
    await say(at);
    await until(() => about().length === 2);
    expect(about()).toEqual([
      [40, 'the collector of OpenTelemetry takes no exports'],
      [30, 'the collector of OpenTelemetry takes exports again'],
    ]);
  });
});

describe('what turns it on', () => {
  it('HOLDFAST_OTEL=off and OTEL_SDK_DISABLED export nothing', async () => {
    const off = await start({ env: { HOLDFAST_OTEL: 'off' } });
    await say(off, {}, { traceparent });
    vi.stubEnv('OTEL_SDK_DISABLED', 'true');
    const disabled = await start({ beside: off, env: { HOLDFAST_OTEL: 'on' } });
    await say(disabled);
    for (const bridge of open.splice(0)) await bridge.close();
    expect(collector.requests).toEqual([]);
    expect(turnLines().map((line) => 'trace_id' in line)).toEqual([false, false]);
  });

  it.each([
    ['OTEL_EXPORTER_OTLP_PROTOCOL', 'grpc', 'OTEL_EXPORTER_OTLP_PROTOCOL must be http/protobuf or http/json'],
    ['OTEL_TRACES_EXPORTER', 'zipkin', 'OTEL_TRACES_EXPORTER must be otlp or none'],
    ['OTEL_TRACES_SAMPLER', 'some', 'OTEL_TRACES_SAMPLER must be always_on, always_off or traceidratio, or one'],
  ])(
    '%s=%s is refused where it is asked for, and logged where only the environment asks',
    async (name, value, says) => {
      vi.stubEnv(name, value);
      await expect(createBridge({ otel: 'on', database: { dataDir: '/nonexistent' } })).rejects.toThrow(says);
      await start();
      expect(lines[0]).toMatchObject({ level: 40, msg: expect.stringContaining(says) });
      expect(collector.requests).toEqual([]);
    },
  );
});
