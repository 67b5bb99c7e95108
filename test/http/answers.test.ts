import { EventEmitter } from 'node:events';
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { BridgeError } from '../../src/errors.ts';
import { createSseSink } from '../../src/http/answers.ts';
import { createManualClock } from '../../src/testing/manual-clock.ts';
import { until } from '../support/until.ts';
import { type Face, openFace } from './face.ts';

let face: Face;
beforeEach(async () => {
  face = await openFace();
});
afterEach(() => face.close());

/** Opens a client on a bare socket: it sees exactly the bytes that were written. */
function ask(body: object) {
  const text = JSON.stringify({ model: 'm', ...body });
  const socket: Socket = connect(Number(new URL(face.url).port), '127.0.0.1');
  let read = '';
  socket.on('data', (chunk) => (read += chunk));
  socket.on('error', () => {});
  socket.write(
    `POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
  );
  const closed = new Promise<void>((done) => socket.once('close', () => done()));
  return {
    socket,
    closed,
    text: () => read,
    /** Returns the body without chunk sizes. */
    body: () =>
      read.slice(read.indexOf('\r\n\r\n') + 4).replace(/[0-9a-f]+\r\n([\s\S]*?)\r\n(?=[0-9a-f]+\r\n|$)/g, '$1'),
  };
}
const created = JSON.stringify({ type: 'response.created', sequence_number: 0, response: { id: 'r' } });
const done = JSON.stringify({ type: 'response.completed', sequence_number: 1, response: { id: 'r' } });

describe('a streamed answer', () => {
  it('A streamed answer consists of exactly its events, with headers against buffering proxies', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    sink.head({ outcome: 'created', sessionId: 'session-1', token: 'token-1' });
    sink.event('response.created', created, false);
    sink.event('something.new', '{"type":"something.new"}', false);
    sink.end('response.completed', done);
    await client.closed;
    expect(client.body()).toContain(
      `event: response.created\ndata: ${created}\n\nevent: something.new\ndata: {"type":"something.new"}\n\nevent: response.completed\ndata: ${done}\n\n`,
    );
    for (const header of [
      'content-type: text/event-stream; charset=utf-8',
      'cache-control: no-cache, no-transform',
      'x-accel-buffering: no',
      'x-holdfast-outcome: created',
      'x-holdfast-session: session-1',
      'x-codex-turn-state: token-1',
    ]) {
      expect(client.text().toLowerCase()).toContain(header);
    }
  });

  it('A streamed answer shows no telemetry, and telemetry does not begin it', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    sink.event('codex.rate_limits', '{"type":"codex.rate_limits"}', true);
    expect(sink.committed).toBe(false);
    sink.open();
    expect(sink.committed).toBe(true);
    sink.event('response.created', created, false);
    sink.event('responsesapi.websocket_timing', '{"type":"responsesapi.websocket_timing"}', true);
    sink.end('response.completed', done);
    await client.closed;
    expect(client.body()).toContain('response.created');
    expect(client.body()).not.toMatch(/codex|websocket_timing/);
  });

  it('A streamed answer that fails before its status line is an error envelope with the status of the error', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    sink.head({ outcome: 'refused', sessionId: null, token: null });
    sink.fail(new BridgeError('bridge_queue_full'));
    await client.closed;
    expect(client.text()).toMatch(/^HTTP\/1\.1 429 /);
    expect(client.text().toLowerCase()).toContain('retry-after: 2');
    expect(client.text()).toContain('"bridge_code":"bridge_queue_full"');
  });

  it.each([
    ['after it was begun', true, ['response.created', 'response.failed']],
    ['before anything was shown', false, ['response.created', 'response.failed']],
  ])('A streamed answer that fails %s, after its status line, ends in one response.failed', async (_, begun, types) => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    if (begun) sink.event('response.created', created, false);
    else sink.open();
    sink.fail(new BridgeError('bridge_upstream_lost'));
    sink.end('response.completed', done);
    sink.fail(new BridgeError('bridge_internal'));
    await client.closed;
    expect([...client.body().matchAll(/^event: (.+)$/gm)].map(([, type]) => type)).toEqual(types);
    expect(client.body()).toContain('"bridge_code":"bridge_upstream_lost"');
    expect(client.body()).not.toContain('event: error');
    // OpenAI's SDK refuses a final response whose id differs from the one that was created.
    const ids = [...client.body().matchAll(/"response":\{"id":"([^"]+)"/g)].map(([, id]) => id);
    expect(new Set(ids).size).toBe(1);
    expect(ids[0]!.startsWith('resp_holdfast_')).toBe(!begun);
  });

  it('A streamed answer sends keepalives while it is idle, and nothing after its end', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    sink.open();
    face.clock.advance(15_000);
    face.clock.advance(15_000);
    await until(() => client.text().split(': keepalive\n\n').length === 3);
    sink.end('response.completed', done);
    await client.closed;
    face.clock.advance(60_000);
    expect(client.text().split(': keepalive\n\n')).toHaveLength(3);
  });

  it('A streamed answer sends keepalives between two events too, counted from the last event', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    const comments = () => client.text().split(': keepalive\n\n').length - 1;
    sink.event('response.created', created, false);
    face.clock.advance(14_000);
    sink.event('x', '{"type":"x","nth":1}', false);
    face.clock.advance(14_999);
    sink.event('x', '{"type":"x","nth":2}', false);
    await until(() => client.text().includes('"nth":2'));
    expect(comments()).toBe(0);
    face.clock.advance(15_000);
    await until(() => comments() === 1);
    face.clock.advance(15_000);
    await until(() => comments() === 2);
    sink.end('response.completed', done);
    await client.closed;
  });

  it('A reader that caught up gets the full slow-client timeout again', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    const big = JSON.stringify({ type: 'x', pad: 'y'.repeat(1_000_000) });
    client.socket.pause();
    for (let full = false; !full; ) full = !sink.event('x', big, false);
    face.clock.advance(59_999);
    let drained = false;
    sink.onDrain(() => (drained = true));
    client.socket.resume();
    await until(() => drained);
    face.clock.advance(120_000);
    expect(sink.attached).toBe(true);
    sink.end('response.completed', done);
    await client.closed;
    expect(client.text()).toContain('event: response.completed');
  });

  it('A streamed answer signals a slow reader to its writer, and cuts one that never reads', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    client.socket.pause();
    const gone = new Promise<void>((left) => sink.onGone(left));
    let full = false;
    const big = JSON.stringify({ type: 'x', pad: 'y'.repeat(1_000_000) });
    for (let count = 0; count < 60 && !full; count += 1) full = !sink.event('x', big, false);
    expect(full).toBe(true);
    let drained = false;
    sink.onDrain(() => (drained = true));
    client.socket.resume();
    await until(() => drained);
    client.socket.pause();
    for (full = false; !full; ) full = !sink.event('x', big, false);
    face.clock.advance(60_000);
    await gone;
    expect(sink.attached).toBe(false);
    client.socket.destroy();
  });

  /** Creates a sink whose response buffers everything. `accepts` is the answer of each write. */
  function bufferingSink(accepts: boolean) {
    const clock = createManualClock();
    const res = Object.assign(new EventEmitter(), {
      headersSent: false,
      destroyed: false,
      status: () => res,
      set: () => res,
      writeHead: () => void (res.headersSent = true),
      flushHeaders: () => void (res.headersSent = true),
      write: () => accepts,
      end: () => {},
      destroy() {
        res.destroyed = true;
        res.emit('close');
      },
    });
    const means = { requestId: 'r', model: null, clock, keepaliveMs: 15_000, slowClientMs: 60_000 };
    return { clock, res, sink: createSseSink({ res: res as never, ...means }) };
  }

  it('A client whose connection accepts not even a short end is cut', async () => {
    const { clock, sink } = bufferingSink(true);
    sink.event('response.created', created, false);
    clock.advance(120_000);
    expect(sink.attached).toBe(true);
    sink.end('response.completed', done);
    clock.advance(59_999);
    expect(sink.attached).toBe(true);
    clock.advance(1);
    expect(sink.attached).toBe(false);
  });

  it('A slow client that drains once after the end of its answer, and then stops reading, is cut', async () => {
    const { clock, res, sink } = bufferingSink(false);
    sink.event('response.created', created, false);
    sink.end('response.completed', done);
    clock.advance(59_999);
    res.emit('drain');
    clock.advance(59_999);
    expect(sink.attached).toBe(true);
    clock.advance(1);
    expect(sink.attached).toBe(false);
  });

  it('The events of one turn of the event loop, with the headers, reach the client as one chunk', async () => {
    const client = ask({ stream: true });
    const { sink } = await face.next();
    sink.event('response.created', created, false);
    sink.event('response.output_text.delta', '{"type":"response.output_text.delta","delta":"a"}', false);
    sink.event('response.output_text.delta', '{"type":"response.output_text.delta","delta":"b"}', false);
    await until(() => client.text().includes('"b"'));
    sink.end('response.completed', done);
    await client.closed;
    const sizes = [...client.text().matchAll(/\r\n([0-9a-f]+)\r\n/g)].map(([, size]) => Number.parseInt(size!, 16));
    expect(sizes).toHaveLength(3);
    expect(sizes.at(-1)).toBe(0);
  });

  it('A streamed answer reports either delivery or disconnect, never both', async () => {
    const seen: string[] = [];
    const stays = ask({ stream: true });
    const first = await face.next();
    first.sink.onDelivered(() => seen.push('delivered'));
    first.sink.onGone(() => seen.push('gone'));
    first.sink.end('response.completed', done);
    await stays.closed;
    await until(() => seen.length > 0);
    const leaves = ask({ stream: true });
    const second = await face.next();
    second.sink.onDelivered(() => seen.push('second delivered'));
    second.sink.onGone(() => seen.push('second gone'));
    second.sink.open();
    leaves.socket.destroy();
    await until(() => seen.length > 1);
    second.sink.end('response.completed', done);
    expect(seen).toEqual(['delivered', 'second gone']);
  });
});

describe('an answer that is not streamed', () => {
  it('An answer that is not streamed is sent whole, with headers known only at its end', async () => {
    const client = ask({});
    const { sink } = await face.next();
    sink.event('response.created', created, false);
    sink.open();
    sink.head({ outcome: 'live_reuse', sessionId: 's', token: 't' });
    sink.end('response.completed', done);
    await client.closed;
    expect(client.text()).toMatch(/^HTTP\/1\.1 200 /);
    expect(client.body()).toContain('{"id":"r"}');
    expect(client.text()).toContain('x-holdfast-outcome: live_reuse');
  });

  it('An answer that is not streamed is sent at the client’s pace, and a client that accepts nothing is cut', async () => {
    const text = 'ä'.repeat(10_000_000);
    const whole = JSON.stringify({ type: 'response.completed', response: { id: 'r', text } });
    const reads = ask({});
    (await face.next()).sink.end('response.completed', whole);
    await reads.closed;
    expect(reads.text().toLowerCase()).toContain(`content-length: ${20_000_000 + '{"id":"r","text":""}'.length}`);
    const stops = ask({});
    stops.socket.pause();
    const { sink } = await face.next();
    const gone = new Promise<void>((left) => sink.onGone(left));
    sink.end('response.completed', whole);
    face.clock.advance(60_000);
    await gone;
    stops.socket.destroy();
  });

  it('A refusal of the provider is relayed unchanged', async () => {
    const client = ask({});
    const { sink } = await face.next();
    const body = Buffer.from('{"error":{"message":"slow down"}}');
    sink.relay({ status: 429, headers: { 'retry-after': '9', 'content-type': 'application/json' }, body });
    await client.closed;
    expect(client.text()).toMatch(/^HTTP\/1\.1 429 /);
    expect(client.text()).toContain('retry-after: 9');
    expect(client.body()).toContain('slow down');
  });
});
