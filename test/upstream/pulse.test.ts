import { expect, it } from 'vitest';
import { createManualClock } from '../../src/testing/index.ts';
import { createPulse } from '../../src/upstream/websocket.ts';

/** Creates a peer that answers every ping, or none. */
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
  const clock = createManualClock();
  const pulse = createPulse({
    clock,
    times,
    bytesRead: () => bytes,
    reading: () => at.reading,
    ping() {
      at.pings += 1;
      if (at.kind !== 'answers') return;
      clock.after(20, () => {
        at.receive();
        pulse.pong();
      });
    },
    dead: () => void (deadAt = clock.now()),
  });
  return { at, pulse, pass: clock.advance };
}

it('A peer that answers pings is kept alive, idle and in silent turns, at a low rate of pings', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(600_000);
  expect(at.deadAt).toBeNull();
  expect(at.pings).toBeGreaterThan(10);
  expect(at.pings).toBeLessThan(30);
});

it('A peer that is gone is detected within one pong timeout after a later frame, before the turn showed anything', () => {
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

it('A peer that died right after its first answer is detected too: the first ping goes ahead of the first frame', () => {
  const { at, pulse, pass } = peer('answers');
  expect(at.pings).toBe(1);
  at.kind = 'gone';
  pulse.sent(10);
  at.receive();
  pass(1_000);
  pulse.sent(10);
  pass(6_000);
  expect(at.deadAt).not.toBeNull();
});

it('A large frame extends the timeout by the time of its upload', () => {
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

it('In later silence a peer is dead only after three unanswered pings in a row', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(8_000);
  at.kind = 'gone';
  pass(25_000 + 2 * 5_000);
  expect(at.deadAt).toBeNull();
  pass(6_000);
  expect(at.deadAt).not.toBeNull();
});

it('Any received data counts as a sign of life, even if pings are no longer answered', () => {
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

it('A peer that has never answered a ping is not judged', () => {
  const { at, pulse, pass } = peer('gone');
  pulse.sent(10);
  pass(10_000);
  at.receive();
  pulse.sent(10);
  pass(600_000);
  expect(at.deadAt).toBeNull();
});

it('A peer is not judged while this side does not read', () => {
  const { at, pulse, pass } = peer('answers');
  pulse.sent(10);
  pass(2_000);
  at.kind = 'gone';
  at.reading = false;
  pulse.sent(10);
  pass(600_000);
  expect(at.deadAt).toBeNull();
});

it('Data sent while this side did not read can still be read before the peer is judged', () => {
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

it('Pings are off with 0, and stop after stop()', () => {
  const off = peer('gone', { pingMs: 0, pongMs: 5_000 });
  off.pulse.sent(10);
  off.pass(600_000);
  expect(off.at.pings).toBe(0);
  const stopped = peer('answers');
  stopped.pulse.stop();
  stopped.pulse.sent(10);
  stopped.pass(600_000);
  expect(stopped.at.pings).toBe(1);
});
