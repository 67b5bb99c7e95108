import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { json, text } from 'node:stream/consumers';
import { brotliCompressSync, deflateRawSync, deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { parseFrame } from '../../src/upstream/frames.ts';
import { type UpstreamTransport, UpstreamUnreachable } from '../../src/upstream/port.ts';
import { createUpstreamTransport } from '../../src/upstream/transport.ts';
import { dialTo, type Provider, record, rounds, startProvider, startTcp } from './servers.ts';

const cleanup: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const undo of cleanup.splice(0).reverse()) await undo();
});

const provider = async (http: (request: IncomingMessage, response: ServerResponse) => void): Promise<Provider> => {
  const started = await startProvider({ http });
  cleanup.push(() => started.close());
  return started;
};
const transport = (options: Parameters<typeof createUpstreamTransport>[0] = {}): UpstreamTransport => {
  const made = createUpstreamTransport(options);
  cleanup.push(() => made.shutdown());
  return made;
};

const create = (fields: object = {}) => JSON.stringify({ type: 'response.create', model: 'm', input: [], ...fields });
const sse = (response: ServerResponse, headers: Record<string, string> = {}) =>
  response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', ...headers });
const event = (fields: object) => `event: ignored\ndata: ${JSON.stringify(fields)}\n\n`;
const kinds = (frames: string[]) => frames.map((frame) => parseFrame(frame).type);

describe('an exchange over HTTP', () => {
  it('An exchange over HTTP posts the create frame and passes on the events of the answer', async () => {
    let asked: unknown = null;
    const { url } = await provider(async (request, response) => {
      const { method, headers } = request;
      asked = { method, url: request.url, headers, body: await json(request) };
      sse(response);
      response.write(': keepalive\n\n');
      response.write(event({ type: 'response.created', response: { id: 'r' } }));
      response.write(event({ type: 'response.completed', response: { id: 'r' } }).slice(0, 30));
      await rounds(3);
      response.end(`${event({ type: 'response.completed', response: { id: 'r' } }).slice(30)}data: [DONE]\n\n`);
    });
    const connection = transport().exchange(dialTo(url, { authorization: 'Bearer x', 'x-a': 'b' }));
    expect([connection.kind, connection.open]).toEqual(['http', true]);
    const seen = record(connection);
    expect(connection.send(create({ store: false }))).toBe(true);
    expect(connection.send(create())).toBe(false);
    expect((await seen.ended).code).toBe(1000);
    expect(kinds(seen.frames)).toEqual(['response.created', 'response.completed']);
    expect(connection.open).toBe(false);
    expect(asked).toMatchObject({
      method: 'POST',
      url: '/v1/responses',
      headers: {
        authorization: 'Bearer x',
        'x-a': 'b',
        accept: 'text/event-stream',
        'content-type': 'application/json',
      },
      body: { model: 'm', input: [], store: false, stream: true },
    });
    expect(asked).toMatchObject({ headers: { 'accept-encoding': 'identity;q=1, *;q=0' } });
  });

  it.each([
    [{ generate: false }, { prompt_cache_options: { prewarm: true } }],
    [{ generate: false, prompt_cache_options: { ttl: 9 } }, { prompt_cache_options: { ttl: 9, prewarm: true } }],
    [{ generate: false, prompt_cache_options: null }, { prompt_cache_options: { prewarm: true } }],
    [{ generate: true, prompt_cache_options: { ttl: 9 } }, { prompt_cache_options: { ttl: 9 } }],
    [{ generate: null }, {}],
  ])('A warm-up of a socket is an option of the prompt cache over HTTP: %j', async (fields, sent) => {
    let body: unknown = null;
    const { url } = await provider(async (request, response) => {
      body = await json(request);
      sse(response).end(event({ type: 'response.completed', response: { id: 'r' } }));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create(fields));
    await seen.ended;
    expect(body).toEqual({ model: 'm', input: [], stream: true, ...sent });
  });

  it('An exchange over HTTP passes on the provider’s turn state before the first event', async () => {
    const { url } = await provider((request, response) => {
      request.resume();
      sse(response, { 'X-Codex-Turn-State': 'ts-7' }).end(event({ type: 'response.created', response: { id: 'r' } }));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.ended;
    expect(parseFrame(seen.frames[0]!)).toMatchObject({ kind: 'turn_state', turnState: 'ts-7' });
    expect(parseFrame(seen.frames[1]!).kind).toBe('created');
  });

  it('An exchange over HTTP passes on a refusal whole, then ends', async () => {
    const body = JSON.stringify({ error: { message: 'slow', code: 'rate_limit_exceeded', pad: 'x'.repeat(200_000) } });
    const { url } = await provider((request, response) => {
      request.resume();
      response
        .writeHead(429, { 'content-type': 'application/json', 'retry-after': '3', 'x-request-id': 'q' })
        .end(body);
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.ended;
    expect(seen.log).toEqual(['refused', 'closed']);
    expect(seen.refused[0]).toMatchObject({ status: 429, headers: { 'retry-after': '3', 'x-request-id': 'q' } });
    expect(seen.refused[0]!.body.toString()).toBe(body);
  });

  it('An exchange over HTTP keeps the status of a refusal whose body is cut', async () => {
    const { url } = await provider(async (request, response) => {
      request.resume();
      response.writeHead(401, { 'content-length': '100' }).write('{"err');
      await rounds(50);
      response.destroy();
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.ended;
    expect(seen.log).toEqual(['refused', 'closed']);
    expect(seen.refused[0]!.status).toBe(401);
    expect(seen.refused[0]!.headers).not.toHaveProperty('content-length');
  });

  it('An exchange over HTTP turns a refusal into an error frame for a reader without a handler for it', async () => {
    const { url } = await provider((request, response) => {
      request.resume();
      response.writeHead(400, { 'retry-after': '3' }).end('{"detail":"Invalid `previous_response_id`."}');
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection, { refusals: false });
    connection.send(create());
    await seen.ended;
    expect(seen.log).toEqual(['frame', 'closed']);
    expect(parseFrame(seen.frames[0]!)).toMatchObject({
      kind: 'error',
      error: { status: 400, code: 'previous_response_not_found', retryAfterSeconds: 3 },
    });
  });

  it('An exchange over HTTP passes on a redirect as a refusal and never follows it', async () => {
    let requests = 0;
    const { url } = await provider((request, response) => {
      requests += 1;
      request.resume();
      response.writeHead(307, { location: '/elsewhere' }).end();
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.ended;
    expect(seen.refused[0]).toMatchObject({ status: 307, headers: { location: '/elsewhere' } });
    expect(requests).toBe(1);
  });

  it.each([
    ['completed', 'response.completed', 'completed'],
    ['incomplete', 'response.incomplete', 'incomplete'],
    ['failed', 'response.failed', 'failed'],
    ['cancelled', 'response.failed', 'failed'],
  ])('A whole response that is %s is passed on as the frames of a stream', async (status, type, end) => {
    const item = { type: 'message', id: 'msg_1', role: 'assistant', content: [] };
    const whole = { id: 'r', object: 'response', status, output: [item], usage: { total_tokens: 3 }, error: null };
    const { url } = await provider((request, response) => {
      request.resume();
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(whole));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    expect((await seen.ended).code).toBe(1000);
    const frames = seen.frames.map((frame) => parseFrame(frame));
    expect(frames.map((frame) => frame.type)).toEqual([
      'response.created',
      'response.output_item.added',
      'response.output_item.done',
      type,
    ]);
    expect(frames[0]!.data).toMatchObject({ response: { id: 'r', status: 'in_progress', output: [], usage: null } });
    expect(frames[2]!.data).toMatchObject({ item });
    expect(frames[3]).toMatchObject({ kind: 'terminal', end, data: { response: whole } });
    expect(frames.map((frame) => frame.data?.sequence_number)).toEqual([0, 1, 2, 3]);
  });

  it.each([
    ['queued', 'response.queued'],
    ['in_progress', 'response.in_progress'],
  ])('A background response that is %s is passed on without a terminal', async (status, type) => {
    let body: unknown = null;
    const { url } = await provider(async (request, response) => {
      body = await json(request);
      response
        .writeHead(200, { 'content-type': 'application/json' })
        .end(JSON.stringify({ id: 'r', status, output: [] }));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create({ background: true }));
    expect((await seen.ended).code).toBe(1000);
    expect(kinds(seen.frames)).toEqual(['response.created', type]);
    expect(parseFrame(seen.frames[1]!)).toMatchObject({
      kind: 'event',
      responseId: 'r',
      data: { response: { status } },
    });
    expect(body).toMatchObject({ background: true });
    expect(body).not.toHaveProperty('stream');
  });

  it.each([
    ['a page', 'text/html', '<html><title>Welcome</title></html>', 502],
    ['no response', 'application/json', '{"ok":true}', 502],
    ['cut JSON', 'application/json', '{"id":"r","sta', 502],
    ['an error', 'application/json', '{"error":{"code":"invalid_api_key","message":"no"}}', 401],
  ])('An answer of %s with status 200 is passed on as an error', async (_what, type, body, status) => {
    const { url } = await provider((request, response) => {
      request.resume();
      response.writeHead(200, { 'content-type': type }).end(body);
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.ended;
    expect(seen.log).toEqual(['frame', 'closed']);
    expect(parseFrame(seen.frames[0]!)).toMatchObject({ kind: 'error', error: { status } });
  });

  it('An exchange over HTTP is lost when its answer is cut, after the events that arrived', async () => {
    const { url } = await provider((request, response) => {
      request.resume();
      sse(response).write(`${event({ type: 'response.created', response: { id: 'r' } })}data: {"type":"resp`, () =>
        response.destroy(),
      );
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    expect((await seen.ended).code).toBe(1006);
    expect(seen.log).toEqual(['frame', 'closed']);
  });

  it('An exchange over HTTP is lost on a refused connection, or when connecting times out', async () => {
    const gone = await startTcp(() => {});
    await gone.close();
    const refused = record(connectionTo(gone.url));
    expect(await refused.ended).toMatchObject({
      code: 1006,
      unreachable: { text: `ECONNREFUSED at ${new URL(gone.url).host}`, final: true },
    });

    // One connection to this provider, used by an answer that does not end.
    const { url } = await provider((request, response) => {
      request.resume();
      sse(response).write(event({ type: 'response.created', response: { id: 'r' } }));
    });
    const narrow = transport({ maxHttpConnections: 1 });
    const first = narrow.exchange(dialTo(url));
    const firstSeen = record(first);
    first.send(create());
    await firstSeen.count(1);
    const second = narrow.exchange(dialTo(url, {}, 50));
    const secondSeen = record(second);
    second.send(create());
    expect(await secondSeen.ended).toMatchObject({ code: 1006, reason: 'not connected within 50 ms' });
    first.close();
    await firstSeen.ended;
    expect(secondSeen.log).toEqual(['closed']);
  });

  const connectionTo = (url: string) => {
    const connection = transport().exchange(dialTo(url));
    connection.send(create());
    return connection;
  };

  const stream = `${event({ type: 'response.created', response: { id: 'r' } })}${event({ type: 'response.completed', response: { id: 'r' } })}`;
  const whole = JSON.stringify({ id: 'r', object: 'response', status: 'completed', output: [] });
  const refusal = '{"error":{"message":"slow","code":"rate_limit_exceeded"}}';

  it.each([
    ['gzip', gzipSync, 'gzip'],
    ['deflate', deflateSync, 'deflate'],
    ['deflate without its envelope', deflateRawSync, 'deflate'],
    ['br', brotliCompressSync, 'br'],
    ['zstd', zstdCompressSync, 'zstd'],
    ['gzip without a label', gzipSync, undefined],
    ['zstd without a label', zstdCompressSync, undefined],
    ['gzip labelled as br', gzipSync, 'br'],
    ['plain data labelled as gzip', (body: Buffer) => body, 'gzip'],
    ['plain data labelled as br', (body: Buffer) => body, 'br'],
    ['plain data labelled as deflate', (body: Buffer) => body, 'deflate'],
  ] as const)(
    'An answer packed as %s is unpacked: streams, whole answers and refusals',
    async (_what, pack, coding) => {
      const { url } = await provider((request, response) => {
        request.resume();
        const kind = String(request.headers['x-kind']);
        const packed = pack(Buffer.from(kind === 'stream' ? stream : kind === 'whole' ? whole : refusal));
        const type = kind === 'stream' ? 'text/event-stream' : 'application/json';
        response.writeHead(kind === 'refusal' ? 429 : 200, {
          'content-type': type,
          ...(coding && { 'content-encoding': coding }),
        });
        // In chunks: the first bytes identify the coding, even if they arrive one by one.
        response.write(packed.subarray(0, 1));
        setImmediate(() => {
          response.write(packed.subarray(1, 7));
          setImmediate(() => response.end(packed.subarray(7)));
        });
      });
      const made = transport();
      const ask = async (kind: string) => {
        const connection = made.exchange(dialTo(url, { 'x-kind': kind }));
        const seen = record(connection);
        connection.send(create());
        await seen.ended;
        return seen;
      };
      expect(kinds((await ask('stream')).frames)).toEqual(['response.created', 'response.completed']);
      expect(kinds((await ask('whole')).frames)).toEqual(['response.created', 'response.completed']);
      const { refused } = await ask('refusal');
      expect(refused[0]!.body.toString()).toBe(refusal);
      expect(refused[0]!.headers).not.toHaveProperty('content-encoding');
    },
  );

  it('The unpacked size of a packed answer is limited', async () => {
    const bomb = gzipSync(Buffer.from(`data: ${'x'.repeat(20_000_000)}\n\n`));
    const { url } = await provider((request, response) => {
      request.resume();
      response.on('error', () => {});
      response.writeHead(200, { 'content-type': 'text/event-stream', 'content-encoding': 'gzip' }).end(bomb);
    });
    const connection = transport({ maxIncomingBytes: 100_000 }).exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    expect((await seen.ended).code).toBe(1009);
    expect(seen.frames).toEqual([]);
  });

  it.each([
    ['text/plain; charset=utf-8', ''],
    ['application/octet-stream', ': hello\n\n'],
    ['application/json', '\n\n'],
    [undefined, '\ufeff'],
    ['text/html', 'retry: 100\nid: 7\n'],
    ['text/event-stream', 'x-unknown: field\n'],
  ])('An event stream labelled as %s is recognised while it arrives', async (type, before) => {
    let finish = () => {};
    const { url } = await provider((request, response) => {
      request.resume();
      response.writeHead(200, type === undefined ? {} : { 'content-type': type });
      response.write(before + stream.slice(0, stream.indexOf('\n\n') + 2));
      finish = () => response.end(stream.slice(stream.indexOf('\n\n') + 2));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.count(1);
    finish();
    await seen.ended;
    expect(kinds(seen.frames)).toEqual(['response.created', 'response.completed']);
  });

  it('An event stream with another label is recognised from its first line, even if that arrives in parts', async () => {
    let more = () => {};
    const { url } = await provider(async (request, response) => {
      request.resume();
      response.writeHead(200, { 'content-type': 'text/plain' });
      response.write(stream.slice(0, 2));
      await new Promise<void>((go) => (more = go));
      response.end(stream.slice(2));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await rounds(20);
    more();
    await seen.ended;
    expect(kinds(seen.frames)).toEqual(['response.created', 'response.completed']);
  });

  it('A whole answer labelled as a stream is recognised', async () => {
    const { url } = await provider((request, response) => {
      request.resume();
      response.writeHead(200, { 'content-type': 'text/event-stream' }).end(`\n ${whole}`);
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    await seen.ended;
    expect(kinds(seen.frames)).toEqual(['response.created', 'response.completed']);
  });

  it('A close ends the request, is reported once, and nothing is passed on after it', async () => {
    let cut: Promise<unknown> = Promise.resolve();
    const { url } = await provider((request, response) => {
      request.resume();
      cut = once(response, 'close');
      sse(response).write(event({ type: 'response.created', response: { id: 'r' } }));
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection, { onFrame: () => connection.close() });
    connection.send(create());
    await seen.ended;
    await cut;
    connection.close();
    await rounds();
    expect(seen.log).toEqual(['frame', 'closed']);
    expect(connection.open).toBe(false);
  });

  it('An exchange over HTTP can be closed before anything was sent', async () => {
    const connection = transport().exchange(dialTo('http://127.0.0.1:9/v1'));
    const seen = record(connection);
    connection.close();
    expect(connection.send(create())).toBe(false);
    await seen.ended;
    expect(seen.closed).toHaveLength(1);
  });

  it('An exchange over HTTP stops the sender while no reader is attached', async () => {
    const pad = 'x'.repeat(64 * 1024);
    let answer: ServerResponse | null = null;
    const { url } = await provider((request, response) => {
      request.resume();
      answer = sse(response);
      for (let n = 0; n < 512; n += 1) response.write(event({ type: 'response.output_text.delta', n, pad }));
      response.end();
    });
    const connection = transport().exchange(dialTo(url));
    connection.send(create());
    while (answer === null) await rounds(1);
    await rounds(200);
    expect((answer as ServerResponse).writableLength).toBeGreaterThan(8 * 1024 * 1024);
    const seen = record(connection);
    await seen.ended;
    expect(seen.frames).toHaveLength(512);
  });

  it('A paused exchange over HTTP passes no event on, stops the sender, and loses nothing', async () => {
    const pad = 'x'.repeat(64 * 1024);
    let written = 0;
    let flowing = () => {};
    const stuck = new Promise<void>((resolve) => {
      flowing = resolve;
    });
    const { url } = await provider(async (request, response) => {
      request.resume();
      sse(response);
      for (let n = 0; n < 512; n += 1) {
        written = n;
        if (response.write(event({ type: 'response.output_text.delta', n, pad }))) continue;
        if (n > 64) flowing();
        await once(response, 'drain');
      }
      response.end();
    });
    const connection = transport().exchange(dialTo(url));
    const seen = record(connection, {
      onFrame: () => {
        if (seen.frames.length === 3) connection.pause();
      },
    });
    connection.send(create());
    await seen.count(3);
    await Promise.race([stuck, rounds(200)]);
    await rounds(100);
    expect(seen.frames).toHaveLength(3);
    expect(written).toBeLessThan(511);
    connection.resume();
    await seen.ended;
    expect(seen.frames.map((frame) => (JSON.parse(frame) as { n: number }).n)).toEqual(
      Array.from({ length: 512 }, (_, n) => n),
    );
  });

  it('An exchange over HTTP ends on an event above its size limit', async () => {
    const { url } = await provider((request, response) => {
      request.resume();
      response.on('error', () => {});
      sse(response).write(`data: ${'x'.repeat(5000)}`);
    });
    const connection = transport({ maxIncomingBytes: 1000 }).exchange(dialTo(url));
    const seen = record(connection);
    connection.send(create());
    expect((await seen.ended).code).toBe(1009);
  });
});

describe('an API call over HTTP', () => {
  it('A call over HTTP passes on method, path, headers and body, and streams the answer', async () => {
    let asked: unknown = null;
    let finish = () => {};
    const { url } = await provider(async (request, response) => {
      asked = {
        method: request.method,
        url: request.url,
        key: request.headers.authorization,
        body: await text(request),
      };
      response.writeHead(201, { 'X-Request-Id': 'q' }).write('first ');
      finish = () => response.end('second');
    });
    const answer = await transport().call({
      target: { id: 't', baseUrl: url },
      method: 'POST',
      path: '/responses/compact?a=b',
      headers: { authorization: 'Bearer x' },
      body: 'hello',
    });
    expect(asked).toEqual({ method: 'POST', url: '/v1/responses/compact?a=b', key: 'Bearer x', body: 'hello' });
    expect(answer).toMatchObject({ status: 201, headers: { 'x-request-id': 'q' } });
    finish();
    expect(await text(answer.body)).toBe('first second');
  });

  it('A call over HTTP returns a redirect and an error like any other answer', async () => {
    const { url } = await provider((_request, response) => response.writeHead(302, { location: '/x' }).end('moved'));
    const call = { target: { id: 't', baseUrl: url }, method: 'GET', path: '/models', headers: {}, body: null };
    const answer = await transport().call(call);
    expect([answer.status, await text(answer.body)]).toEqual([302, 'moved']);
  });

  it.each([true, false])(
    'A call over HTTP unpacks a packed answer and removes its coding header; labelled: %s',
    async (labelled) => {
      const packed = gzipSync(Buffer.from('{"object":"list"}'));
      const coding = { 'content-length': packed.length, ...(labelled && { 'content-encoding': 'gzip' }) };
      const { url } = await provider((_request, response) => response.writeHead(200, coding).end(packed));
      const call = { target: { id: 't', baseUrl: url }, method: 'GET', path: '/models', headers: {}, body: null };
      const answer = await transport().call(call);
      expect(await text(answer.body)).toBe('{"object":"list"}');
      expect(answer.headers).not.toHaveProperty('content-encoding');
      if (labelled) expect(answer.headers).not.toHaveProperty('content-length');
    },
  );

  it('A call over HTTP throws when no answer arrived, and when it was aborted', async () => {
    const silent = await startTcp((socket) => socket.on('data', () => stop.abort()));
    cleanup.push(() => silent.close());
    const gone = await startTcp(() => {});
    await gone.close();
    const stop = new AbortController();
    const call = (baseUrl: string, signal?: AbortSignal) =>
      made.call({ target: { id: 't', baseUrl }, method: 'GET', path: '/models', headers: {}, body: null, signal });
    const made = transport();
    await expect(call(gone.url)).rejects.toBeInstanceOf(UpstreamUnreachable);
    await expect(call(silent.url, stop.signal)).rejects.toBeInstanceOf(UpstreamUnreachable);
  });

  it('A call over HTTP never leaves the base URL', async () => {
    const { url } = await provider((_request, response) => response.end());
    const call = { target: { id: 't', baseUrl: url }, method: 'GET', path: '/../admin', headers: {}, body: null };
    await expect(transport().call(call)).rejects.toBeInstanceOf(TypeError);
  });
});
