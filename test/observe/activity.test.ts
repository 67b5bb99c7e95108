import { expect, it } from 'vitest';
import {
  addSlot,
  bucketOf,
  countTurn,
  createActivity,
  emptySlot,
  quantileOf,
  type SparseHistogram,
} from '../../src/observe/activity.ts';
import type { TurnLine } from '../../src/session/turn.ts';
import { createManualClock } from '../../src/testing/index.ts';

const turn = (over: Partial<TurnLine> = {}) =>
  ({
    ...{ outcome: 'live_reuse', form: 'delta', terminal: 'completed', fault: null, upstreamStatus: null },
    ...{ firstEventMs: 300, ownMs: 2, bytesFromClient: 10_000, bytesSent: 400, model: 'gpt-5.5' },
    tokens: { input_tokens: 1_000, input_tokens_details: { cached_tokens: 900 }, output_tokens: 50 },
    ...over,
  }) as TurnLine;

it('A quantile of a histogram is within a tenth of the exact one', () => {
  const values = Array.from({ length: 1_000 }, (_, at) => 0.4 * 1.011 ** at);
  const histogram: SparseHistogram = {};
  for (const value of values) histogram[bucketOf(value)] = (histogram[bucketOf(value)] ?? 0) + 1;
  for (const share of [0.01, 0.5, 0.9, 0.99, 1]) {
    const exact = values[Math.ceil(share * 1_000) - 1]!;
    expect(Math.abs(quantileOf(histogram, share)! / exact - 1)).toBeLessThan(0.1);
  }
  expect(quantileOf({}, 0.5)).toBe(null);
  expect(quantileOf({ [bucketOf(Number.MAX_VALUE)]: 1 }, 0.5)).toBeGreaterThan(1_000_000);
});

it('Steps of several workers are added; of several steps of one worker the largest gauge counts', () => {
  const [a, b] = [emptySlot(0), emptySlot(0)];
  countTurn(a, turn(), new Map());
  countTurn(b, turn({ terminal: 'failed', fault: 'bridge_queue_full', form: null }), new Map());
  Object.assign(a, { sockets: 3 });
  Object.assign(b, { sockets: 2 });
  const [sum, max] = [emptySlot(0), emptySlot(0)];
  for (const each of [a, b]) {
    addSlot(sum, each, 'sum');
    addSlot(max, each, 'max');
  }
  expect(sum).toMatchObject({
    ...{ outcomes: { live_reuse: 2 }, ends: { completed: 1, failed: 1 }, failures: { bridge_queue_full: 1 } },
    ...{ sent: 1, deltas: 1, clientBytes: 10_000, sentBytes: 400, inputTokens: 2_000, cachedTokens: 1_800, sockets: 5 },
  });
  expect([max.sockets, a.sockets]).toEqual([3, 3]);
});

it('Cached tokens are priced by model, and a model without a price saves nothing', () => {
  const slot = emptySlot(0);
  const prices = new Map([['gpt-5.5', { input: 1.25, cached: 0.125 }]]);
  countTurn(slot, turn(), prices);
  countTurn(slot, turn({ model: 'other' }), prices);
  expect(slot.saved).toBeCloseTo((900 * 1.125) / 1e6, 12);
  countTurn(slot, turn({ model: 'other' }), new Map([['*', { input: 2, cached: 1 }]]));
  expect(slot.saved).toBeCloseTo((900 * 1.125 + 900) / 1e6, 12);
});

it('A worker keeps a bounded record of a day, in steps that end with the window asked for', () => {
  const clock = createManualClock();
  const activity = createActivity({ workerId: () => 'w', clock, prices: new Map() });
  activity.watch(() => ({ sockets: 4, queued: 1, inFlight: 2, connections: 3 }));
  for (let minute = 0; minute < 2_000; minute += 1) {
    activity.turnEnded(turn());
    activity.storeCalled(1);
    clock.advance(60_000);
  }
  const of = (window: '15m' | '1h' | '24h') => {
    const { slots } = activity.read(window);
    return { steps: slots.length, turns: slots.reduce((sum, { outcomes }) => sum + (outcomes.live_reuse ?? 0), 0) };
  };
  expect(of('15m').turns).toBeGreaterThanOrEqual(14);
  expect(of('15m').turns).toBeLessThanOrEqual(16);
  expect(of('1h')).toEqual({ steps: expect.any(Number), turns: expect.any(Number) });
  expect(Math.abs(of('1h').turns - 60)).toBeLessThanOrEqual(1);
  expect(Math.abs(of('24h').turns - 1_440)).toBeLessThanOrEqual(15);
  expect(of('24h').steps).toBeLessThanOrEqual(97);
  expect(activity.read('15m')).toMatchObject({
    ids: ['w'],
    load: { sockets: 4, queued: 1, inFlight: 2, connections: 3 },
  });
  activity.stop();
});
