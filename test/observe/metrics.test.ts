import express from 'express';
import { AggregatorRegistry, Histogram, Registry } from 'prom-client';
import { afterEach, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { createApp } from '../../src/http/app.ts';
import { listen } from '../../src/http/server.ts';
import { createLogger } from '../../src/observe/log.ts';
import { catalogue, type Definition } from '../../src/observe/metrics/catalogue.ts';
import { createMetrics, type Metrics, tokensOf } from '../../src/observe/metrics/index.ts';
import { metricsPage } from '../../src/observe/metrics/merged.ts';
import type { TurnLine } from '../../src/session/turn.ts';
import { randomIds } from '../../src/system.ts';
import { createManualClock } from '../../src/testing/index.ts';

const clock = createManualClock();
const made: Metrics[] = [];
const fresh = () => {
  const metrics = createMetrics({ clock, defaults: false });
  made.push(metrics);
  return metrics;
};
afterEach(() => {
  for (const metrics of made.splice(0)) metrics.stop();
});

/** Returns the value of one series, parsed from the page as Prometheus does; null when there is none. */
async function value(metrics: Metrics, series: string): Promise<number | null> {
  const text = await metrics.registry.metrics();
  const line = text.split('\n').find((each) => each.startsWith(`${series} `));
  return line ? Number(line.slice(series.length + 1)) : null;
}

const line = (over: Partial<TurnLine> = {}): TurnLine => ({
  ...{ response: null, tenant: 'local', key: null, model: 'm', status: 200, ownMs: 3 },
  request: 'request-1',
  session: 'session-1',
  epoch: 2,
  turn: 'turn-1',
  transport: 'http',
  outcome: 'live_reuse',
  decidedBy: 'live_reuse',
  shape: 'full',
  form: 'delta',
  terminal: 'completed',
  fault: null,
  cause: null,
  upstreamStatus: null,
  upstreamRequest: null,
  heldMs: 4,
  firstEventMs: 120,
  totalMs: 900,
  itemsFromClient: 40,
  itemsSent: 1,
  bytesFromClient: 10_000,
  bytesSent: 400,
  tokens: {
    input_tokens: 1_000,
    input_tokens_details: { cached_tokens: 900 },
    output_tokens: 50,
    output_tokens_details: { reasoning_tokens: 20 },
  },
  tokenIgnored: null,
  ...over,
});

it('The metrics record everything in the log line of a turn', async () => {
  const metrics = fresh();
  metrics.turnEnded(line());
  const read = (series: string) => value(metrics, series);
  expect(await read('holdfast_turns_total{outcome="live_reuse",shape="full",terminal="completed"}')).toBe(1);
  expect(await read('holdfast_turns_sent_total{shape="full",form="delta"}')).toBe(1);
  expect(await read('holdfast_turn_held_milliseconds_bucket{le="5",shape="full"}')).toBe(1);
  expect(await read('holdfast_turn_first_event_milliseconds_sum{form="delta"}')).toBe(120);
  expect(await read('holdfast_turn_total_milliseconds_sum{terminal="completed"}')).toBe(900);
  expect(await read('holdfast_turn_client_bytes_total')).toBe(10_000);
  expect(await read('holdfast_turn_upstream_bytes_total')).toBe(400);
  expect(await read('holdfast_turn_saved_bytes_total')).toBe(9_600);
  expect(await read('holdfast_turn_items_total{side="client"}')).toBe(40);
  expect(await read('holdfast_turn_items_total{side="upstream"}')).toBe(1);
  expect(await read('holdfast_tokens_total{kind="input"}')).toBe(1_000);
  expect(await read('holdfast_tokens_total{kind="cached"}')).toBe(900);
  expect(await read('holdfast_tokens_total{kind="reasoning"}')).toBe(20);
});

it('A turn that was never sent counts neither savings nor times', async () => {
  const metrics = fresh();
  metrics.turnEnded(
    line({
      form: null,
      heldMs: null,
      firstEventMs: null,
      itemsSent: null,
      bytesSent: 0,
      tokens: null,
      terminal: 'failed',
      fault: 'bridge_upstream_unreachable',
      tokenIgnored: 'foreign',
    }),
  );
  expect(await value(metrics, 'holdfast_turn_saved_bytes_total')).toBe(0);
  expect(await value(metrics, 'holdfast_turn_held_milliseconds_count{shape="full"}')).toBeNull();
  expect(await value(metrics, 'holdfast_turns_sent_total{shape="full",form="none"}')).toBe(1);
  expect(await value(metrics, 'holdfast_turn_faults_total{fault="bridge_upstream_unreachable"}')).toBe(1);
  expect(await value(metrics, 'holdfast_turn_state_ignored_total{reason="foreign"}')).toBe(1);
});

it('A replay larger than its request does not count as a negative saving', async () => {
  const metrics = fresh();
  metrics.turnEnded(line({ form: 'full', bytesFromClient: 100, bytesSent: 5_000 }));
  metrics.turnEnded(line({ bytesFromClient: 1_000, bytesSent: 900 }));
  expect(await value(metrics, 'holdfast_turn_saved_bytes_total')).toBe(100);
});

it('An unforeseen label value never creates a series, and no id is shown', async () => {
  const metrics = fresh();
  for (let i = 0; i < 50; i += 1) {
    metrics.turnEnded(line({ outcome: `outcome-${i}`, fault: `fault-${i}`, tokenIgnored: `reason-${i}` }));
    metrics.storeAnswered(`call-${i}`, `verdict-${i}`, 1);
  }
  const text = await metrics.registry.metrics();
  expect(text).not.toMatch(/(outcome|fault|reason|call|verdict)-\d/);
  expect(text).not.toMatch(/session-1|turn-1|request-1/);
  expect(await value(metrics, 'holdfast_turns_total{outcome="other",shape="full",terminal="completed"}')).toBe(50);
});

it('A histogram is shown as the library shows its own', async () => {
  const metrics = fresh();
  const registry = new Registry();
  const name = 'holdfast_store_call_milliseconds';
  const { help, buckets } = catalogue[name] as Definition;
  const own = new Histogram({ name, help, buckets: [...buckets!], labelNames: ['call'], registers: [registry] });
  for (const ms of [0, 0.4, 0.5, 0.6, 3, 3, 9_999, 10_000, 10_001, 1e9]) {
    for (const call of ['start', 'read', 'lookup']) {
      metrics.storeAnswered(call, 'ok', ms);
      own.observe({ call }, ms);
    }
  }
  expect(await metrics.registry.getSingleMetricAsString(name)).toBe(await registry.getSingleMetricAsString(name));
  const merged = (from: Registry) => from.getMetricsAsJSON().then((all) => all.filter((each) => each.name === name));
  const pages = [await merged(metrics.registry), await merged(registry)].map((one) =>
    AggregatorRegistry.aggregate([one, one] as never).metrics(),
  );
  expect(await pages[0]).toBe(await pages[1]);
});

it('Gauges are read at scrape time, with every state of a session', async () => {
  const metrics = fresh();
  const states = ['live.idle', 'live.streaming', 'stale'];
  metrics.watch({ sockets: () => 2, sessions: () => states, queued: () => 3, turnBufferBytes: () => 77 });
  expect(await value(metrics, 'holdfast_sessions{state="live"}')).toBe(2);
  expect(await value(metrics, 'holdfast_sessions{state="reconnecting"}')).toBe(0);
  states.length = 0;
  expect(await value(metrics, 'holdfast_sessions{state="live"}')).toBe(0);
  expect(await value(metrics, 'holdfast_upstream_sockets')).toBe(2);
  expect(await value(metrics, 'holdfast_queue_length')).toBe(3);
  expect(await value(metrics, 'holdfast_turn_buffer_bytes')).toBe(77);
});

it('A gauge source that throws does not break the page', async () => {
  const metrics = fresh();
  metrics.watch({
    sockets: () => 5,
    queued() {
      throw new Error('not now');
    },
  });
  expect(await value(metrics, 'holdfast_upstream_sockets')).toBe(5);
  expect(await value(metrics, 'holdfast_queue_length')).toBeNull();
});

it('The age of the lease is measured from before the heartbeat was sent', async () => {
  const metrics = fresh();
  expect(await value(metrics, 'holdfast_heartbeat_age_milliseconds')).toBeNull();
  metrics.heartbeatConfirmed(clock.now());
  clock.advance(4_200);
  expect(await value(metrics, 'holdfast_heartbeat_age_milliseconds')).toBe(4_200);
});

it('Usage of any shape is read without an error', () => {
  const none = { input: 0, cached: 0, output: 0, reasoning: 0 };
  for (const usage of [null, undefined, 'many', 7, [], { input_tokens: '12' }, { input_tokens: -3 }]) {
    expect(tokensOf(usage)).toEqual(none);
  }
  expect(tokensOf({ input_tokens: 5, input_tokens_details: null })).toEqual({ ...none, input: 5 });
});

it('Every metric has a help text, follows the naming rules and bounds its series', () => {
  for (const [name, definition] of Object.entries(catalogue) as [string, Definition][]) {
    expect(definition.help.endsWith('.'), name).toBe(true);
    expect(name.endsWith('_total'), name).toBe(definition.kind === 'counter');
    expect(
      (definition.buckets ?? [1]).every((bound, i, all) => i === 0 || bound > all[i - 1]!),
      name,
    ).toBe(true);
    const series = Object.values(definition.labels).reduce((product, { length }) => product * (length + 1), 1);
    expect(series * ((definition.buckets?.length ?? 0) + 1), name).toBeLessThan(500);
  }
});

it('The metrics page is served only to those whom the access rule allows', async () => {
  const metrics = fresh();
  const router = express.Router();
  router.get(
    '/metrics',
    metricsPage(metrics.registry, (req) => {
      if (req.headers.authorization !== 'Bearer admin') throw new BridgeError('bridge_unauthorized');
    }),
  );
  const app = createApp(router, { ids: randomIds, logger: createLogger('silent') });
  const { url, close } = await listen(app, { host: '127.0.0.1', port: 0 });
  try {
    const refused = await fetch(`${url}/metrics`);
    expect(refused.status).toBe(401);
    expect(await refused.text()).not.toContain('holdfast_turns_total');
    const allowed = await fetch(`${url}/metrics`, { headers: { authorization: 'Bearer admin' } });
    expect(allowed.headers.get('content-type')).toContain('text/plain; version=0.0.4');
    expect(allowed.headers.get('cache-control')).toBe('no-store');
    expect(await allowed.text()).toContain('# HELP holdfast_turns_total');
  } finally {
    await close(100);
  }
});
