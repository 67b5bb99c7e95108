import { createHmac } from 'node:crypto';
import type { IncomingHttpHeaders } from 'node:http';
import { request } from 'undici';
import { describe, expect, it } from 'vitest';
import { createForwardTokens, packRequest, unpackRequest } from '../../src/cluster/forward/envelope.ts';
import { readConfig } from '../../src/config.ts';
import { createAuthentication } from '../../src/http/app.ts';
import { readSource } from '../../src/intake/read.ts';
import { credentialOf } from '../../src/session/port.ts';
import { createManualClock } from '../../src/testing/manual-clock.ts';
import { accountOf, upstreamHeaders } from '../../src/upstream/headers.ts';
import { secrets, turnRequest } from '../cluster/forward/support.ts';
import { openFace } from '../http/face.ts';
import { post } from '../support/client.ts';
import { startProvider } from '../upstream/servers.ts';
import { scripted, user, usual } from './scripted.ts';

/** Authentication of requests with given headers. */
function authentication(env: Record<string, string> = {}) {
  const authenticate = createAuthentication(readConfig(env), 'pepper');
  return (headers: IncomingHttpHeaders) => authenticate({ headers });
}
const own = authentication();
const shared = authentication({ HOLDFAST_UPSTREAM_KEY: 'sk-up', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' });
const sent = (client: Record<string, string>, authenticate = own, also?: string[]) =>
  upstreamHeaders({ client, credential: credentialOf(authenticate(client)), transport: 'http', also });

describe('account headers of a request', () => {
  const key = { authorization: 'Bearer k' };

  it.each([
    ['openai-organization', 'org-1'],
    ['openai-project', 'proj_1'],
    ['chatgpt-account-id', 'acct'],
    ['x-openai-project', 'p'],
  ])('An account chosen by %s is part of the scope and of the credential', (name, value) => {
    const plain = own(key);
    const chosen = own({ ...key, [name]: value });
    expect(chosen.scope).not.toBe(plain.scope);
    expect(chosen.credentialFp).not.toBe(plain.credentialFp);
    expect(own({ ...key, [name]: ` ${value} ` })).toMatchObject({ scope: chosen.scope });
    expect(own({ ...key, [name]: '' }).scope).toBe(plain.scope);
    expect(own({ ...key, [name]: `${value}2` }).scope).not.toBe(chosen.scope);
  });

  it('Accounts in different headers are different scopes, and a request without one keeps its scope of earlier releases', () => {
    const scopes = new Set(
      [{ 'openai-organization': 'a' }, { 'openai-project': 'a' }, {}].map((more) => own({ ...key, ...more }).scope),
    );
    expect(scopes.size).toBe(3);
    expect(own({}).scope).toBe('local');
    // The hash of the header alone, as in earlier releases, so that stored sessions keep their scope.
    const hash = createHmac('sha256', 'pepper').update('Bearer k').digest('hex');
    expect(own(key).scope).toBe(`cred:${hash.slice(0, 24)}`);
    expect(accountOf({ 'x-codex-window-id': 'w', 'user-agent': 'organization' })).toBe('');
  });

  it('Several account headers choose the same account in any order', () => {
    const account = { 'openai-organization': 'a', 'openai-project': 'b' };
    expect(accountOf(Object.fromEntries(Object.entries(account).reverse()))).toBe(accountOf(account));
    expect(accountOf(account)).not.toBe(accountOf({ 'openai-organization': 'b', 'openai-project': 'a' }));
  });

  it('An account header is ignored under a shared upstream key', () => {
    const [a, b] = [{}, { 'openai-project': 'b' }].map((more) => shared({ authorization: 'Bearer key-ann', ...more }));
    expect(a).toEqual(b);
    const client = { authorization: 'Bearer key-ann', 'openai-project': 'b', 'chatgpt-account-id': 'c' };
    expect(sent(client, shared)).toEqual({ authorization: 'Bearer sk-up' });
    const keyless = authentication({ HOLDFAST_UPSTREAM_KEY: 'sk-up' });
    expect(sent({ 'openai-project': 'b' }, keyless)).toEqual({ authorization: 'Bearer sk-up' });
  });

  it('A turn does not use a socket that was opened for another account', async () => {
    await using at = await scripted({ turn: (turn) => usual(turn) });
    const ask = (project: string) =>
      post(
        at.url,
        { model: 'm', stream: true, store: false, input: [user('one')] },
        { 'session-id': 's', 'openai-project': project },
      );
    await ask('a');
    await ask('b');
    expect(at.turns.map(({ headers }) => headers['openai-project'])).toEqual(['a', 'b']);
    expect(at.provider.sockets.size).toBe(2);
  });
});

describe('an API key in its own header', () => {
  it.each(['api-key', 'x-api-key'])(
    'The header %s is a credential with its own scope, and is forwarded under its name',
    (name) => {
      const caller = own({ [name]: 'azure-1' });
      expect(caller.scope).toMatch(/^cred:[0-9a-f]{24}$/);
      expect(own({ [name]: 'azure-2' }).scope).not.toBe(caller.scope);
      expect(own({ authorization: 'Bearer azure-1' }).scope).not.toBe(caller.scope);
      expect(JSON.stringify([caller.scope, caller.credentialFp])).not.toContain('azure');
      expect(sent({ [name]: 'azure-1' })).toEqual({ [name]: 'azure-1' });
      expect(sent({ [name]: 'azure-1', authorization: 'Bearer k' })).toEqual({
        [name]: 'azure-1',
        authorization: 'Bearer k',
      });
    },
  );

  it.each(['api-key', 'x-api-key'])(
    'The header %s is accepted as a key of the bridge, and is not forwarded',
    (name) => {
      expect(shared({ [name]: 'key-bob' }).scope).toBe('tenant:bob');
      expect(sent({ [name]: 'key-bob' }, shared, [name])).toEqual({ authorization: 'Bearer sk-up' });
      expect(() => shared({ [name]: 'key-eve' })).toThrow();
    },
  );

  it('An API key in its own header is sealed when its request is forwarded to another worker', () => {
    const sealer = createForwardTokens({ secrets: secrets(), clock: createManualClock() });
    const given = turnRequest();
    const caller = { ...given.caller, upstreamKeys: { 'api-key': 'azure-secret' } };
    const headers = { ...given.headers, 'api-key': 'azure-secret', 'x-title': 'App' };
    const parcel = packRequest({ ...given, caller, headers }, 0, sealer);
    expect(parcel).not.toContain('azure-secret');
    const arrived = unpackRequest(readSource(parcel, 'envelope'), 0, sealer);
    expect(arrived.caller.upstreamKeys).toEqual({ 'api-key': 'azure-secret' });
    expect(arrived.headers).toMatchObject({ 'x-title': 'App' });
    expect(arrived.headers).not.toHaveProperty('api-key');
  });
});

describe('headers to the provider', () => {
  it('Client headers are forwarded by family, without those of the bridge and of the hop', () => {
    const client = {
      'x-codex-installation-id': '1',
      'x-codex-not-known-yet': '2',
      'x-openai-internal-codex-residency': '3',
      'x-oai-attestation': '4',
      'x-responsesapi-include-timing-metrics': '5',
      'openai-anything': '6',
      traceparent: '7',
      tracestate: '8',
    };
    const kept = { 'x-codex-turn-state': 'ours', 'x-codex-routing-hint': 'hop', 'x-title': 'App', baggage: 'user=1' };
    expect(sent({ ...client, ...kept })).toEqual(client);
  });

  it('HOLDFAST_FORWARD_HEADERS adds headers to those that are forwarded', () => {
    const { forwardHeaders } = readConfig({ HOLDFAST_FORWARD_HEADERS: ' X-Title, http-referer ,x-title' }).upstream;
    expect(forwardHeaders).toEqual(['x-title', 'http-referer']);
    expect(sent({ 'x-title': 'App', 'x-other': 'o' }, own, [...forwardHeaders])).toEqual({ 'x-title': 'App' });
  });

  it.each([
    'cookie',
    'Authorization',
    'proxy-authorization',
    'host',
    'connection',
    'transfer-encoding',
    'x-forwarded-for',
    'forwarded',
    'cf-ray',
    'content-type',
    'x-holdfast-session',
    'api-key',
    'x-codex-turn-state',
    'idempotency-key',
    'two words',
  ])('HOLDFAST_FORWARD_HEADERS cannot add %s', (name) => {
    expect(() => readConfig({ HOLDFAST_FORWARD_HEADERS: `x-title,${name}` })).toThrow(/HOLDFAST_FORWARD_HEADERS/);
    const lower = name.toLowerCase();
    const credential = { authorization: null, keys: {}, isClients: true };
    expect(upstreamHeaders({ client: { [lower]: 'v' }, credential, transport: 'http', also: [lower] })).toEqual({});
  });
});

describe('API calls other than turns', () => {
  const call = async (url: string, method: string, path: string, body?: object, headers: object = {}) => {
    const answer = await request(`${url}${path}`, {
      method: method as 'GET',
      headers: { authorization: 'Bearer k', ...(body ? { 'content-type': 'application/json' } : {}), ...headers },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    return { status: answer.statusCode, headers: answer.headers, body: await answer.body.text() };
  };

  it.each([
    ['GET', '/models/gpt-x', 'GET, DELETE'],
    ['GET', '/models/maker/model', 'GET, DELETE'],
    ['GET', '/responses/resp_1/input_items?limit=5', 'GET'],
    ['POST', '/responses/input_tokens', 'POST'],
  ])('%s %s reaches the provider, and another method gets 405 with the allowed one', async (method, path, allowed) => {
    await using face = await faced({});
    const body = method === 'POST' ? { model: 'm', input: 'x' } : undefined;
    expect(JSON.parse((await call(face.url, method, `/v1${path}`, body)).body).reached).toBe(`${method} /v1${path}`);
    const wrong = await call(face.url, 'PUT', `/v1${path}`, {});
    expect([wrong.status, wrong.headers.allow]).toEqual([405, allowed]);
  });

  it.each([
    ['GET', '/responses/resp_foreign/input_items', undefined, 404],
    ['POST', '/responses/input_tokens', { input: [], previous_response_id: 'resp_foreign' }, 400],
    ['POST', '/responses/input_tokens', { input: [], conversation: 'conv_1' }, 400],
    ['POST', '/responses/input_tokens', { input: [{ role: 'user', content: [{ file_id: 'file_1' }] }] }, 400],
    ['POST', '/responses/compact', { input: [], previous_response_id: 'resp_foreign' }, 400],
    ['POST', '/responses/input_tokens', { input: [], previous_response_id: 'resp_mine' }, 200],
    ['GET', '/responses/resp_mine/input_items', undefined, 200],
  ] as const)(
    'Under a shared credential %s %s %j is answered with its expected status (case %#)',
    async (method, path, body, status) => {
      await using face = await faced({ HOLDFAST_UPSTREAM_KEY: 'sk-up' });
      face.knows('resp_mine');
      const answer = await call(face.url, method, `/v1${path}`, body);
      expect(answer.status).toBe(status);
      expect(face.reached()).toBe(status === 200 ? 1 : 0);
    },
  );

  async function faced(env: Record<string, string>) {
    let reached = 0;
    const provider = await startProvider({
      http(asked, answer) {
        reached += 1;
        answer.setHeader('content-type', 'application/json');
        answer.end(JSON.stringify({ reached: `${asked.method} ${asked.url}` }));
      },
    });
    const face = await openFace({ ...env, HOLDFAST_UPSTREAM_URL: provider.url });
    return {
      url: face.url,
      reached: () => reached,
      knows(id: string) {
        face.service.knowsResponse = async (_scope, asked) => asked === id;
      },
      async [Symbol.asyncDispose]() {
        await face.close();
        await provider.close();
      },
    };
  }
});

it('An id that the bridge issued is accepted, whatever its length', async () => {
  const long = `resp_${'Ab9_'.repeat(1_000)}`;
  await using face = await openFaceFor();
  const answer = post(face.url, { model: 'm', previous_response_id: long });
  const { request: taken, sink } = await face.next();
  expect(taken.body.previous_response_id).toBe(long);
  sink.end('response.completed', '{"type":"response.completed","response":{"id":"r","n":1.0}}');
  expect((await answer).text).toBe('{"id":"r","n":1.0}');

  async function openFaceFor() {
    const opened = await openFace();
    return Object.assign(opened, { [Symbol.asyncDispose]: () => opened.close() });
  }
});
