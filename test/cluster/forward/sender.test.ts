import type { Dispatcher } from 'undici';
import { describe, expect, it } from 'vitest';
import { afterPendingIo, encodeMessage, type ForwardMessage } from '../../../src/cluster/forward/protocol.ts';
import { runExchange } from '../../../src/cluster/forward/sender.ts';
import { createManualClock } from '../../../src/testing/manual-clock.ts';
import { fakeClient, patience } from './support.ts';

const pendingIo = () => new Promise<void>(afterPendingIo);

/** One hop whose connection the test controls. */
function start(...standing: Parameters<typeof patience>) {
  const asked = patience(...standing);
  const wanted = new AbortController();
  const clock = createManualClock();
  const client = fakeClient();
  let handler!: Dispatcher.DispatchHandler;
  const done: string[] = [];
  let taken = 0;
  const controller = {
    pause: () => void done.push('pause'),
    resume: () => void done.push('resume'),
    abort: () => void done.push('abort'),
  } as unknown as Dispatcher.DispatchController;
  const dispatcher = {
    dispatch(_options: unknown, given: Dispatcher.DispatchHandler) {
      handler = given;
      return true;
    },
  } as unknown as Dispatcher;
  const result = runExchange({
    dispatcher,
    origin: 'http://peer',
    headers: {},
    body: Buffer.from('{}'),
    sink: client,
    clock,
    deadlines: { forwardConnect: 150, forwardAccepted: 500, forwardSilence: 10_000, ownerPoll: 1_000 },
    patience: asked,
    signal: wanted.signal,
    maxLineBytes: 1_000_000,
    onAccepted: () => void (taken += 1),
    debug: () => {},
  });
  return {
    clock,
    client,
    asked,
    unwanted: () => wanted.abort(),
    done,
    result,
    taken: () => taken,
    connected: () => handler.onRequestStart!(controller, {}),
    failed: (code: string) => handler.onResponseError!(controller, Object.assign(new Error(code), { code })),
    answered: (status: number, headers = {}) => handler.onResponseStart!(controller, status, headers),
    ended: () => handler.onResponseEnd!(controller, {}),
    bytes: (text: string) => handler.onResponseData!(controller, Buffer.from(text)),
    lines: (...lines: ForwardMessage[]) =>
      handler.onResponseData!(controller, Buffer.from(lines.map(encodeMessage).join(''))),
  };
}

describe('a hop that was not accepted yet', () => {
  it('A hop waits while its peer is slow, and sends not a byte once the peer is known to be dead', async () => {
    const hop = start('slow', 'slow', 'dead');
    for (const ms of [150, 1_000]) {
      hop.clock.advance(ms);
      await pendingIo();
      expect(hop.done).toEqual([]);
    }
    hop.clock.advance(1_000);
    expect(await hop.result).toEqual({ kind: 'unreachable', sent: false, again: false });
    hop.connected();
    expect(hop.done).toEqual(['abort']);
    expect(hop.asked.asked).toEqual(['slow', 'slow', 'dead']);
  });

  it('A hop whose connection is refused has certainly not begun', async () => {
    const hop = start();
    hop.failed('ECONNREFUSED');
    expect(await hop.result).toEqual({ kind: 'unreachable', sent: false, again: false });
    const lost = start();
    lost.failed('UND_ERR_CONNECT_TIMEOUT');
    expect(await lost.result).toEqual({ kind: 'unreachable', sent: false, again: true });
  });

  it('A connection closed before any answer counts against the peer, and a timeout, a refusal or a cut answer does not', async () => {
    const dropped = start();
    dropped.connected();
    dropped.failed('UND_ERR_SOCKET');
    expect(await dropped.result).toEqual({ kind: 'unreachable', sent: true, again: true });
    const late = start();
    late.failed('UND_ERR_CONNECT_TIMEOUT');
    const answered = start();
    answered.connected();
    answered.answered(200);
    answered.failed('UND_ERR_SOCKET');
    const accepted = start();
    accepted.connected();
    accepted.lines({ t: 'accepted' });
    accepted.failed('UND_ERR_SOCKET');
    await Promise.all([late.result, answered.result, accepted.result]);
    expect([dropped, late, answered, accepted].map(({ asked }) => asked.droppedCount)).toEqual([1, 0, 0, 0]);
  });

  it('A hop without an answer from an unreachable peer may have begun', async () => {
    const hop = start('slow', 'unreachable');
    hop.connected();
    hop.clock.advance(501);
    await pendingIo();
    expect(hop.done).toEqual([]);
    hop.clock.advance(1_000);
    expect(await hop.result).toEqual({ kind: 'unreachable', sent: true, again: false });
    expect(hop.done).toEqual(['abort']);
  });

  it('A hop ends at once when its answer is no longer needed', async () => {
    const hop = start();
    hop.connected();
    hop.unwanted();
    expect(await hop.result).toEqual({ kind: 'client_gone' });
    expect(hop.done).toEqual(['abort']);
  });

  it('A hop whose answer has arrived unread does not time out', async () => {
    const hop = start();
    hop.connected();
    // Simulates a stalled process: the deadline expires before pending input is read.
    hop.clock.advance(5_000);
    setImmediate(() => hop.lines({ t: 'accepted' }));
    await pendingIo();
    hop.lines({ t: 'end', type: 'response.completed', json: '{}' });
    expect(await hop.result).toEqual({ kind: 'served', terminal: 'completed', event: expect.any(String) });
  });

  it('A hop refused by its receiver has certainly not begun; after any other status it may have begun', async () => {
    const refused = start();
    refused.connected();
    refused.answered(403, { 'x-holdfast-internal-refused': 'wrong_target' });
    expect(await refused.result).toEqual({ kind: 'unreachable', sent: false, again: false });
    const late = start();
    late.connected();
    late.answered(403, { 'x-holdfast-internal-refused': 'expired' });
    expect(await late.result).toEqual({ kind: 'unreachable', sent: false, again: true });
    const stranger = start();
    stranger.connected();
    stranger.answered(502);
    expect(await stranger.result).toEqual({ kind: 'unreachable', sent: true, again: true });
  });

  it('A stream that does not begin with `accepted` is not taken as an answer', async () => {
    const hop = start();
    hop.connected();
    hop.answered(200);
    hop.bytes('<html>hello</html>\n');
    expect(await hop.result).toEqual({ kind: 'unreachable', sent: true, again: true });
    const eager = start();
    eager.connected();
    eager.lines({ t: 'end', type: 'response.completed', json: '{}' });
    expect(await eager.result).toEqual({ kind: 'unreachable', sent: true, again: true });
    expect(eager.client.calls).toEqual([]);
    expect([hop.taken(), eager.taken()]).toEqual([0, 0]);
  });
});

describe('a hop that was accepted', () => {
  const accepted = (...standing: Parameters<typeof start>) => {
    const hop = start(...standing);
    hop.connected();
    hop.lines({ t: 'accepted' });
    return hop;
  };

  it('Acceptance is reported before anything else, and once', async () => {
    const hop = start();
    hop.connected();
    expect(hop.taken()).toBe(0);
    hop.lines({ t: 'accepted' });
    expect([hop.taken(), hop.client.calls.length]).toEqual([1, 0]);
    hop.lines({ t: 'open' }, { t: 'end', type: 'response.completed', json: '{}' });
    expect(await hop.result).toEqual({ kind: 'served', terminal: 'completed', event: expect.any(String) });
    expect(hop.taken()).toBe(1);
  });

  it('A silent hop has its peer’s lease checked, is kept while the peer is slow, and is broken once it is dead', async () => {
    const hop = accepted('slow', 'slow', 'dead');
    for (let i = 0; i < 5; i += 1) {
      hop.clock.advance(9_999);
      hop.lines({ t: 'ping' });
      await pendingIo();
    }
    hop.clock.advance(9_999);
    await pendingIo();
    expect(hop.asked.asked).toEqual([]);
    for (const ms of [1, 1_000]) {
      hop.clock.advance(ms);
      await pendingIo();
      expect(hop.done).toEqual([]);
    }
    hop.clock.advance(1_000);
    expect(await hop.result).toEqual({ kind: 'broken', again: false });
    expect(hop.done).toEqual(['abort']);
    expect(hop.asked.heardCount).toBeGreaterThan(5);
  });

  it('A hop that received data while its peer’s lease was being checked stays under supervision', async () => {
    const hop = accepted('dead');
    const { ask } = hop.asked;
    hop.asked.ask = async () => {
      const answer = await ask();
      if (hop.asked.asked.length === 1) hop.lines({ t: 'ping' });
      return answer;
    };
    hop.clock.advance(10_000);
    await pendingIo();
    expect(hop.done).toEqual([]);
    hop.clock.advance(10_000);
    expect(await hop.result).toEqual({ kind: 'broken', again: false });
  });

  it('A stall of this process does not break a hop', async () => {
    const hop = accepted();
    hop.clock.advance(60_000);
    setImmediate(() => hop.lines({ t: 'ping' }));
    await pendingIo();
    hop.lines({ t: 'end', type: 'response.completed', json: '{}' });
    expect(await hop.result).toEqual({ kind: 'served', terminal: 'completed', event: expect.any(String) });
  });

  it('A hop whose answer ends, is cut or becomes invalid before its last line is broken', async () => {
    const ends: ((hop: ReturnType<typeof start>) => void)[] = [
      (hop) => hop.ended(),
      (hop) => hop.failed('ECONNRESET'),
      (hop) => hop.bytes('noise\n'),
      (hop) => hop.bytes('{"t":"head","outcome":"a\\r\\nset-cookie: x","sessionId":null,"token":null}\n'),
      (hop) => hop.bytes('x'.repeat(1_000_001)),
    ];
    for (const end of ends) {
      const hop = accepted();
      end(hop);
      expect(await hop.result).toEqual({ kind: 'broken', again: true });
      expect(hop.client.calls).toEqual([]);
    }
  });

  it('Line types that only a newer release sends are skipped', async () => {
    const hop = accepted();
    hop.bytes('{"t":"weather","is":"fine"}\n');
    hop.lines({ t: 'end', type: 'response.completed', json: '{}' });
    expect(await hop.result).toEqual({ kind: 'served', terminal: 'completed', event: expect.any(String) });
  });

  it('A hop is not read while the client does not read, and is not considered silent then', async () => {
    const hop = accepted();
    hop.client.stall();
    hop.lines({ t: 'event', type: 'response.output_text.delta', telemetry: false, json: '{}' });
    expect(hop.done).toEqual(['pause']);
    hop.clock.advance(600_000);
    await pendingIo();
    hop.client.drain();
    expect(hop.done).toEqual(['pause', 'resume']);
    hop.clock.advance(9_999);
    await pendingIo();
    hop.lines({ t: 'end', type: 'response.completed', json: '{}' });
    expect(await hop.result).toEqual({ kind: 'served', terminal: 'completed', event: expect.any(String) });
    hop.client.drain();
    expect(hop.done.filter((each) => each === 'abort')).toEqual([]);
  });

  it('A hop frees its connection when its last line arrives with the event that filled the client’s buffer', async () => {
    const hop = accepted();
    hop.client.stall();
    hop.lines(
      { t: 'event', type: 'response.output_text.delta', telemetry: false, json: '{}' },
      { t: 'end', type: 'response.completed', json: '{}' },
    );
    expect(await hop.result).toEqual({ kind: 'served', terminal: 'completed', event: expect.any(String) });
    expect(hop.done).toEqual(['pause', 'resume']);
  });

  it('A hop ends once when its client leaves', async () => {
    const hop = accepted();
    hop.client.leave();
    expect(await hop.result).toEqual({ kind: 'client_gone' });
    hop.lines({ t: 'end', type: 'response.completed', json: '{}' });
    hop.failed('ECONNRESET');
    expect(hop.client.calls).toEqual([]);
    expect(hop.done).toEqual(['abort']);
  });
});
