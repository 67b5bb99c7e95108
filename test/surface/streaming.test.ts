import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { connect } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { freshDatabase } from '../support/database.ts';
import { freePort, startWorker } from '../support/worker-process.ts';
import { startObjects } from './provider.ts';
import { openSurface, SHARED, type Surface } from './support.ts';

const MB = 1024 * 1024;

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

async function opened(env: Record<string, string> = {}): Promise<Surface> {
  const at = await openSurface(env, false);
  closing.push(at.close);
  return at;
}

/** Begins a request whose body the test writes. */
function begin(url: string, path: string, headers: Record<string, string | number> = {}): ClientRequest {
  const started = request(url + path, { method: 'POST', headers: { authorization: 'Bearer key-ann', ...headers } });
  started.on('error', () => {});
  return started;
}
const answerTo = async (started: ClientRequest) => (await once(started, 'response'))[0] as IncomingMessage;
const textOf = async (answer: IncomingMessage) => {
  let text = '';
  for await (const chunk of answer.setEncoding('utf8')) text += chunk;
  return text;
};

/** Sends headers only, over a socket of its own, and returns the answer's status line and body. */
async function headersOnly(url: string, path: string, headers: readonly string[]): Promise<string> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  let text = '';
  socket.setEncoding('utf8');
  socket.write([`POST ${path} HTTP/1.1`, `host: ${hostname}:${port}`, ...headers, '', ''].join('\r\n'));
  for await (const chunk of socket) {
    text += chunk;
    if (text.includes('"bridge_code"')) break;
  }
  socket.destroy();
  return text;
}

it('A call with the credential of the client reaches the provider at the path that it names, with and without a query', async () => {
  const at = await opened();
  const paths = ['/files', '/files?limit=2&after=file_1'];
  for (const path of paths) await at.call('sk-own', 'GET', `/v1${path}`);
  expect(at.provider.calls.map(({ path }) => path)).toEqual(paths);
});

describe.each(['own', 'shared'] as const)(
  'an upload of 160 MB through a process, with a credential of the kind: %s',
  (kind) => {
    it('The upload reaches the provider byte for byte, and the memory of the process stays flat', async () => {
      const database = await freshDatabase();
      closing.push(database.drop);
      const provider = await startObjects();
      closing.push(provider.close);
      const port = await freePort();
      const worker = await startWorker({
        PORT: String(port),
        DATABASE_URL: database.url,
        HOLDFAST_SECRETS: 'test:0123456789abcdef0123456789abcdef',
        HOLDFAST_UPSTREAM_URL: provider.url,
        ...(kind === 'shared' ? SHARED : {}),
      });
      closing.push(worker.kill);
      const url = `http://127.0.0.1:${port}`;
      const boundary = 'clients-own';
      const head = (by: string) =>
        `--${by}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n` +
        `--${by}\r\ncontent-disposition: form-data; name="file"; filename="big.bin"\r\ncontent-type: application/octet-stream\r\n\r\n`;
      const piece = (nth: number) => Buffer.alloc(MB, nth % 251);
      async function* body(size: number, by: string) {
        yield Buffer.from(head(by));
        for (let nth = 0; nth < size; nth += 1) yield piece(nth);
        yield Buffer.from(`\r\n--${by}--\r\n`);
      }
      const upload = async (size: number) => {
        const started = begin(url, '/v1/files', { 'content-type': `multipart/form-data; boundary=${boundary}` });
        const answer = answerTo(started);
        await pipeline(Readable.from(body(size, boundary)), started);
        return (await answer).statusCode;
      };
      const peak = async () =>
        Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${worker.pid}/status`, 'utf8'))![1]) / 1024;

      for (let times = 0; times < 2; times += 1) expect(await upload(32)).toBe(200);
      const before = await peak();
      expect(await upload(160)).toBe(200);
      // Held whole, the last body would take 128 MB more than the ones before.
      expect((await peak()) - before).toBeLessThan(96);

      const sent = provider.calls.at(-1)!;
      const by = /boundary=(.+)$/.exec(sent.headers['content-type']!)![1]!;
      expect(by === boundary).toBe(kind === 'own');
      const hash = createHash('sha256');
      for await (const chunk of body(160, by)) hash.update(chunk);
      expect(sent.sha256).toBe(hash.digest('hex'));
    }, 240_000);
  },
);

describe('streams in both directions', () => {
  it('An upload that its client abandons is abandoned at the provider', async () => {
    for (const env of [{}, SHARED]) {
      const at = await opened(env);
      const started = begin(at.url, '/v1/files', { 'content-type': 'multipart/form-data; boundary=b' });
      const arrived = new Promise<void>((reached) => {
        at.provider.answer = (req) => {
          req.once('data', () => reached());
          return false;
        };
      });
      started.write(`--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n${'x'.repeat(4 * MB)}`);
      await arrived;
      started.destroy();
      expect(await at.provider.aborted()).toBe('/files');
      expect(at.provider.calls).toEqual([]);
    }
  });

  it('A download that its client abandons is abandoned at the provider', async () => {
    const at = await opened();
    at.provider.answer = (_req, res) => {
      res.writeHead(200, { 'content-type': 'application/octet-stream' });
      const more = () => {
        while (!res.destroyed && res.write(Buffer.alloc(65_536))) {}
      };
      res.on('drain', more);
      more();
      return true;
    };
    const started = request(`${at.url}/v1/files/file_1/content`, { headers: { authorization: 'Bearer sk-own' } });
    started.on('error', () => {}).end();
    const answer = await answerTo(started);
    answer.on('error', () => {});
    await once(answer, 'data');
    answer.destroy();
    expect(await at.provider.aborted()).toBe('/files/file_1/content');
  });

  it('Events reach the client one by one, while the provider still writes', async () => {
    const at = await opened();
    let write = (_text: string) => {};
    let finish = () => {};
    at.provider.answer = (_req, res) => {
      res.writeHead(200, { 'content-type': 'text/event-stream', 'openai-processing-ms': '5', 'set-cookie': 'a=b' });
      write = (text) => void res.write(text);
      finish = () => void res.end();
      write('data: {"n":0}\n\n');
      return true;
    };
    const started = begin(at.url, '/v1/chat/completions', { 'content-type': 'application/json' });
    started.end('{"stream":true}');
    const answer = await answerTo(started);
    expect(answer.headers).toMatchObject({ 'content-type': 'text/event-stream', 'openai-processing-ms': '5' });
    expect(answer.headers).not.toHaveProperty('set-cookie');
    for (let nth = 0; nth < 3; nth += 1) {
      const [chunk] = await once(answer, 'data');
      expect(String(chunk)).toBe(`data: {"n":${nth}}\n\n`);
      if (nth < 2) write(`data: {"n":${nth + 1}}\n\n`);
    }
    const ended = once(answer, 'end');
    finish();
    await ended;
  });

  it('A refusal that comes before the whole body reaches a client that still sends', async () => {
    const at = await opened();
    at.provider.answer = (req, res) => {
      // Like a server that discards what still arrives. One that resets the connection loses its own answer.
      req.resume();
      res.writeHead(413, { 'content-type': 'application/json' });
      res.end('{"error":{"message":"too large"}}');
      return true;
    };
    const started = begin(at.url, '/v1/files', { 'content-type': 'application/octet-stream' });
    const answer = answerTo(started);
    for (let nth = 0; nth < 16; nth += 1) started.write(Buffer.alloc(MB));
    started.end();
    const refused = await answer;
    expect([refused.statusCode, await textOf(refused)]).toEqual([413, '{"error":{"message":"too large"}}']);
  });

  it('The bytes of a download and the body of a call arrive unchanged', async () => {
    const at = await opened();
    at.provider.objects.set('/files/file_1', { id: 'file_1' });
    const answer = await fetch(`${at.url}/v1/files/file_1/content`, { headers: { authorization: 'Bearer sk-own' } });
    expect([...new Uint8Array(await answer.arrayBuffer())]).toEqual([0, 255, 128, 10, 13]);
    const text = '{"n":9223372036854775807, "file_ids":["file_of_anyone"]}';
    expect((await at.call('sk-own', 'POST', '/v1/vector_stores?x=%2F&y=1', text)).status).toBe(200);
    const sent = at.provider.calls.at(-1)!;
    expect([sent.text, sent.headers.authorization, sent.headers['content-length']]).toEqual([
      text,
      'Bearer sk-own',
      String(text.length),
    ]);
    expect(sent.path).toBe('/vector_stores?x=%2F&y=1');
  });
});

describe('admission before the body', () => {
  it.each([
    ['an unknown key', '/v1/files', ['authorization: Bearer unknown'], '401'],
    ['a call that does not pass under the shared credential', '/v1/batches', [], '403'],
    ['a family that the operator does not let pass', '/v1/images/edits', [], '403'],
    ['an object of another tenant', '/v1/containers/cntr_1/files', [], '404'],
    ['a realtime session', '/v1/realtime/calls', [], '400'],
    ['an announced length above the limit', '/v1/files', ['content-type: multipart/form-data; boundary=b'], '413'],
  ])('A request with %s is refused before its body is sent', async (_, path, headers, status) => {
    const at = await opened({ ...SHARED, HOLDFAST_PASS: 'files,batches,containers', HOLDFAST_MAX_PASS_BYTES: '1000' });
    const key = headers.some((line) => line.startsWith('authorization')) ? [] : ['authorization: Bearer key-ann'];
    const text = await headersOnly(at.url, path, [...key, ...headers, 'content-length: 5000000']);
    expect(text.split(' ')[1]).toBe(status);
    expect(at.provider.calls).toEqual([]);
  });

  it('A body that grows above the limit is refused, and never ends at the provider', async () => {
    for (const env of [{}, SHARED]) {
      const at = await opened({ ...env, HOLDFAST_MAX_PASS_BYTES: '1000000' });
      const started = begin(at.url, '/v1/files', { 'content-type': 'multipart/form-data; boundary=b' });
      const answer = answerTo(started);
      started.write('--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n');
      for (let nth = 0; nth < 4; nth += 1) started.write(Buffer.alloc(MB));
      started.end('\r\n--b--\r\n');
      const refused = await answer;
      expect([refused.statusCode, JSON.parse(await textOf(refused)).error.bridge_code]).toEqual([
        413,
        'bridge_body_too_large',
      ]);
      expect(at.provider.calls).toEqual([]);
    }
  });
});

describe('what may pass', () => {
  const codes = async (at: Surface, paths: readonly string[]) =>
    Promise.all(paths.map(async (path) => (await at.call('sk-own', 'GET', path)).body.error?.bridge_code ?? 'passed'));

  it('A setting lists the families that pass; the Responses API is always served', async () => {
    for (const [pass, files, chat] of [
      ['files', 'passed', 'bridge_family_not_passed'],
      ['', 'bridge_family_not_passed', 'bridge_family_not_passed'],
      ['none', 'bridge_family_not_passed', 'bridge_family_not_passed'],
      ['all', 'passed', 'passed'],
    ] as const) {
      const at = await opened({ HOLDFAST_PASS: pass });
      expect(await codes(at, ['/v1/files', '/v1/chat/completions', '/v1/conversations/conv_1', '/v1/models'])).toEqual([
        ...[files, chat],
        ...['passed', 'passed'],
      ]);
    }
  });

  it('Unknown families are not found, and realtime sessions are refused with the reason', async () => {
    const at = await opened();
    expect(await codes(at, ['/v1/unknown', '/v1/realtime/sessions', '/live/sessions/s/content'])).toEqual([
      'bridge_not_found',
      ...['bridge_realtime_unsupported', 'bridge_realtime_unsupported'],
    ]);
    expect(at.provider.calls).toEqual([]);
  });

  it('The base path may be left out, or be the one of Codex', async () => {
    const at = await opened();
    for (const base of ['', '/v1', '/backend-api/codex']) {
      for (const path of ['/models', '/files?limit=1', '/conversations/conv_1', '/responses/resp_1']) {
        at.provider.calls.length = 0;
        const { body } = await at.call('sk-own', 'GET', base + path);
        expect([base, path, body.error?.bridge_code, at.provider.calls[0]?.path]).toEqual([
          base,
          path,
          undefined,
          path,
        ]);
      }
    }
  });

  it('A path goes where its route leads, whatever the request line contains', async () => {
    const at = await opened();
    const { hostname, port } = new URL(at.url);
    for (const path of [
      '/v1/files/..%2Fmodels',
      '/v1/files/../organization/users',
      '/v1/files/%2e%2e/x',
      '/v1/files//x',
      '/v1/files/a%252Fb',
      '/files/..\\x',
    ]) {
      const socket = connect(Number(port), hostname);
      socket.write(
        `GET ${path} HTTP/1.1\r\nhost: ${hostname}:${port}\r\nauthorization: Bearer sk-own\r\nconnection: close\r\n\r\n`,
      );
      let text = '';
      for await (const chunk of socket.setEncoding('utf8')) text += chunk;
      expect([path, text.split(' ')[1]]).toEqual([path, '404']);
    }
    expect(at.provider.calls).toEqual([]);
  });
});
