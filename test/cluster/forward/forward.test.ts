import { connect } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { afterPendingIo } from '../../../src/cluster/forward/protocol.ts';
import { BridgeError } from '../../../src/errors.ts';
import { createManualClock } from '../../../src/testing/manual-clock.ts';
import { fakeClient, forDead, patient, startOwner, startSender, startTcp, TURN, turnRequest } from './support.ts';

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function pair(options: Parameters<typeof startOwner>[0] = {}) {
  const owner = await startOwner(options);
  const sender = startSender();
  closing.push(owner.close, sender.close);
  return { owner, sender, client: fakeClient() };
}

const until = (subscribe: (listener: () => void) => void) => new Promise<void>((done) => subscribe(done));

describe('a forwarded turn', () => {
  it('A forwarded turn arrives with its hop, and every call of the owner reaches the client in order', async () => {
    const { owner, sender, client } = await pair();
    const request = turnRequest();
    let accepted = 0;
    const result = sender.forwarder.forward(owner.peer, TURN, request, client, {
      ...patient(),
      onAccepted: () => void (accepted += 1),
    });
    const { hop, request: arrived, sink } = await owner.next();
    expect(sink.committed).toBe(false);
    expect(hop).toEqual({ ...TURN, target: 'worker-a', from: 'worker-b', requestId: 'req-1' });
    const { items, ...rest } = request;
    expect(arrived).toMatchObject({ ...rest, receivedAt: expect.any(Number) });
    expect(arrived.items.hashes).toEqual(items.hashes);
    expect(sink.attached).toBe(true);

    const head = { outcome: 'live_reuse', sessionId: 's1', token: 'aaa.bbb.ccc' } as const;
    sink.head(head);
    sink.open();
    expect(sink.shown).toBe(false);
    sink.event('codex.rate_limits', '{"type":"codex.rate_limits"}', true);
    expect(sink.shown).toBe(false);
    sink.event('response.created', '{ "text": "\\u0000 \ud800 é\u2028\\n" }', false);
    expect(sink.shown).toBe(true);
    const delivered = until(sink.onDelivered);
    sink.end('response.completed', '{"done":true}');
    sink.fail(new BridgeError('bridge_internal'));
    sink.notOwner();
    expect(sink.committed).toBe(true);
    expect(await result).toMatchObject({ kind: 'served' });
    expect(accepted).toBe(1);
    await delivered;
    expect(client.calls).toEqual([
      { call: 'head', head },
      { call: 'open' },
      { call: 'event', type: 'codex.rate_limits', json: '{"type":"codex.rate_limits"}', telemetry: true },
      { call: 'event', type: 'response.created', json: '{ "text": "\\u0000 \ud800 é\u2028\\n" }', telemetry: false },
      { call: 'end', type: 'response.completed', json: '{"done":true}' },
    ]);
  });

  it('A forwarded turn fails at the client with the owner’s own error', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    const error = new BridgeError('bridge_queue_full', { detail: 'Eight wait.', param: 'input', retryAfterSeconds: 7 });
    error.outcome = 'refused';
    (await owner.next()).sink.fail(error);
    expect(await result).toMatchObject({ kind: 'served' });
    const [call] = client.calls;
    expect(call?.call).toBe('fail');
    const { error: shown } = call as Extract<typeof call, { call: 'fail' }>;
    expect(shown).toBeInstanceOf(BridgeError);
    expect(shown.envelope()).toEqual(error.envelope());
    expect([shown.status, shown.retryAfterSeconds]).toEqual([429, 7]);
  });

  it('A forwarded turn relays the provider’s refusal byte for byte', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    const answer = { status: 429, headers: { 'retry-after': '3' }, body: Buffer.from([0, 255, 10, 13, 200]) };
    (await owner.next()).sink.relay(answer);
    expect(await result).toMatchObject({ kind: 'served' });
    expect(client.calls).toEqual([{ call: 'relay', answer }]);
  });

  it('A forwarded turn is returned by a worker that is not the owner, which counts as no delivery', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    const { sink } = await owner.next();
    let delivered = false;
    sink.onDelivered(() => (delivered = true));
    sink.notOwner();
    expect(await result).toEqual({ kind: 'not_owner' });
    expect(client.calls).toEqual([]);
    const second = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    (await owner.next()).sink.notOwner();
    await second;
    expect(delivered).toBe(false);
  });

  it('A forwarded turn without stream counts no event as shown', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest({ input: 'x' }), client, patient());
    const { sink } = await owner.next();
    sink.event('response.created', '{}', false);
    expect(sink.shown).toBe(false);
    sink.end('response.completed', '{}');
    expect(await result).toMatchObject({ kind: 'served' });
  });

  it('Consecutive forwarded turns reuse one connection', async () => {
    const { owner, sender } = await pair();
    const ports = new Set<number>();
    let read = () => {};
    const proxy = await startTcp((socket) => {
      ports.add(socket.remotePort!);
      const onward = connect(owner.server.port, '127.0.0.1');
      onward.on('data', (chunk) => chunk.toString().endsWith('0\r\n\r\n') && afterPendingIo(() => read()));
      socket.on('close', () => onward.destroy());
      onward.on('error', () => {});
      socket.pipe(onward).pipe(socket);
    });
    closing.push(proxy.close);
    for (let i = 0; i < 4; i += 1) {
      const result = sender.forwarder.forward(
        { ...owner.peer, url: proxy.url },
        TURN,
        turnRequest(),
        fakeClient(),
        patient(),
      );
      const { sink } = await owner.next();
      // The connection is free once the end of the answer was read, which is after its last line.
      const free = new Promise<void>((done) => (read = done));
      if (i % 2) sink.notOwner();
      else sink.end('response.completed', '{}');
      await result;
      await free;
      await new Promise<void>(afterPendingIo);
    }
    expect(ports.size).toBe(1);
  });

  it('A forwarded turn whose serving throws fails, and the log holds none of its content', async () => {
    const { owner, sender, client } = await pair({
      onServe() {
        throw new Error('out of order');
      },
    });
    expect(await sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient())).toMatchObject({
      kind: 'served',
    });
    const [call] = client.calls;
    expect(call?.call === 'fail' && call.error.code).toBe('bridge_internal');
    expect(owner.log.lines).toMatchObject([{ level: 'error', fields: { requestId: 'req-1' } }]);
  });

  it('A forwarded turn is cut when its owner stops and the grace period ends', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    (await owner.next()).sink.open();
    await client.called(1);
    await owner.server.close(0);
    expect(await result).toEqual({ kind: 'broken', again: true });
  });

  it('A forwarded turn is cut when its sender stays connected without reading', async () => {
    const clock = createManualClock(Date.now());
    const { owner, sender, client } = await pair({ clock });
    client.stall();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    const { sink } = await owner.next();
    const gone = until(sink.onGone);
    // More than the buffers between the two can hold.
    for (let i = 0; i < 30; i += 1) sink.event('delta', JSON.stringify('d'.repeat(1_000_000)), false);
    await client.called(1);
    clock.advance(69_999);
    expect(sink.attached).toBe(true);
    clock.advance(1);
    await gone;
    client.drain();
    expect(await result).toEqual({ kind: 'broken', again: true });
  });
});

describe('large bodies and events', () => {
  it('A forwarded turn carries a body of 32 MiB and an event of 16 MiB', async () => {
    const { owner, sender, client } = await pair();
    const input = 'x"é'.repeat(1_000_000) + 'x'.repeat(28_000_000);
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest({ stream: true, input }), client, patient());
    const { request, sink } = await owner.next();
    expect(request.text === JSON.stringify({ stream: true, input })).toBe(true);
    const json = JSON.stringify({ delta: '\n'.repeat(1_000_000) + 'x'.repeat(14_000_000) });
    sink.event('response.output_text.delta', json, false);
    sink.end('response.completed', '{}');
    expect(await result).toMatchObject({ kind: 'served' });
    const [event] = client.calls;
    expect(event?.call === 'event' && event.json === json).toBe(true);
  });

  it('A client that does not read holds back the owner, and nothing is lost', async () => {
    const { owner, sender, client } = await pair();
    client.stall();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    const { sink } = await owner.next();
    const json = JSON.stringify({ delta: 'd'.repeat(65_536) });
    const LAST = 400;
    let sent = 0;
    let full = 0;
    const write = () => {
      while (sent < LAST) {
        sent += 1;
        if (sink.event('delta', json, false)) continue;
        full += 1;
        return;
      }
      sink.end('response.completed', '{}');
    };
    sink.onDrain(write);
    write();
    await client.called(1);
    // Both sides pause once the buffers between them are full; the client's share of them stays small.
    for (let before = -1; before !== sent; ) {
      before = sent;
      await new Promise((done) => setTimeout(done, 50));
    }
    expect(sent).toBeLessThan(LAST);
    expect(client.calls.length).toBeLessThan(10);
    client.drain();
    expect(await result).toMatchObject({ kind: 'served' });
    expect(full).toBeGreaterThan(0);
    expect(client.calls.filter(({ call }) => call === 'event')).toHaveLength(LAST);
  });
});

describe('disconnects', () => {
  it('A client that leaves ends its hop at the owner', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    const { sink } = await owner.next();
    const gone = until(sink.onGone);
    client.leave();
    expect(await result).toEqual({ kind: 'client_gone' });
    await gone;
    expect(sink.attached).toBe(false);
    expect(sink.event('delta', '{}', false)).toBe(true);
    sink.end('response.completed', '{}');
  });

  it('A client that left before sends nothing to the owner', async () => {
    const { owner, sender, client } = await pair();
    client.leave();
    expect(await sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient())).toEqual({
      kind: 'client_gone',
    });
    expect(owner.arrived).toEqual([]);
  });

  it('A cut connection breaks the hop at once at both ends', async () => {
    const { owner, sender, client } = await pair();
    const proxy = await startTcp((socket) => {
      const onward = connect(owner.server.port, '127.0.0.1');
      socket.on('close', () => onward.resetAndDestroy());
      onward.on('error', () => {});
      socket.pipe(onward).pipe(socket);
    });
    closing.push(proxy.close);
    const result = sender.forwarder.forward({ ...owner.peer, url: proxy.url }, TURN, turnRequest(), client, patient());
    const { sink } = await owner.next();
    let delivered = false;
    sink.onDelivered(() => (delivered = true));
    sink.event('response.created', '{}', false);
    await client.called(1);
    const gone = until(sink.onGone);
    proxy.cut();
    expect(await result).toEqual({ kind: 'broken', again: true });
    await gone;
    expect(delivered).toBe(false);
  });

  it('A hop to a closed port or an invalid address is unreachable and has certainly not been sent', async () => {
    const { sender, client } = await pair();
    const deserted = await startTcp(() => {});
    await deserted.close();
    for (const url of [deserted.url, 'nonsense', 'ftp://127.0.0.1']) {
      const result = await sender.forwarder.forward(
        { workerId: 'worker-a', url },
        TURN,
        turnRequest(),
        client,
        patient(),
      );
      expect(result).toMatchObject({ kind: 'unreachable', sent: false });
    }
  });

  it('A hop cut before the owner’s first line is unreachable and may have been sent', async () => {
    const { sender, client } = await pair();
    const mute = await startTcp((socket) => socket.once('data', () => socket.resetAndDestroy()));
    closing.push(mute.close);
    const result = await sender.forwarder.forward(
      { workerId: 'worker-a', url: mute.url },
      TURN,
      turnRequest(),
      client,
      patient(),
    );
    expect(result).toEqual({ kind: 'unreachable', sent: true, again: true });
  });

  it('A hop to a peer that accepts the request without answering ends once the peer is known to be dead', async () => {
    const stopped = await startTcp((socket) => socket.resume());
    const sender = startSender({ forwardAccepted: 50 });
    closing.push(stopped.close, sender.close);
    const peer = { workerId: 'worker-a', url: stopped.url };
    const result = await sender.forwarder.forward(peer, TURN, turnRequest(), fakeClient(), forDead());
    expect(result).toEqual({ kind: 'unreachable', sent: true, again: false });
    await Promise.all([...stopped.sockets].map((socket) => new Promise((done) => socket.once('close', done))));
  });

  it('A hop to an address at which another worker listens is refused and has certainly not been sent', async () => {
    const { owner, sender, client } = await pair();
    const peer = { ...owner.peer, workerId: 'worker-of-before' };
    const result = await sender.forwarder.forward(peer, TURN, turnRequest(), client, patient());
    expect(result).toMatchObject({ kind: 'unreachable', sent: false });
    expect(owner.arrived).toEqual([]);
  });

  it('Running hops end when the sender closes', async () => {
    const { owner, sender, client } = await pair();
    const result = sender.forwarder.forward(owner.peer, TURN, turnRequest(), client, patient());
    (await owner.next()).sink.open();
    await client.called(1);
    await sender.forwarder.close();
    expect(await result).toEqual({ kind: 'broken', again: true });
    const late = await sender.forwarder.forward(owner.peer, TURN, turnRequest(), fakeClient(), patient());
    expect(late).toMatchObject({ kind: 'unreachable', sent: false });
  });

  it('An idle hop sends pings', async () => {
    const owner = await startOwner({ silence: 30 });
    const sender = startSender({ forwardSilence: 1_000 });
    closing.push(owner.close, sender.close);
    const pings: string[] = [];
    const proxy = await startTcp((socket) => {
      const onward = connect(owner.server.port, '127.0.0.1');
      onward.on('data', (chunk) => pings.push(...(chunk.toString().match(/"ping"/g) ?? [])));
      onward.on('error', () => {});
      socket.on('close', () => onward.destroy());
      socket.pipe(onward).pipe(socket);
    });
    closing.push(proxy.close);
    const result = sender.forwarder.forward(
      { ...owner.peer, url: proxy.url },
      TURN,
      turnRequest(),
      fakeClient(),
      patient(),
    );
    const { sink } = await owner.next();
    while (pings.length < 3) await new Promise((done) => setTimeout(done, 10));
    sink.end('response.completed', '{}');
    expect(await result).toMatchObject({ kind: 'served' });
  });
});

describe('claim notices', () => {
  it('A claim notice reaches the previous owner, and a failed one is ignored', async () => {
    const { owner, sender } = await pair();
    await sender.forwarder.claimed(owner.peer, { sessionId: 's1', epoch: 4, news: 'claimed' });
    expect(owner.claims).toEqual([
      { target: 'worker-a', from: 'worker-b', sessionId: 's1', epoch: 4, news: 'claimed' },
    ]);
    const deserted = await startTcp(() => {});
    await deserted.close();
    await sender.forwarder.claimed(
      { workerId: 'worker-a', url: deserted.url },
      { sessionId: 's1', epoch: 4, news: 'claimed' },
    );
    await sender.forwarder.claimed(
      { ...owner.peer, workerId: 'other' },
      { sessionId: 's1', epoch: 4, news: 'claimed' },
    );
    expect(owner.claims).toHaveLength(1);
  });
});

describe('view queries', () => {
  it('A view query is answered by the addressed worker, or returns null in time', async () => {
    const { owner } = await pair();
    const sender = startSender({ forwardAccepted: 200 });
    closing.push(sender.close);
    const question = { sessionIds: ['s1', 's2'], recordOf: 's1' };
    expect(await sender.forwarder.view(owner.peer, question)).toEqual({ asked: question });
    expect(await sender.forwarder.view({ ...owner.peer, workerId: 'other' }, question)).toBe(null);
    expect(await sender.forwarder.view(owner.peer, { sessionIds: Array(501).fill('s'), recordOf: null })).toBe(null);
    const silent = await startTcp(() => {});
    expect(await sender.forwarder.view({ workerId: 'worker-a', url: silent.url }, question)).toBe(null);
    // An answer that is cut off.
    const cut = await startTcp((socket) => void socket.end('HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{'));
    closing.push(cut.close);
    expect(await sender.forwarder.view({ workerId: 'worker-a', url: cut.url }, question)).toBe(null);
    await silent.close();
  });
});
