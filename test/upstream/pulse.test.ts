import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createPulse } from '../../src/upstream/pulse.ts';

beforeEach(() => void vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'setImmediate', 'clearImmediate'] }));
afterEach(() => void vi.useRealTimers());

/** A peer that answers every ping, sends bytes only, or is gone. */
function peer(kind: 'answers' | 'gone', times = { pingMs: 25_000, pongMs: 5_000 }) {
  let bytes = 0;
  let deadAt: number | null = null;
  const at = {
    kind,
    reading: true,
    pings: 0,
    get deadAt() {
      return deadAt;
    },
    receive: () => void (bytes += 10),
  };
  let elapsed = 0;
  const pulse = createPulse({
    times,
    bytesRead: () => bytes,
    reading: () => at.reading,
    ping() {
      at.pings += 1;
      if (at.kind !== 'answers') return;
      at.receive();
      pulse.pong();
    },
    dead: () => void (deadAt = elapsed),
  });
  const pass = (ms: number) => {
    for (let left = ms; left > 0; left -= 500) {
      elapsed += 500;
      vi.advanceTimersByTime(500);
    }
  };
  return { at, pulse, pass };
}

it('a peer that answers lives on, idle and in silent turns, at one ping a while', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(600_000);
  expect(at.deadAt).toBeNull();
  expect(at.pings).toBeGreaterThan(10);
  expect(at.pings).toBeLessThan(30);
});

it('a peer that is gone is found out within one pong after a later frame, before the turn was shown', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(2_000);
  at.kind = 'gone';
  pulse.sent(10);
  pass(4_000);
  expect(at.deadAt).toBeNull();
  pass(2_000);
  expect(at.deadAt).not.toBeNull();
});

it('a large frame is given the time of its upload', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(2_000);
  at.kind = 'gone';
  pulse.sent(1_280_000);
  pass(20_000);
  expect(at.deadAt).toBeNull();
  pass(10_000);
  expect(at.deadAt).not.toBeNull();
});

it('in later silence three pings in a row must stay unanswered', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(8_000);
  at.kind = 'gone';
  pass(25_000 + 2 * 5_000);
  expect(at.deadAt).toBeNull();
  pass(6_000);
  expect(at.deadAt).not.toBeNull();
});

it('whatever is received counts as life, though no ping is ever answered again', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(2_000);
  at.kind = 'gone';
  pulse.sent(10);
  for (let n = 0; n < 100; n += 1) {
    at.receive();
    pass(4_000);
  }
  expect(at.deadAt).toBeNull();
});

it('a peer that has never answered a ping is not judged', () => {
  const { at, pulse, pass } = peer('gone');
  pulse.sent(10);
  pass(10_000);
  at.receive();
  pulse.sent(10);
  pass(600_000);
  expect(at.deadAt).toBeNull();
});

it('while nothing is read, silence says nothing', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(2_000);
  at.kind = 'gone';
  at.reading = false;
  pulse.sent(10);
  pass(600_000);
  expect(at.deadAt).toBeNull();
});

it('what was sent while nothing was read may still be read before the peer is judged', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(2_000);
  at.kind = 'gone';
  at.reading = false;
  pulse.sent(10);
  pass(4_500);
  at.reading = true;
  pulse.resumed();
  pass(4_500);
  expect(at.deadAt).toBeNull();
  at.receive();
  pass(4_500);
  expect(at.deadAt).toBeNull();
});

it('is off with 0, and over once stopped', () => {
  const off = peer('gone', { pingMs: 0, pongMs: 5_000 });
  off.pulse.sent(10);
  off.pass(600_000);
  expect(off.at.pings).toBe(0);
  const stopped = peer('answers');
  stopped.pulse.stop();
  stopped.pulse.sent(10);
  stopped.pass(600_000);
  expect(stopped.at.pings).toBe(0);
});
