import { request } from 'undici';
import { afterEach, describe, expect, it } from 'vitest';
import { StoreUnavailable } from '../../src/store/port.ts';
import { type Face, openFace } from './face.ts';

const shared = { HOLDFAST_UPSTREAM_KEY: 'sk-shared', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' };
const routes: readonly [method: 'GET' | 'DELETE' | 'POST', path: string][] = [
  ['GET', ''],
  ['GET', '/input_items'],
  ['DELETE', ''],
  ['POST', '/cancel'],
];

let face: Face;
let asked: string[];
let forgotten: string[];
afterEach(() => face.close());

/** Opens a face in front of an upstream that returns every response to every caller. */
async function open(env: Record<string, string>, upstreamStatus = 200) {
  face = await openFace(env);
  face.simulator.script.onRequest({}, { kind: 'respond', status: upstreamStatus, body: { id: 'resp_1' } });
  asked = [];
  forgotten = [];
  face.service.knowsResponse = async (scope, id) => {
    asked.push(`${scope} ${id}`);
    return scope === 'tenant:ann';
  };
  face.service.forgetResponse = async (scope, id) => void forgotten.push(`${scope} ${id}`);
}

async function call(method: 'GET' | 'DELETE' | 'POST', path: string, key: string) {
  const answer = await request(`${face.url}/v1/responses/resp_1${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
  });
  const body = (await answer.body.json()) as { id?: string; error?: { bridge_code?: string } };
  return { status: answer.statusCode, body };
}

const seenUpstream = () => face.simulator.journal.of('request').map(({ method, path }) => `${method} ${path}`);

describe.each(routes)('%s /responses/:id%s under a shared upstream key', (method, path) => {
  it('A response is not found for a tenant that never received it, and no request is sent upstream', async () => {
    await open(shared);
    const { status, body } = await call(method, path, 'key-bob');
    expect([status, body.error?.bridge_code]).toEqual([404, 'bridge_not_found']);
    expect(asked).toEqual(['tenant:bob resp_1']);
    expect(seenUpstream()).toEqual([]);
    expect(forgotten).toEqual([]);
  });

  it('A response is requested upstream for the tenant that received it', async () => {
    await open(shared);
    const { status, body } = await call(method, path, 'key-ann');
    expect([status, body.id]).toEqual([200, 'resp_1']);
    expect(asked).toEqual(['tenant:ann resp_1']);
    expect(seenUpstream()).toEqual([`${method} /v1/responses/resp_1${path}`]);
    expect(forgotten).toEqual(method === 'DELETE' ? ['tenant:ann resp_1'] : []);
  });

  it('Access to a response is decided by the provider when the credential is the client’s own', async () => {
    await open({});
    const made: string[] = [];
    face.service.notMade = async (_scope, ids) => {
      made.push(...ids);
      return null;
    };
    expect((await call(method, `${path}?after=msg_1&before=msg_2`, 'sk-own')).status).toBe(200);
    expect([asked, made]).toEqual([[], []]);
  });
});

it('A query under a shared upstream key may name items of its own response, and no other object', async () => {
  await open(shared);
  face.service.notMade = async (_scope, ids) => ids.find((id) => id !== 'msg_1') ?? null;
  expect((await call('GET', '/input_items?after=msg_1', 'key-ann')).status).toBe(200);
  for (const path of ['?thing_id=1', '/input_items?conversation=conv_1']) {
    const { status, body } = await call('GET', path, 'key-ann');
    expect([status, body.error?.bridge_code]).toEqual([400, 'bridge_foreign_object']);
  }
  expect(seenUpstream()).toEqual(['GET /v1/responses/resp_1/input_items']);
});

it.each([300, 404, 500])('A response that the provider did not delete stays recorded (%i)', async (status) => {
  await open(shared, status);
  expect((await call('DELETE', '', 'key-ann')).status).toBe(status);
  expect(forgotten).toEqual([]);
});

it('A deletion that cannot be recorded is not acknowledged', async () => {
  await open(shared);
  face.service.forgetResponse = async () => {
    throw new StoreUnavailable('no store');
  };
  expect((await call('DELETE', '', 'key-ann')).status).toBe(503);
  expect((await request(`${face.url}/health`)).statusCode).toBe(200);
});

describe.each(['/responses/compact', '/responses/input_tokens'])(
  'a body for %s under a shared upstream key',
  (path) => {
    async function post(body: object, key = 'key-ann') {
      face.simulator.script.onRequest({}, { kind: 'respond', status: 200, body: { id: 'resp_1' } });
      const answer = await request(`${face.url}/v1${path}`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      const { error } = (await answer.body.json()) as { error?: { bridge_code?: string; param?: string } };
      return [answer.statusCode, error?.bridge_code ?? null, error?.param ?? null];
    }
    const named = { input: [{ role: 'user', content: [{ type: 'input_file', file_id: 'file_1' }] }] };
    const comparing = { prompt_cache_options: { comparison_response_id: 'resp_2' } };
    const passes = [200, null, null];

    it('A body that names only objects of its scope is relayed, and the check uses that scope', async () => {
      await open(shared);
      const made: string[] = [];
      face.service.notMade = async (scope, ids) => {
        made.push(`${scope} ${ids}`);
        return null;
      };
      expect(await post({ previous_response_id: 'resp_1', ...comparing, ...named })).toEqual(passes);
      expect(await post({ input: 'hi', previous_response_id: null, conversation: null })).toEqual(passes);
      expect(asked).toEqual(['tenant:ann resp_1', 'tenant:ann resp_2']);
      expect(made).toEqual(['tenant:ann file_1', 'tenant:ann ']);
      expect(seenUpstream()).toEqual([`POST /v1${path}`, `POST /v1${path}`]);
    });

    it('A body that names any other object is refused, and no request is sent upstream', async () => {
      await open(shared);
      const expired = expect.arrayContaining(['bridge_session_expired']);
      const foreign = (param: string) => [400, 'bridge_foreign_object', param];
      expect(await post({ previous_response_id: 'resp_1' }, 'key-bob')).toEqual(expired);
      expect(await post({ conversation: 'conv_1' })).toEqual(expired);
      expect(await post({ prompt: { id: 'pmpt_1' } })).toEqual(foreign('prompt.id'));
      expect(await post(named)).toEqual(foreign('input[0].content[0].file_id'));
      expect(await post(comparing, 'key-bob')).toEqual(foreign('prompt_cache_options.comparison_response_id'));
      expect(seenUpstream()).toEqual([]);
    });

    it('Access to named objects is decided by the provider when the credential is the client’s own', async () => {
      await open({});
      for (const body of [{ previous_response_id: 'resp_9' }, { conversation: 'conv_1' }, named, comparing])
        expect(await post(body, 'sk-own')).toEqual(passes);
      expect(asked).toEqual([]);
    });
  },
);
