import { once } from 'node:events';
import type { Socket } from 'node:net';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import type { WebSocket } from 'ws';
import type { DialResult, UpstreamConnection, UpstreamTransport } from '../../src/upstream/port.ts';
import { createUpstreamTransport } from '../../src/upstream/transport.ts';
import { dialTo, type Provider, type ProviderHandlers, record, rounds, startProvider, startTcp } from './servers.ts';

const cleanup: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

const provider = async (handlers: ProviderHandlers): Promise<Provider> => {
  const started = await startProvider(handlers);
  cleanup.push(() => started.close());
  return started;
};
const transport = (options: Parameters<typeof createUpstreamTransport>[0] = {}): UpstreamTransport => {
  const made = createUpstreamTransport({ closeTimeoutMs: 300, pulse: { pingMs: 25_000, pongMs: 5_000 }, ...options });
  cleanup.push(() => made.shutdown());
  return made;
};
const opened = (result: DialResult): UpstreamConnection => {
  if (result.kind !== 'open') throw new Error(`not open: ${JSON.stringify(result)}`);
  return result.connection;
};

describe('dialling a WebSocket', () => {
  it('A dial goes to the responses path with the given headers, uncompressed, and returns the answer’s headers', async () => {
    let asked: { url?: string; headers: Record<string, unknown> } | null = null;
    const { url } = await provider({
      handshake: ['x-codex-turn-state: ts-1', 'X-Request-Id: req_1'],
      websocket: (_socket, request) => {
        asked = { url: request.url, headers: request.headers };
      },
    });
    const headers = { authorization: 'Bearer x', 'openai-beta': 'responses_websockets=2026-02-06' };
    const result = await transport().dial(dialTo(url, headers));
    expect(opened(result).open).toBe(true);
    expect(opened(result).kind).toBe('websocket');
    expect(result).toMatchObject({ headers: { 'x-codex-turn-state': 'ts-1', 'x-request-id': 'req_1' } });
    expect(asked).toMatchObject({ url: '/v1/responses', headers });
    const others = Object.keys(asked!.headers).filter((name) => !(name in headers));
    expect(others.sort()).toEqual(['connection', 'host', 'sec-websocket-key', 'sec-websocket-version', 'upgrade']);
  });

  it.each([400, 401, 403, 404, 426, 429, 500, 503, 200, 302])(
    'A dial returns a refusal with %i whole',
    async (status) => {
      const body = JSON.stringify({ error: { message: 'no', pad: 'x'.repeat(100_000) } });
      const { url } = await provider({
        upgrade(_request, socket) {
          socket.write(`HTTP/1.1 ${status} Refused\r\nRetry-After: 2\r\nLocation: http://127.0.0.1:1/\r\n`);
          socket.end(`Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
        },
      });
      const result = await transport().dial(dialTo(url));
      expect(result).toMatchObject({ kind: 'refused', answer: { status, headers: { 'retry-after': '2' } } });
      if (result.kind === 'refused') expect(result.answer.body.toString()).toBe(body);
    },
  );

  it.each([
    ['gzip', gzipSync],
    ['deflate', deflateSync],
    ['deflate', deflateRawSync],
    ['br', brotliCompressSync],
    ['zstd', zstdCompressSync],
  ] as const)('A dial unpacks a refusal in %s', async (coding, pack) => {
    const body = pack(Buffer.from('{"error":{"message":"no"}}'));
    const { url } = await provider({
      upgrade(_request, socket) {
        socket.write(`HTTP/1.1 429 Refused\r\nContent-Encoding: ${coding}\r\nContent-Length: ${body.length}\r\n\r\n`);
        socket.end(body);
      },
    });
    const result = await transport().dial(dialTo(url));
    if (result.kind !== 'refused') throw new Error(result.kind);
    expect(result.answer.body.toString()).toBe('{"error":{"message":"no"}}');
    expect(result.answer.headers).not.toHaveProperty('content-encoding');
    expect(result.answer.headers).not.toHaveProperty('content-length');
  });

  it('A dial names the cause of a failure and the host, and nothing else of the address', async () => {
    const gone = await startTcp(() => {});
    await gone.close();
    const { port } = new URL(gone.url);
    const result = await transport().dial(dialTo(`http://user:secret@127.0.0.1:${port}/private?token=secret`));
    expect(result).toMatchObject({
      kind: 'failed',
      unreachable: { text: `ECONNREFUSED at 127.0.0.1:${port}`, final: true },
    });
    const unknown = await transport().dial(dialTo('http://no-such-host.invalid/v1'));
    expect(unknown).toMatchObject({ unreachable: { text: expect.stringMatching(/^E\w+ at no-such-host\.invalid$/) } });
  });

  it('A dial stops reading a refusal that does not end', async () => {
    const { url, deserted } = await provider({
      upgrade(_request, socket) {
        socket.write('HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n');
        const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
        const more = () => {
          while (!socket.destroyed && socket.write(chunk));
        };
        socket.on('drain', more);
        socket.on('error', () => {});
        more();
      },
    });
    const result = await transport().dial(dialTo(url));
    if (result.kind !== 'refused') throw new Error(result.kind);
    expect(result.answer.status).toBe(403);
    expect(result.answer.body.length).toBe(1024 * 1024);
    await deserted();
  });

  it.each(['destroy', 'resetAndDestroy'] as const)('A dial keeps the status of a refusal cut by %s', async (cut) => {
    const { url } = await provider({
      async upgrade(_request, socket) {
        socket.write('HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\n{"err');
        await rounds(50);
        (socket as Socket)[cut]();
      },
    });
    const result = await transport().dial(dialTo(url));
    expect(result).toMatchObject({ kind: 'refused', answer: { status: 401 } });
    if (result.kind !== 'refused') return;
    expect(result.answer.body.toString()).toBe('{"err');
    expect(result.answer.headers).not.toHaveProperty('content-length');
  });

  it('A dial fails on a reset, on a refused connection and on an invalid address', async () => {
    const reset = await startTcp((socket) => socket.on('data', () => socket.resetAndDestroy()));
    cleanup.push(() => reset.close());
    const gone = await startTcp(() => {});
    await gone.close();
    const dialler = transport();
    for (const url of [reset.url, gone.url, 'nonsense', 'ftp://127.0.0.1/']) {
      const result = await dialler.dial(dialTo(url));
      expect(result.kind).toBe('failed');
      if (result.kind === 'failed') expect(result.reason).not.toBe('');
    }
  });

  it('A dial times out when the peer sends its answer byte by byte', async () => {
    const peer = await startTcp((socket) => {
      const timer = setInterval(() => socket.write('x'), 20);
      socket.write('HTTP/1.1 101 Switching Protocols\r\nX-Slow: ');
      socket.on('close', () => clearInterval(timer));
    });
    cleanup.push(() => peer.close());
    const result = await transport().dial(dialTo(peer.url, {}, 150));
    expect(result).toMatchObject({ kind: 'failed', reason: 'no answer to the upgrade within 150 ms' });
    await peer.deserted();
  });

  it('A dial fails when the handshake does not verify', async () => {
    const { url } = await provider({
      upgrade(_request, socket) {
        socket.write('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n');
        socket.write('Sec-WebSocket-Accept: wrong\r\n\r\n');
      },
    });
    expect((await transport().dial(dialTo(url))).kind).toBe('failed');
  });
});

describe('an open WebSocket', () => {
  const pair = async (
    options: Parameters<typeof createUpstreamTransport>[0] = {},
    greet: (peer: WebSocket) => void = () => {},
  ) => {
    let seen: (peer: WebSocket) => void = () => {};
    const arrived = new Promise<WebSocket>((resolve) => {
      seen = resolve;
    });
    const { url } = await provider({
      websocket(peer) {
        peer.on('error', () => {});
        greet(peer);
        seen(peer);
      },
    });
    const connection = opened(await transport(options).dial(dialTo(url)));
    return { connection, peer: await arrived };
  };

  it('A WebSocket keeps frames that arrived before a reader attached, in order', async () => {
    const { connection } = await pair({}, (peer) => {
      for (let i = 0; i < 50; i += 1) peer.send(String(i));
    });
    await rounds();
    const seen = record(connection);
    await seen.count(50);
    expect(seen.frames).toEqual(Array.from({ length: 50 }, (_, i) => String(i)));
  });

  it('A WebSocket reports its end once, after the last frame, even when both arrived before a reader attached', async () => {
    const { connection, peer } = await pair({}, (peer) => {
      peer.send('a');
      peer.send('b');
      peer.close(1011, 'internal');
    });
    await rounds();
    const seen = record(connection);
    expect(await seen.ended).toEqual({ code: 1011, reason: 'internal' });
    peer.terminate();
    await rounds();
    expect(seen.log).toEqual(['frame', 'frame', 'closed']);
    expect(connection.open).toBe(false);
    expect(connection.send('{}')).toBe(false);
  });

  it('A WebSocket passes frames on unchanged in both directions', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection);
    const text = `{"a":"${'ü€😀\\u0000'.repeat(50_000)}"}`;
    const received = once(peer, 'message');
    expect(connection.send(text)).toBe(true);
    expect(String((await received)[0])).toBe(text);
    peer.send(text);
    await seen.count(1);
    expect(seen.frames[0]).toBe(text);
  });

  it('A WebSocket sends a long frame whole and in order, in fragments that split no character', async () => {
    const { connection, peer } = await pair();
    const long = ['😀', 'a😀', 'ü'].map((text) => text.repeat(1_500_000));
    const frames = ['{"before":1}', long[0]!, '{"between":1}', long[1]!, long[2]!, '{"after":1}'];
    const received: string[] = [];
    const { promise: all, resolve } = Promise.withResolvers<void>();
    peer.on('message', (data) => {
      received.push(String(data));
      if (received.length === frames.length) resolve();
    });
    const pinged = once(peer, 'ping');
    for (const frame of frames) expect(connection.send(frame)).toBe(true);
    await all;
    expect(received.map((frame, at) => frame === frames[at])).toEqual(frames.map(() => true));
    await pinged;
  });

  it('A WebSocket abandons a long frame when it is closed in the middle of it', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection);
    const received: unknown[] = [];
    peer.on('message', (data) => received.push(data));
    expect(connection.send('x'.repeat(30_000_000))).toBe(true);
    connection.close(1001, 'enough');
    expect(connection.send('{}')).toBe(false);
    expect(await seen.ended).toMatchObject({ code: 1001 });
    expect(received).toEqual([]);
  });

  it('A paused WebSocket passes no frame on, though many are already read, and all of them afterwards', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection, {
      onFrame: (text) => {
        if (Number(text) % 10 === 0) connection.pause();
      },
    });
    for (let i = 0; i <= 30; i += 1) peer.send(String(i));
    peer.close(1000);
    const expected: number[] = [];
    for (let upTo = 0; upTo <= 30; upTo += 10) {
      await seen.count(upTo + 1);
      await rounds();
      while (expected.length <= upTo) expected.push(expected.length);
      expect(seen.frames.map(Number)).toEqual(expected);
      expect(seen.closed).toEqual([]);
      connection.resume();
    }
    expect((await seen.ended).code).toBe(1000);
  });

  it('A paused WebSocket stops the sender', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection);
    connection.pause();
    await flood(peer);
    expect(seen.frames).toEqual([]);
    connection.resume();
    await seen.count(512);
  });

  it('A WebSocket without a reader stops the sender', async () => {
    const { connection, peer } = await pair();
    await flood(peer);
    await record(connection).count(512);
  });

  /** Sends 32 MiB, most of which must stay with the sender. */
  const flood = async (peer: WebSocket) => {
    const frame = 'x'.repeat(64 * 1024);
    for (let i = 0; i < 512; i += 1) peer.send(frame);
    await rounds(200);
    expect(peer.bufferedAmount).toBeGreaterThan(8 * 1024 * 1024);
  };

  it('A WebSocket is dead when a peer that has answered pings stays silent after a frame', async () => {
    const { connection, peer } = await pair({ pulse: { pingMs: 60_000, pongMs: 200 } });
    const seen = record(connection);
    const pinged = once(peer, 'ping');
    connection.send('{}');
    await pinged;
    // Frames that the peer sends now arrive after its pong.
    peer.send('{}');
    await seen.count(1);
    peer.pause();
    connection.send('{}');
    expect(await seen.ended).toEqual({ code: 1006, reason: 'no sign of life' });
  });

  it('A WebSocket answers pings', async () => {
    const { connection, peer } = await pair();
    record(connection);
    const pong = once(peer, 'pong');
    peer.ping('here');
    expect(String((await pong)[0])).toBe('here');
  });

  it('A WebSocket reports 1006 when the peer disconnects without a close', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection);
    peer.terminate();
    expect((await seen.ended).code).toBe(1006);
  });

  it('A WebSocket ends on a frame above its size limit', async () => {
    const { connection, peer } = await pair({ maxIncomingBytes: 1000 });
    const seen = record(connection);
    const told = once(peer, 'close');
    peer.send('x'.repeat(1000));
    peer.send('x'.repeat(1001));
    const end = await seen.ended;
    expect(seen.frames).toHaveLength(1);
    expect(end.reason).not.toBe('');
    expect((await told)[0]).toBe(1009);
  });

  it('A WebSocket closes with a close frame, once, and passes no more frames on', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection);
    const told = once(peer, 'close');
    for (let i = 0; i < 5; i += 1) peer.send('late');
    connection.close(1012, 'rotated');
    connection.close(1000);
    expect(connection.open).toBe(false);
    expect(connection.send('{}')).toBe(false);
    const [code, reason] = await told;
    expect([code, String(reason)]).toEqual([1012, 'rotated']);
    await seen.ended;
    expect(seen.log).toEqual(['closed']);
  });

  it('A WebSocket closes while paused, and with a code or reason that cannot be sent', async () => {
    for (const [code, reason, sent] of [
      [1006, 'ü'.repeat(300), 1000],
      [4000, '', 4000],
    ] as const) {
      const { connection, peer } = await pair();
      const seen = record(connection);
      connection.pause();
      const told = once(peer, 'close');
      connection.close(code, reason);
      expect((await told)[0]).toBe(sent);
      await seen.ended;
    }
  });

  it('A WebSocket is destroyed when the peer does not answer the close frame', async () => {
    const { connection, peer } = await pair({ closeTimeoutMs: 50 });
    const seen = record(connection);
    peer.pause();
    connection.close();
    expect((await seen.ended).code).toBe(1006);
  });

  it('A WebSocket may be closed after the peer closed it', async () => {
    const { connection, peer } = await pair();
    const seen = record(connection);
    peer.close(1000);
    await seen.ended;
    connection.close();
    expect(seen.closed).toHaveLength(1);
  });
});

describe('shutting down', () => {
  it('A shutdown ends open connections and pending dials, and no new ones can be opened', async () => {
    const silent = await startTcp(() => {});
    cleanup.push(() => silent.close());
    const { url, deserted } = await provider({ websocket: (peer) => peer.on('error', () => {}) });
    const made = transport();
    const connection = opened(await made.dial(dialTo(url)));
    const seen = record(connection);
    const idle = record(made.exchange(dialTo(url)));
    const pending = made.dial(dialTo(silent.url));
    const ends = deserted();
    await made.shutdown();
    expect((await pending).kind).toBe('failed');
    expect((await seen.ended).code).toBe(1001);
    expect((await idle.ended).code).toBe(1001);
    await ends;
    expect(await made.dial(dialTo(url))).toEqual({ kind: 'failed', reason: 'shut down' });
    expect(made.exchange(dialTo(url)).send('{}')).toBe(false);
    await expect(
      made.call({ target: { id: 't', baseUrl: url }, method: 'GET', path: '/models', headers: {}, body: null }),
    ).rejects.toThrow('shut down');
    await made.shutdown();
  });
});
