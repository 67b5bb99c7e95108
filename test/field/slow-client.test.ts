import { expect, it } from 'vitest';
import { SessionSocket } from '../../src/session/core.ts';
import type { ClientSink } from '../../src/session/port.ts';
import { TurnStream } from '../../src/session/turn.ts';
import { createManualClock } from '../../src/testing/index.ts';
import type { UpstreamConnection, UpstreamTransport } from '../../src/upstream/port.ts';

it('The upstream is read, so that its pings are answered, until the client is a whole buffer behind', () => {
  let keepsUp = false;
  let drained = () => {};
  const sink = {
    attached: true,
    shown: true,
    event: () => keepsUp,
    onDrain: (listener: () => void) => {
      drained = listener;
    },
    onGone: () => {},
    onDelivered: () => {},
  } as unknown as ClientSink;
  const pressure: boolean[] = [];
  const stream = new TurnStream(sink, { bufferBytes: 1_000, onPressure: (paused) => pressure.push(paused) });
  const push = () => stream.push('response.output_text.delta', 'x'.repeat(100), false);
  for (let n = 0; n < 10; n += 1) push();
  expect(pressure).toEqual([]);
  push();
  expect(pressure).toEqual([true]);
  drained();
  expect(pressure).toEqual([true, false]);
  keepsUp = true;
  push();
  keepsUp = false;
  for (let n = 0; n < 10; n += 1) push();
  expect(pressure).toEqual([true, false]);
});

it('A client that keeps its upstream unread for 15 s is disconnected before the upstream times out', async () => {
  const clock = createManualClock();
  const log: string[] = [];
  const connection = {
    kind: 'websocket',
    open: true,
    attach: () => {},
    pause: () => void log.push('pause'),
    resume: () => void log.push('resume'),
    send: () => true,
    close: () => {},
  } as unknown as UpstreamConnection;
  const dialed = { kind: 'open', connection, headers: {} };
  const socket = new SessionSocket({ dial: async () => dialed } as unknown as UpstreamTransport, clock, {
    onFrame: () => {},
    onLost: () => {},
    onRefused: () => {},
    onStuck: () => void log.push('stuck'),
    takesAnchors: () => true,
  });
  await socket.dial(1, 'websocket', { target: { id: 't', baseUrl: 'http://h' }, headers: {}, timeoutMs: 1 }, () => {});
  const turn = {};
  socket.send('{}', turn);
  socket.pause(turn, true);
  clock.advance(14_999);
  socket.pause(turn, true);
  expect(log).not.toContain('stuck');
  clock.advance(1);
  expect(log).toContain('stuck');
  log.length = 0;
  socket.pause(turn, false);
  socket.pause(turn, true);
  clock.advance(10_000);
  socket.pause(turn, false);
  clock.advance(60_000);
  socket.pause(turn, true);
  socket.close();
  clock.advance(60_000);
  expect(log).not.toContain('stuck');
});
