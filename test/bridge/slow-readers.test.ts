import { connect, type Socket } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import type { WebSocket } from 'ws';
import { systemClock } from '../../src/system.ts';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import { type Provider, startProvider } from '../upstream/servers.ts';

/** Size of one event that exceeds the turn buffer, in bytes. */
const LARGE = 12 * 1024 * 1024;
const headers = { 'thread-id': 'thread' };
const bodyOf = (text: string) => ({ model: 'm', stream: true, store: false, input: [user(text)] });

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** One turn as the upstream received it, and the ways to answer it. */
interface Asked {
  readonly said: string;
  readonly socket: WebSocket | null;
  send(type: string, fields?: object): void;
  created(pad?: string): void;
  completed(): void;
}

async function start(turn: (asked: Asked) => void, env: Record<string, string> = {}) {
  let turns = 0;
  let sockets = 0;
  const take = (text: string, socket: WebSocket | null, write: (json: string) => void, end: () => void) => {
    const id = `resp_${(turns += 1)}`;
    const send: Asked['send'] = (type, fields) => write(JSON.stringify({ type, ...fields }));
    const response = (status: string) => ({ id, object: 'response', model: 'm', status, output: [] });
    turn({
      said: /"text":"([^"]*)"/.exec(text)![1]!,
      socket,
      send,
      created: (pad) => send('response.created', { response: { ...response('in_progress'), instructions: pad } }),
      completed() {
        send('response.completed', { response: response('completed') });
        end();
      },
    });
  };
  const provider: Provider = await startProvider({
    websocket(socket) {
      sockets += 1;
      socket.on('message', (data) =>
        take(
          String(data),
          socket,
          (json) => socket.send(json),
          () => {},
        ),
      );
    },
    async http(request, response) {
      let text = '';
      for await (const chunk of request.setEncoding('utf8')) text += chunk;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      take(
        text,
        null,
        (json) => response.write(`data: ${json}\n\n`),
        () => response.end(),
      );
    },
  });
  closing.push(() => provider.close());
  const database = createMemoryDatabase('0'.repeat(64));
  /** Starts another worker on the same store. */
  const worker = async (): Promise<TestBridge> => {
    const at = await testBridge({
      env: { HOLDFAST_UPSTREAM_URL: provider.url, ...env },
      openStore: async () => createMemoryStore({ clock: systemClock, database }),
    });
    closing.push(() => at.close());
    return at;
  };
  return { worker, sockets: () => sockets };
}

/** Opens a client that sends its request and reads nothing until it is allowed to. */
function slowly(url: string, body: object, header = 'Thread-Id: thread'): { socket: Socket; read(): Promise<string> } {
  const text = JSON.stringify(body);
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write(
    `POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-test\r\n` +
      `${header}\r\nContent-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
  );
  closing.push(async () => void socket.destroy());
  return {
    socket,
    async read() {
      let answer = '';
      for await (const chunk of socket.setEncoding('utf8')) answer += chunk;
      return answer;
    },
  };
}

const largeOrSmall = ({ said, created, completed }: Asked) => {
  created(said === 'large' ? 'x'.repeat(LARGE) : undefined);
  completed();
};
const states = (at: TestBridge) => at.bridge.sessions().map(({ state }) => state);
/** Returns the bytes that the worker's clients have not read. */
const unread = async (at: TestBridge) => {
  const page = await (await fetch(`${at.url}/metrics`)).text();
  return Number(/^holdfast_unread_bytes (\S+)$/m.exec(page)?.[1] ?? 0);
};
const ended = async (at: TestBridge, turns: number) => {
  const [session] = await at.store.sessions(1);
  const known = session ? await at.store.turnsOf(session.id, 9) : [];
  return known.length === turns && known.every(({ state }) => state === 'completed');
};

describe('a client that reads more slowly than the provider writes', () => {
  it('A slow reader holds back its own turn, and not the next one on the same socket', async () => {
    let upstream!: WebSocket;
    const { worker, sockets } = await start((asked) => {
      upstream = asked.socket!;
      largeOrSmall(asked);
    });
    const at = await worker();
    const slow = slowly(at.url, bodyOf('large'));
    await until(() => states(at)[0] === 'live.idle');
    const next = await post(at.url, bodyOf('small'), headers);
    expect([next.headers['x-holdfast-outcome'], next.body.status]).toEqual(['live_reuse', 'completed']);
    expect(await slow.read()).toContain('event: response.completed');
    const slower = slowly(at.url, bodyOf('large'));
    await until(() => ended(at, 3));
    // Between two turns the provider's socket is read: pings are answered.
    const answered = new Promise((pong) => upstream.once('pong', pong));
    upstream.ping();
    await answered;
    expect(await slower.read()).toContain('event: response.completed');
    const last = await post(at.url, bodyOf('small again'), headers);
    expect(last.body.status).toBe('completed');
    expect(sockets()).toBe(1);
  });

  it('A slow reader behind another worker holds back only its own turn', async () => {
    const { worker, sockets } = await start(largeOrSmall);
    const owner = await worker();
    const other = await worker();
    expect((await post(owner.url, bodyOf('small'), headers)).body.status).toBe('completed');
    const slow = slowly(other.url, bodyOf('large'));
    await until(() => ended(owner, 2));
    const next = await post(other.url, bodyOf('small'), headers);
    expect([next.headers['x-holdfast-outcome'], next.body.status]).toEqual(['live_reuse', 'completed']);
    expect(await slow.read()).toContain('event: response.completed');
    expect((await post(owner.url, bodyOf('small'), headers)).body.status).toBe('completed');
    expect(sockets()).toBe(1);
    expect(states(other)).toEqual([]);
  });

  it('A slow reader whose provider is reached over HTTP holds back only its own turn', async () => {
    const { worker } = await start(largeOrSmall, { HOLDFAST_UPSTREAM_TRANSPORT: 'http' });
    const at = await worker();
    const slow = slowly(at.url, bodyOf('large'));
    await until(() => ended(at, 1));
    expect((await post(at.url, bodyOf('small'), headers)).body.status).toBe('completed');
    expect(await slow.read()).toContain('event: response.completed');
  });

  it.each(['websocket', 'http'])(
    'A slow reader that disconnects no longer holds anything back (%s)',
    async (transport) => {
      let turn!: Asked;
      const { worker } = await start((asked) => (turn = asked), {
        HOLDFAST_UPSTREAM_TRANSPORT: transport,
        HOLDFAST_TURN_BUFFER_BYTES: '1000000',
      });
      const at = await worker();
      const slow = slowly(at.url, bodyOf('cut'));
      await until(() => turn !== undefined);
      turn.created();
      for (let n = 0; n < 40; n += 1) turn.send('response.output_text.delta', { delta: 'x'.repeat(1_000_000) });
      turn.completed();
      await until(async () => (await unread(at)) > 1_000_000);
      slow.socket.destroy();
      await until(() => ended(at, 1));
    },
  );

  it('A slow reader that disconnects after everything was written may repeat its request and receives all of it', async () => {
    let turns = 0;
    const { worker } = await start((asked) => {
      turns += 1;
      asked.created('x'.repeat(6 * 1024 * 1024));
      asked.completed();
    });
    const at = await worker();
    const slow = slowly(at.url, bodyOf('long'), 'X-Stainless-Retry-Count: 0');
    await until(() => ended(at, 1));
    slow.socket.destroy();
    await until(async () => (await unread(at)) === 0);
    const again = await post(at.url, bodyOf('long'), { 'x-stainless-retry-count': '1' });
    expect([again.headers['x-holdfast-outcome'], again.body.status]).toEqual(['reattached', 'completed']);
    expect(turns).toBe(1);
  });

  it('A slow reader bounds what is read from the provider for it', async () => {
    let turn!: Asked;
    const { worker } = await start((asked) => (turn = asked), { HOLDFAST_TURN_BUFFER_BYTES: '1000000' });
    const at = await worker();
    const slow = slowly(at.url, bodyOf('too much'));
    await until(() => turn !== undefined);
    turn.created();
    for (let n = 0; n < 40; n += 1) turn.send('response.output_text.delta', { delta: 'x'.repeat(1_000_000) });
    await until(async () => (await unread(at)) > 1_000_000);
    let seen = -1;
    let same = 0;
    await until(() => {
      const left = turn.socket!.bufferedAmount;
      same = left === seen ? same + 1 : 0;
      seen = left;
      return same === 50;
    });
    expect(seen).toBeGreaterThan(8_000_000);
    turn.completed();
    expect(await slow.read()).toContain('event: response.completed');
  });
});
