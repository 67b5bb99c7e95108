import { connect } from 'node:net';
import { gzipSync } from 'node:zlib';
import { afterEach, describe, expect, it } from 'vitest';
import { createReader, type Reader } from '../../../src/intake/pool.ts';
import { bounds, readSource } from '../../../src/intake/read.ts';
import { MOST_LEVELS } from '../../../src/json.ts';
import { type Face, openFace } from '../../http/face.ts';

let face: Face | null = null;
afterEach(async () => {
  await face?.close();
  face = null;
});

/** Returns the error with which a body is refused; null when it is accepted. */
function refusal(text: string) {
  try {
    readSource(text, 'body');
    return null;
  } catch (error) {
    const { code, param, message } = error as { code: string; param: string | null; message: string };
    return { code, param, message };
  }
}
const refused = (fields: object) => refusal(JSON.stringify({ model: 'm', input: 'x', ...fields }));
const long = (length: number) => 'x'.repeat(length);
const keys = (count: number) => Object.fromEntries(Array.from({ length: count }, (_, at) => [`k${at}`, '']));
const item = { role: 'user', content: 'a' };

describe('bounds of a body', () => {
  it.each<[string, string | null, (most: number) => object, number]>([
    ['many items', 'input', (count) => ({ input: new Array(count).fill(item) }), bounds.items],
    ['many tools', 'tools', (count) => ({ tools: new Array(count).fill({ type: 'function' }) }), bounds.tools],
    ['many values in include', 'include', (count) => ({ include: new Array(count).fill('a') }), bounds.included],
    ['many keys of metadata', 'metadata', (count) => ({ metadata: keys(count) }), bounds.metadata],
    ['many keys of client metadata', 'client_metadata', (count) => ({ client_metadata: keys(count) }), bounds.metadata],
    ['many members', null, (count) => keys(count - 2), bounds.members],
    ['long a member name', null, (count) => ({ [long(count)]: 1 }), bounds.name],
    ['long a model', 'model', (count) => ({ model: long(count) }), bounds.name],
    ['long a cache key', 'prompt_cache_key', (count) => ({ prompt_cache_key: long(count) }), bounds.name],
    ['long a turn id', 'client_metadata', (count) => ({ client_metadata: { turn_id: long(count) } }), bounds.name],
    ['long a value in include', 'include.0', (count) => ({ include: [long(count)] }), bounds.name],
    ['long an anchor', 'previous_response_id', (count) => ({ previous_response_id: long(count) }), bounds.id],
    ['long an item id', 'input', (count) => ({ input: [{ type: 'message', id: long(count) }] }), bounds.id],
  ])('A body is refused with its field and bound when it has too %s', (_, param, fields, most) => {
    expect(refused(fields(most))).toBeNull();
    const found = refused(fields(most + 1));
    expect(found).toMatchObject({ code: 'bridge_invalid_request' });
    expect(found!.message).toContain(String(most));
    if (param !== null) expect(found!.param?.startsWith(param)).toBe(true);
  });

  it('A body is refused with its bound when it is nested too deep, whatever its depth', () => {
    const nested = (levels: number) => `{"a":${'['.repeat(levels - 1)}${']'.repeat(levels - 1)}}`;
    expect(MOST_LEVELS).toBe(400);
    expect(refusal(nested(MOST_LEVELS))).toBeNull();
    for (const levels of [MOST_LEVELS + 1, 1_000_000]) {
      expect(refusal(nested(levels))).toMatchObject({ code: 'bridge_invalid_request' });
      expect(refusal(nested(levels))!.message).toContain('400 levels');
    }
  });

  it('A body is refused with its bound when it has too many values, of any type', () => {
    const holding = (count: number) => `{"a":[${new Array(count).fill('[]').join(',')}]}`;
    expect(refusal(holding(400_000))).toBeNull();
    for (const text of [holding(600_000), `{"a":[${new Array(bounds.values).fill('1').join(',')}]}`]) {
      expect(refusal(text)).toMatchObject({ code: 'bridge_body_too_large' });
    }
  });
});

describe('numbers beyond a double where an object is expected', () => {
  it.each(['input', 'tools'])('A number beyond a double is refused as an element of %s', (name) => {
    expect(refusal(`{"model":"m","${name}":[1E400]}`)).toMatchObject({ code: 'bridge_invalid_request' });
  });

  it.each(['metadata', 'client_metadata', 'reasoning', 'text', 'conversation'])(
    'A number beyond a double is refused as the member %s',
    (name) => {
      expect(refusal(`{"model":"m","${name}":1E400}`)).toMatchObject({ param: name });
    },
  );

  it.each(['input', 'model', 'tools', 'include', 'previous_response_id'])(
    'An object whose length is a number beyond a double is refused as the member %s',
    (name) => {
      expect(refusal(`{"model":"m","${name}":{"length":18446744073709551616}}`)).toMatchObject({ param: name });
    },
  );

  it('A number beyond a double is refused as the whole body', () => {
    expect(refusal('1E400')).toMatchObject({ code: 'bridge_invalid_request' });
  });

  it('Reading a number takes time linear in its digits', () => {
    const read = readSource(`{"model":"m","n":1${'0'.repeat(1_000_000)}1}`, 'body');
    expect(read.request.contextFp).toMatch(/^[0-9a-f]{64}$/);
  });
});

/** Sends the head of a request and part of its body; returns the status line and the body of the answer. */
function post(url: string, headers: string, body: Buffer | string = ''): Promise<string> {
  const { port } = new URL(url);
  const socket = connect(Number(port), '127.0.0.1');
  const head = `POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-type: application/json\r\n${headers}\r\n\r\n`;
  socket.write(Buffer.concat([Buffer.from(head), Buffer.from(body)]));
  return new Promise((resolve) => {
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
      if (!text.includes('"bridge_code"')) return;
      socket.destroy();
      resolve(text);
    });
  });
}

describe('body bytes in hand', () => {
  // One tenant, so that only the worker's limit applies.
  const small = { HOLDFAST_BODIES_BYTES: '1000', HOLDFAST_UPSTREAM_KEY: 'sk-upstream' };
  const body = (size: number) => JSON.stringify({ model: 'm', input: long(size) });

  it('Bodies beyond the budget are refused before they are read', async () => {
    face = await openFace(small);
    const answer = await post(face.url, 'content-length: 1001');
    expect(answer).toMatch(/^HTTP\/1\.1 503 /);
    expect(answer).toContain('bridge_bodies_full');
    expect(answer.toLowerCase()).toContain('retry-after: 1');
  });

  it('Unannounced bodies count while they arrive, by their unpacked size', async () => {
    face = await openFace(small);
    const packed = gzipSync(body(5_000));
    expect(packed.length).toBeLessThan(200);
    const chunk = `800\r\n${long(2_048)}\r\n`;
    for (const answer of [
      await post(face.url, `content-encoding: gzip\r\ncontent-length: ${packed.length}`, packed),
      await post(face.url, 'transfer-encoding: chunked', chunk),
    ]) {
      expect(answer).toMatch(/^HTTP\/1\.1 503 /);
    }
  });

  it('Body bytes count as in hand until the turn has ended', async () => {
    face = await openFace(small);
    const send = () =>
      fetch(`${face!.url}/v1/responses`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', authorization: 'Bearer k' },
        body: body(600),
      });
    const first = send();
    const { lease, sink } = await face.next();
    expect((await send()).status).toBe(503);
    lease.end();
    const third = send();
    const next = await face.next();
    for (const each of [sink, next.sink]) each.end('response.completed', JSON.stringify({ response: { id: 'r' } }));
    expect([(await first).status, (await third).status]).toEqual([200, 200]);
  });

  it('A refused body releases its bytes once', async () => {
    face = await openFace(small);
    for (let round = 0; round < 3; round += 1) {
      const text = `{"model":7,"input":"${long(600)}"}`;
      expect(await post(face.url, `content-length: ${text.length}`, text)).toMatch(/^HTTP\/1\.1 400 /);
    }
  });
});

describe('reader threads', () => {
  const failures: string[] = [];
  const log = { error: (_fields: object, message: string) => void failures.push(message) };
  const make = (options: object): Reader => createReader({ logger: log, inlineBytes: 0, threads: 1, ...options });
  const costly = `{"model":"m","input":[{"role":"user","content":[${new Array(450_000).fill('{}').join(',')}]}]}`;
  const plain = '{"model":"m","input":"x"}';

  it('A body that needs too much memory ends its reader thread and not the process', async () => {
    const reader = make({ heapMb: 24 });
    await expect(reader.read(costly, 'body')).rejects.toMatchObject({ code: 'bridge_body_too_large' });
    expect((await reader.read(plain, 'body')).request.body.model).toBe('m');
    await reader.close();
  });

  it('A reader thread that takes too long is terminated, and the next body is read', async () => {
    const reader = make({ longestMs: 1 });
    await expect(reader.read(costly, 'body')).rejects.toMatchObject({ code: 'bridge_body_too_large' });
    await reader.close();
  });

  it('A body whose client left while it was queued is not read', async () => {
    const reader = make({});
    const gone = new AbortController();
    const first = reader.read(costly, 'body');
    const second = reader.read(plain, 'body', { gone: gone.signal });
    const third = reader.read(plain, 'body', { gone: AbortSignal.abort() });
    gone.abort();
    await expect(second).rejects.toMatchObject({ code: 'bridge_turn_cancelled' });
    await expect(third).rejects.toMatchObject({ code: 'bridge_turn_cancelled' });
    expect((await first).request.items.list).toHaveLength(1);
    await reader.close();
    await expect(reader.read(plain, 'body')).rejects.toMatchObject({ code: 'bridge_draining' });
  });

  it('A reader thread reports a refusal like the event loop does', async () => {
    const reader = make({});
    const text = '{"model":7,"input":"x"}';
    const here = refusal(text);
    await expect(reader.read(text, 'body')).rejects.toMatchObject({ ...here });
    await expect(reader.read([Buffer.from([0xff, 0xfe])], 'body')).rejects.toMatchObject({
      code: 'bridge_invalid_json',
    });
    await reader.close();
    expect(failures).toEqual([]);
  });
});
