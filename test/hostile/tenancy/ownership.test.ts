import { once } from 'node:events';
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { request } from 'undici';
import { afterEach, describe, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../../src/testing/index.ts';
import { post } from '../../support/client.ts';
import { freshDatabase } from '../../support/database.ts';
import { startProvider } from '../../upstream/servers.ts';

type Item = Record<string, unknown>;

const shared = { HOLDFAST_UPSTREAM_KEY: 'sk-shared-key', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' };

const said = (text: string, annotations: object[] = []) => ({ type: 'output_text', text, annotations });
/** Output of a turn of tenant ann: items that mention files, a container, an approval request, a safety check. */
const made: Item[] = [
  { type: 'code_interpreter_call', id: 'ci_1', code: '1', container_id: 'cntr_1', outputs: [], status: 'completed' },
  { type: 'image_generation_call', id: 'ig_1', result: 'AA', status: 'completed' },
  { type: 'mcp_approval_request', id: 'mcpr_1', name: 'n', arguments: '{}', server_label: 's' },
  { type: 'web_search_call', id: 'ws_1', status: 'completed', action: { type: 'other' } },
  {
    type: 'computer_call',
    id: 'cu_1',
    call_id: 'call_1',
    action: { type: 'wait' },
    pending_safety_checks: [{ id: 'cu_sc_1', code: 'c', message: 'm' }],
    status: 'completed',
  },
  {
    type: 'message',
    id: 'msg_1',
    role: 'assistant',
    status: 'completed',
    content: [said('done', [{ type: 'container_file_citation', container_id: 'cntr_1', file_id: 'cfile_1' }])],
  },
];
const user = { role: 'user', content: 'go on' };
/** Ways to name what the turn made, each with the path of the name. */
const names: [path: string, body: (input: Item[]) => object][] = [
  ['input[0].container_id', (more) => ({ input: [made[0], ...more] })],
  ['tools[0].container', (input) => ({ input, tools: [{ type: 'code_interpreter', container: 'cntr_1' }] })],
  [
    'tools[0].environment.container_id',
    (input) => ({
      input,
      tools: [{ type: 'shell', environment: { type: 'container_reference', container_id: 'cntr_1' } }],
    }),
  ],
  ['input[0].id', (more) => ({ input: [made[1], ...more] })],
  [
    'input[0].approval_request_id',
    (more) => ({ input: [{ type: 'mcp_approval_response', approve: true, approval_request_id: 'mcpr_1' }, ...more] }),
  ],
  ['input[0].id', (more) => ({ input: [made[3], ...more] })],
  ['input[0].pending_safety_checks[0].id', (more) => ({ input: [made[4], ...more] })],
  ['input[0].content[0].annotations[0].container_id', (more) => ({ input: [made[5], ...more] })],
  [
    'input[0].content[0].file_id',
    (more) => ({ input: [{ role: 'user', content: [{ type: 'input_image', file_id: 'cfile_1' }] }, ...more] }),
  ],
];

interface Sent {
  method: string;
  url: string;
  headers: IncomingHttpHeaders;
  body: Item;
}

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** Starts a bridge with two tenants in front of an upstream that outputs `made` and records what reaches it. */
async function bridged(
  how: { fails?: boolean; items?: object[]; env?: Record<string, string>; databaseUrl?: string } = {},
) {
  const sent: Sent[] = [];
  let turns = 0;
  const events = (body: Item) => {
    const id = `resp_${++turns}`;
    const input = JSON.stringify(body.input);
    const reply = {
      ...made[5],
      id: input.includes('same id') ? 'msg_same' : `msg_of_${id}`,
      content: [said(`ok ${id}`)],
    };
    const output = input.includes('make') ? made : [reply];
    const response = { id, object: 'response', created_at: 1, model: 'm', status: 'in_progress', output: [] };
    const end = how.fails
      ? {
          type: 'response.failed',
          response: { ...response, status: 'failed', error: { code: 'server_error', message: 'no' } },
        }
      : { type: 'response.completed', response: { ...response, status: 'completed', output } };
    return [
      { type: 'response.created', response },
      ...output.map((item, output_index) => ({ type: 'response.output_item.done', output_index, item })),
      end,
    ];
  };
  const provider = await startProvider({
    websocket(socket, { headers }) {
      socket.on('message', (data) => {
        const body = JSON.parse(String(data)) as Item;
        sent.push({ method: 'WS', url: '', headers, body });
        for (const event of events(body)) socket.send(JSON.stringify(event));
      });
    },
    async http(incoming: IncomingMessage, response) {
      let text = '';
      for await (const chunk of incoming.setEncoding('utf8')) text += chunk;
      const { method = '', url = '', headers } = incoming;
      sent.push({ method, url, headers, body: text === '' ? {} : JSON.parse(text) });
      response.writeHead(200, { 'content-type': 'application/json' });
      const { searchParams } = new URL(url, 'http://x');
      const all = how.items ?? [];
      const after = searchParams.get('after');
      const from = after === null ? 0 : all.findIndex((item) => (item as Item).id === after) + 1;
      const data = all.slice(from, from + 2);
      response.end(JSON.stringify({ object: 'list', data, has_more: from + 2 < all.length }));
    },
  });
  closing.push(() => provider.close());
  const at: TestBridge = await testBridge({
    env: { HOLDFAST_UPSTREAM_URL: provider.url, ...shared, ...how.env },
    ...(how.databaseUrl === undefined ? {} : { databaseUrl: how.databaseUrl }),
  });
  let closed: Promise<void> | null = null;
  const close = () => (closed ??= at.close());
  closing.push(close);
  const as = (who: string) => ({ authorization: `Bearer key-${who}` });
  return {
    at,
    close,
    sent,
    ask: (who: string, body: object, headers: Record<string, string> = {}) =>
      post(at.url, { model: 'm', stream: true, ...body }, { ...as(who), ...headers }),
    async call(who: string, method: string, path: string, body?: object) {
      const answer = await request(`${at.url}/v1${path}`, {
        method: method as 'GET',
        headers: { ...as(who), ...(body ? { 'content-type': 'application/json' } : {}) },
        body: body ? JSON.stringify(body) : null,
      });
      const text = await answer.body.text();
      return { status: answer.statusCode, error: text.startsWith('{') ? JSON.parse(text).error : null };
    },
    /** Sends a raw request line, because clients normalise paths before they send them. */
    async raw(who: string, method: string, path: string): Promise<string> {
      const { hostname, port } = new URL(at.url);
      const socket = connect(Number(port), hostname);
      let text = '';
      socket.setEncoding('utf8').on('data', (chunk) => {
        text += chunk;
      });
      socket.write(
        `${method} ${path} HTTP/1.1\r\nhost: ${hostname}:${port}\r\nauthorization: Bearer key-${who}\r\nconnection: close\r\n\r\n`,
      );
      await once(socket, 'close');
      return text.split('\r\n')[0]!;
    },
  };
}

describe.each([true, false])('objects made by a turn (store: %s)', (store) => {
  it('An object made by a turn may be named by its tenant in any turn and on every route, and by no other tenant', async () => {
    const { ask, call, sent } = await bridged();
    await ask('ann', { store, input: 'make' });
    for (const [path, body] of names) {
      const own = await ask('ann', { store, ...body([user]) });
      expect([path, own.status, own.events.at(-1)?.type]).toEqual([path, 200, 'response.completed']);
      const count = sent.length;
      for (const stream of [true, false]) {
        const theirs = await ask('bob', { store, stream, ...body([user]) });
        expect([path, theirs.status, theirs.body.error]).toMatchObject([
          path,
          400,
          { bridge_code: 'bridge_foreign_object', param: path },
        ]);
      }
      for (const route of ['/responses/compact', '/responses/input_tokens']) {
        const theirs = await call('bob', 'POST', route, body([user]));
        expect([theirs.status, theirs.error]).toMatchObject([
          400,
          { bridge_code: 'bridge_foreign_object', param: path },
        ]);
      }
      expect(sent).toHaveLength(count);
      expect((await call('ann', 'POST', '/responses/compact', body([user]))).status).toBe(200);
    }
    // The whole conversation resent as SDKs do, on its socket and afterwards.
    const whole = { store, input: [{ role: 'user', content: 'make' }, ...made, user] };
    expect((await ask('ann', whole)).events.at(-1)?.type).toBe('response.completed');
    expect((await ask('bob', whole)).body.error).toMatchObject({ bridge_code: 'bridge_foreign_object' });
  });

  it('An object that was shown before its turn failed may be named too', async () => {
    const { ask } = await bridged({ fails: true });
    expect((await ask('ann', { store, input: 'make' })).events.at(-1)?.type).toBe('response.failed');
    for (const [path, body] of names) {
      const own = await ask('ann', { store, ...body([user]) });
      expect([path, own.body.error?.bridge_code]).toEqual([path, undefined]);
      const theirs = await ask('bob', { store, ...body([user]) });
      expect(theirs.body.error?.bridge_code).toBe('bridge_foreign_object');
    }
  });

  it('Naming foreign objects is refused behind an anchor of the own scope too', async () => {
    const { ask } = await bridged();
    await ask('ann', { store, input: 'make' });
    const bobs = await ask('bob', { store, input: 'hi' });
    for (const [, body] of names) {
      const theirs = await ask('bob', { store, previous_response_id: bobs.body.id, ...body([user]) });
      expect(theirs.body.error?.bridge_code).toBe('bridge_foreign_object');
    }
  });
});

it('A body with a repeated member name that matters is refused, whichever value a provider would use', async () => {
  const { at, ask, sent } = await bridged();
  const { body } = await ask('ann', { store: true, input: 'make' });
  const bobs = await ask('bob', { store: true, input: 'hi' });
  const count = sent.length;
  for (const members of [
    `"input":"x","previous_response_id":"${body.id}","previous_response_id":"${bobs.body.id}"`,
    `"input":"x","previous_response_id":"${body.id}","previous_response_\\u0069d":null`,
    '"input":"x","conversation":"conv_1","conversation":null',
    '"input":[{"type":"item_reference","type":"message","id":"ig_1","role":"user","content":"x"}]',
    '"input":[{"role":"user","content":[{"type":"input_file","file_id":"cfile_1","file_id":null}]}]',
    `"instructions":"${'x'.repeat(40_000)}","input":"x","tools":[{"type":"file_search","vector_store_ids":["vs_1"]}],"tools":[]`,
  ]) {
    for (const path of ['/v1/responses', '/v1/responses/compact', '/backend-api/codex/responses/input_tokens']) {
      const answer = await request(at.url + path, {
        method: 'POST',
        headers: { authorization: 'Bearer key-bob', 'content-type': 'application/json' },
        body: `{"model":"m",${members}}`,
      });
      const { error } = (await answer.body.json()) as { error: Item };
      expect([members, path, error?.bridge_code]).toEqual([
        members,
        path,
        expect.stringMatching(/foreign|session_expired/),
      ]);
    }
  }
  expect(sent).toHaveLength(count);
});

describe('API calls about a response', () => {
  const calls = [
    ['GET', ''],
    ['GET', '?stream=true&starting_after=1'],
    ['GET', '/input_items'],
    ['POST', '/cancel'],
    ['DELETE', ''],
  ] as const;

  it('API calls about a response reach those of the own scope, and all others look the same', async () => {
    const { ask, call, sent } = await bridged();
    const anns = await ask('ann', { store: true, input: 'hi' });
    const refused: unknown[] = [];
    for (const [method, below] of calls)
      for (const id of [anns.body.id, 'resp_that_never_was'])
        refused.push(await call('bob', method, `/responses/${id}${below}`));
    expect(new Set(refused.map((each) => JSON.stringify(each))).size).toBe(1);
    expect(refused[0]).toMatchObject({ status: 404, error: { bridge_code: 'bridge_not_found' } });
    expect(sent.filter(({ method }) => method !== 'WS')).toEqual([]);
    for (const [method, below] of calls) {
      expect((await call('ann', method, `/responses/${anns.body.id}${below}`)).status).toBe(200);
      expect(sent.at(-1)).toMatchObject({ method, url: `/v1/responses/${anns.body.id}${below}` });
    }
  });

  it('Relaying API calls causes no runtime warnings in the log', async () => {
    const { ask, call } = await bridged();
    const warnings: string[] = [];
    const note = ({ name }: Error) => void warnings.push(name);
    process.on('warning', note);
    const { body } = await ask('ann', { store: true, input: 'hi' });
    for (const path of ['/models', `/responses/${body.id}`]) expect((await call('ann', 'GET', path)).status).toBe(200);
    expect((await call('ann', 'POST', '/responses/compact', { input: 'hi' })).status).toBe(200);
    await new Promise((next) => setImmediate(next));
    process.off('warning', note);
    expect(warnings).toEqual([]);
  });

  it('API calls go to their own route, whatever the request line contains', async () => {
    const { ask, raw, sent } = await bridged();
    const anns = await ask('ann', { store: true, input: 'hi' });
    const bobs = await ask('bob', { store: true, input: 'hi' });
    const [a, b] = [anns.body.id, bobs.body.id];
    const before = sent.length;
    for (const path of [
      `/v1/responses/${b}%2F..%2F${a}`,
      `/v1/responses/${b}/../${a}`,
      `/v1/responses/${b}/input_items/../../${a}`,
      `/v1/responses/${b}\\..\\${a}`,
      `/v1/responses/${b}%5C..%5C${a}`,
      `/v1/responses/%2e%2e/responses/${a}`,
      `/v1/responses/..`,
      `/v1/responses/%2e`,
      `/v1/responses//${a}`,
      `/v1/responses/%20`,
      `/v1/responses/${b}%00${a}`,
      `/v1/models/../responses/${a}`,
      `/v1/models/x/../../responses/${a}`,
      `/v1/models/x%2F..%2F..%2Fresponses%2F${a}`,
      `/v1/models/x%252F..%252F..%252Fresponses%252F${a}`,
      `/v1/models/x\\..\\..\\responses\\${a}`,
      `/v1/models/%2e%2e/responses/${a}`,
      `/v1/models//responses/${a}`,
    ]) {
      for (const method of path.includes('models') ? ['GET'] : ['GET', 'DELETE']) {
        expect([path, await raw('bob', method, path)]).toEqual([path, expect.stringMatching(/^HTTP\/1\.1 40[045] /)]);
      }
    }
    expect(sent).toHaveLength(before);
    for (const [path, url] of [
      [`/V1/Responses/${b}/`, `/v1/responses/${b}`],
      [`/backend-api/codex/responses/${b}/input_items?limit=5`, `/v1/responses/${b}/input_items?limit=5`],
      ['/v1/models/maker/model', '/v1/models/maker/model'],
      ['/v1/models/maker%2Fmodel', '/v1/models/maker%2Fmodel'],
      ['/v1/models/ft:gpt-4o:org::id', '/v1/models/ft:gpt-4o:org::id'],
    ] as const) {
      expect(await raw('bob', 'GET', path)).toMatch(/ 200 /);
      expect(sent.at(-1)!.url).toBe(url);
    }
  });

  it('API calls with foreign ids in their query are refused', async () => {
    const items = ['msg_a', 'msg_b', 'msg_c'].map((id) => ({ type: 'message', id }));
    const { ask, call, sent } = await bridged({ items });
    const { body } = await ask('bob', { store: true, input: 'hi' });
    const path = `/responses/${body.id}`;
    for (const [below, param] of [
      ['?conversation=conv_1', 'conversation'],
      ['?thing_id=1', 'thing_id'],
      ['/input_items?after=msg_of_ann', 'after'],
      ['/input_items?after=msg_c&before=msg_of_ann', 'before'],
      ['/input_items?after=msg_c&after=msg_of_ann', 'after'],
      ['?after=msg_c', 'after'],
    ]) {
      const refused = await call('bob', 'GET', path + below);
      expect([below, refused.status, refused.error]).toMatchObject([
        below,
        400,
        { bridge_code: 'bridge_foreign_object', param },
      ]);
    }
    expect(sent.filter(({ url }) => url.includes('msg_of_ann'))).toEqual([]);
    for (const below of [
      '?include[]=message.input_image.image_url&stream=true&starting_after=3',
      // The provider's own ids of the client's items: only the list itself shows that they belong to it.
      '/input_items?limit=2&order=asc&after=msg_c',
      // An output of the own scope.
      '/input_items?before=ws_1',
    ]) {
      if (below.includes('ws_1')) await ask('bob', { store: true, input: 'make' });
      expect([below, (await call('bob', 'GET', path + below)).status]).toEqual([below, 200]);
      expect(decodeURIComponent(sent.at(-1)!.url)).toBe(`/v1${path}${below}`);
    }
    for (const route of ['/responses/compact?thing_id=1', '/responses/input_tokens?x=file_1'])
      expect((await call('bob', 'POST', route, { input: 'hi' })).error?.bridge_code).toBe('bridge_foreign_object');
  });
});

describe('inputs beside the body', () => {
  it('Under a shared credential a header or a query chooses no account, no project and no object', async () => {
    const { ask, sent } = await bridged();
    const headers = {
      'openai-organization': 'org-of-ann',
      'openai-project': 'proj_of_ann',
      'chatgpt-account-id': 'account',
      'x-openai-conversation': 'conv_of_ann',
      conversation_id: 'conv_of_ann',
      'x-openai-organization-id': 'o',
      'x-codex-window-id': '0197a4c2-aaaa-7000-8000-000000000001:0',
    };
    await ask('bob', { input: 'hi' }, headers);
    const text = JSON.stringify(sent[0]!.headers);
    expect(text).not.toMatch(/of.ann|"account"|organization-id/);
    expect(sent[0]!.headers['x-codex-window-id']).toBe(headers['x-codex-window-id']);
  });

  it('An idempotency key, turn id, session header or token gives no access to another tenant’s stream', async () => {
    const { ask, sent } = await bridged();
    const names = {
      'idempotency-key': 'same',
      'session-id': 'same',
      'thread-id': 'same',
      'x-codex-turn-metadata': JSON.stringify({ turn_id: 'same' }),
    };
    const anns = await ask('ann', { input: 'hi' }, names);
    const bobs = await ask('bob', { input: 'hi' }, names);
    expect([bobs.status, bobs.headers['x-holdfast-outcome']]).toEqual([200, 'created']);
    expect(bobs.headers['x-holdfast-session']).not.toBe(anns.headers['x-holdfast-session']);
    expect(sent).toHaveLength(2);
    const token = anns.headers['x-codex-turn-state']!;
    const stolen = await ask('bob', { input: 'more' }, { 'x-codex-turn-state': token });
    expect([stolen.status, stolen.body.error?.bridge_code]).toEqual([400, 'bridge_token_invalid']);
    expect(sent).toHaveLength(2);
  });
});

it.each([
  ['stays a reference', true, { type: 'item_reference', id: 'ig_1' }],
  ['is sent with its content', false, { type: 'image_generation_call', result: 'AA' }],
] as const)(
  'A reference to an item of another conversation %s when the provider stores it: %s',
  async (_, store, first) => {
    const { ask, sent } = await bridged();
    await ask('ann', { store, input: 'make' });
    await ask('ann', { store, input: [{ type: 'item_reference', id: 'ig_1' }, user] });
    expect(sent[1]!.body.input).toMatchObject([first, user]);
  },
);

it('An object of the scope that is no item cannot be referenced as one where the provider stores nothing', async () => {
  const { ask, sent } = await bridged();
  await ask('ann', { store: false, input: 'make' });
  const named = await ask('ann', { store: false, input: [{ type: 'item_reference', id: 'cntr_1' }, user] });
  expect(named.body.error).toMatchObject({ bridge_code: 'bridge_foreign_object', param: 'input[0].id' });
  expect(sent).toHaveLength(1);
});

it('An id that an upstream gave to two items of the scope names neither', async () => {
  const { ask, sent } = await bridged();
  for (const text of ['same id', 'the same id again'])
    expect((await ask('ann', { store: false, input: [{ role: 'user', content: text }] })).status).toBe(200);
  const named = await ask('ann', { store: false, input: [{ type: 'item_reference', id: 'msg_same' }, user] });
  expect(named.body.error).toMatchObject({ bridge_code: 'bridge_foreign_object', param: 'input[0].id' });
  expect(sent).toHaveLength(2);
});

it('A response stored under another credential is not used as an anchor, and its items are sent with their content', async () => {
  const database = await freshDatabase();
  closing.push(database.drop);
  // The content behind a picture's URL may change, so this turn cannot be resent, only continued.
  const picture = { role: 'user', content: [{ type: 'input_image', image_url: 'https://example.com/a.png' }] };
  const first = await bridged({ databaseUrl: database.url });
  const { body } = await first.ask('ann', { store: true, input: [picture] });
  await first.close();
  const next = { store: true, input: [user], previous_response_id: body.id };
  const other = await bridged({ databaseUrl: database.url, env: { HOLDFAST_UPSTREAM_KEY: 'sk-another-key' } });
  const refused = await other.ask('ann', next);
  expect([refused.status, refused.body.error?.code]).toEqual([400, 'previous_response_not_found']);
  expect(other.sent).toEqual([]);
  const reference = { type: 'item_reference', id: `msg_of_${body.id}` };
  await other.ask('ann', { store: true, input: [reference, user] });
  expect(other.sent[0]!.body.input).toMatchObject([{ type: 'message', content: [{ text: `ok ${body.id}` }] }, user]);
  await other.close();
  const same = await bridged({ databaseUrl: database.url });
  expect((await same.ask('ann', next)).events.at(-1)?.type).toBe('response.completed');
  expect(same.sent).toMatchObject([{ body: { previous_response_id: body.id } }]);
  await same.ask('ann', { store: true, input: [reference, user] });
  expect(same.sent[1]!.body.input).toEqual([reference, user]);
});
