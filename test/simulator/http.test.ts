import { request } from 'undici';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { type Frame, user } from './client.ts';

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
  json: Frame;
}

describe('the simulated HTTP API', () => {
  let sim: Simulator;
  beforeEach(async () => {
    sim = await startSimulator({ seed: 7, turnState: 'handshake' });
  });
  afterEach(() => sim.close());

  async function call(method: string, path: string, body?: unknown, authorization = 'Bearer one'): Promise<Answer> {
    const res = await request(`${sim.url}${path}`, {
      method: method as 'GET',
      headers: { 'content-type': 'application/json', connection: 'close', ...(authorization && { authorization }) },
      body: body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await res.body.text();
    const isJson = String(res.headers['content-type']).startsWith('application/json');
    return { status: res.statusCode, headers: res.headers, text, json: isJson ? JSON.parse(text) : {} };
  }
  const create = (body: Frame, authorization?: string) =>
    call('POST', '/responses', { model: 'gpt-sim', ...body }, authorization);
  const events = (text: string): Frame[] =>
    text
      .split('\n\n')
      .filter(Boolean)
      .map((block) => {
        const [, type, data] = /^event: (.+)\ndata: (.+)$/.exec(block)!;
        const event = JSON.parse(data!);
        expect(event.type).toBe(type);
        return event;
      });

  it('The simulated HTTP API streams server-sent events with event and data lines', async () => {
    const { status, headers, text } = await create({ input: 'hi', stream: true });
    expect(status).toBe(200);
    expect(headers['content-type']).toContain('text/event-stream');
    expect(headers['x-codex-turn-state']).toMatch(/^ts-/);
    const got = events(text);
    expect(got.map(({ sequence_number }) => sequence_number)).toEqual(got.map((_, index) => index));
    expect(digestOf(got.at(-1)!.response)).toBe(expectedDigest({ items: 'hi' }));
  });

  it('The simulated HTTP API answers JSON without stream, and returns the response again with its input', async () => {
    const { json } = await create({ input: [user('hi')] });
    expect(json).toMatchObject({ object: 'response', status: 'completed' });
    expect((await call('GET', `/responses/${json.id}`)).json).toEqual(json);
    expect((await call('GET', `/responses/${json.id}/input_items`)).json.data).toMatchObject([user('hi')]);
    expect((await call('GET', `/responses/${json.id}`, undefined, 'Bearer two')).status).toBe(404);
    expect((await call('POST', `/responses/${json.id}/cancel`)).status).toBe(400);
    expect((await call('DELETE', `/responses/${json.id}`)).json).toMatchObject({ deleted: true });
    expect((await call('GET', `/responses/${json.id}`)).status).toBe(404);
  });

  it('The simulated HTTP API continues stored responses only', async () => {
    const stored = (await create({ input: 'one' })).json;
    const next = await create({ input: 'two', previous_response_id: stored.id });
    expect(digestOf(next.json)).toBe(expectedDigest({ items: ['one', stored, 'two'] }));
    expect(next.json.usage.input_tokens_details.cached_tokens).toBeGreaterThan(0);
    const unstored = (await create({ input: 'one', store: false })).json;
    expect((await call('GET', `/responses/${unstored.id}`)).status).toBe(404);
    const lost = await create({ input: 'two', previous_response_id: unstored.id });
    expect(lost.status).toBe(400);
    expect(lost.json.error).toMatchObject({ code: 'previous_response_not_found', param: 'previous_response_id' });
  });

  it('The simulated HTTP API keeps the items of a conversation object', async () => {
    const first = (await create({ input: 'one', conversation: 'conv_1' })).json;
    const second = (await create({ input: 'two', conversation: { id: 'conv_1' } })).json;
    expect(digestOf(second)).toBe(expectedDigest({ items: ['one', first, 'two'] }));
    const both = await create({ input: 'x', conversation: 'conv_1', previous_response_id: first.id });
    expect(both.status).toBe(400);
  });

  it('The simulated HTTP API queues background responses, which complete when polled, or are cancelled', async () => {
    const queued = (await create({ input: 'x', background: true })).json;
    expect(queued).toMatchObject({ status: 'queued', background: true, output: [] });
    const look = async () => (await call('GET', `/responses/${queued.id}`)).json.status;
    expect([await look(), await look(), await look()]).toEqual(['queued', 'in_progress', 'completed']);
    const other = (await create({ input: 'x', background: true })).json;
    expect((await call('POST', `/responses/${other.id}/cancel`)).json.status).toBe('cancelled');
    expect((await call('GET', `/responses/${other.id}`)).json.status).toBe('cancelled');
    expect((await create({ input: 'x', background: true, store: false })).status).toBe(400);
    const streamed = events((await create({ input: 'x', background: true, stream: true })).text);
    expect(streamed.map(({ type }) => type)).toContain('response.queued');
  });

  it('The simulated HTTP API compacts to the user messages and one compaction item, which it accepts as input', async () => {
    const input = [user('a'), { type: 'message', role: 'assistant', content: 'b' }];
    const { json } = await call('POST', '/responses/compact', { model: 'gpt-sim', input });
    expect(json).toMatchObject({ object: 'response.compaction', output: [user('a'), { type: 'compaction' }] });
    const next = await create({ input: [...json.output, user('c')] });
    expect(digestOf(next.json)).toBe(expectedDigest({ items: [...json.output, 'c'] }));
  });

  it('The simulated HTTP API lists models and refuses requests that it does not serve', async () => {
    expect((await call('GET', '/models?client_version=1')).json.data.length).toBeGreaterThan(0);
    expect((await call('GET', '/nothing')).status).toBe(404);
    expect((await call('GET', '/responses')).status).toBe(405);
    expect((await create({ input: 'x' }, '')).json.error.code).toBe('invalid_api_key');
    expect((await call('POST', '/responses', '{')).status).toBe(400);
    expect((await call('POST', '/responses', { input: 'x' })).json.error.param).toBe('model');
    expect((await create({ input: 7 })).json.error.param).toBe('input');
    expect((await create({ input: 'x', stream_id: 'a' })).json.error.param).toBe('stream_id');
  });

  it('The simulated HTTP API fails with a status before the first event, and with an error event after it', async () => {
    const error = { status: 429, code: 'rate_limit_exceeded', message: 'Later.', retryAfter: 2 };
    sim.script.onTurn({}, { kind: 'error', error });
    const early = await create({ input: 'x', stream: true });
    expect(early).toMatchObject({
      status: 429,
      headers: { 'retry-after': '2' },
      json: { error: { code: error.code } },
    });
    sim.script.onTurn({}, { kind: 'error', error, at: 'after_created' });
    const late = events((await create({ input: 'x', stream: true })).text);
    expect(late.map(({ type }) => type)).toEqual(['response.created', 'error']);
    sim.script.onTurn({}, { kind: 'respond', status: 503, headers: { 'x-a': 'b' }, body: 'down' });
    expect(await create({ input: 'x' })).toMatchObject({ status: 503, headers: { 'x-a': 'b' }, text: 'down' });
  });

  it('The simulated HTTP API cuts streams cleanly or by reset', async () => {
    sim.script.onTurn({}, { kind: 'close', at: { deltas: 1 } });
    const cut = events((await create({ input: 'x', stream: true })).text);
    expect(cut.at(-1)!.type).toBe('response.output_text.delta');
    sim.script.onTurn({}, { kind: 'close', at: 'before_created' });
    expect(await create({ input: 'x', stream: true })).toMatchObject({ status: 200, text: '' });
    for (const stream of [true, false]) {
      sim.script.onTurn({}, { kind: 'reset', at: { deltas: 1 } });
      await expect(create({ input: 'x', stream })).rejects.toThrow();
    }
    expect(sim.journal.of('end').map(({ end }) => end)).toEqual(['closed', 'closed', 'reset', 'reset']);
  });

  it('The simulated HTTP API answers any request as scripted', async () => {
    sim.script.onRequest({ method: 'GET', path: '/v1/models' }, { kind: 'respond', status: 418, body: { a: 1 } });
    expect(await call('GET', '/models')).toMatchObject({ status: 418, json: { a: 1 } });
    sim.script.onRequest({}, { kind: 'reset' });
    await expect(call('GET', '/models')).rejects.toThrow();
    expect((await call('GET', '/models')).status).toBe(200);
    const requests = await sim.journal.count('request', 3);
    expect(requests.map(({ status }) => status)).toEqual([418, 0, 200]);
  });

  it('A conversation has the items that were added to it and those of turns that name it', async () => {
    const { json: made } = await call('POST', '/conversations', { items: [{ role: 'user', content: 'one' }] });
    const path = `/conversations/${made.id}/items`;
    const { json: answer } = await create({ input: 'two', conversation: made.id });
    const { json: listed } = await call('GET', `${path}?order=asc&limit=2`);
    expect(listed).toMatchObject({ data: [{ role: 'user', id: listed.first_id }, { role: 'user' }], has_more: true });
    const { json: rest } = await call('GET', `${path}?order=asc&after=${listed.last_id}`);
    expect(rest.data).toEqual(answer.output);
    expect(digestOf(answer as never)).toBe(expectedDigest({ items: ['one', 'two'] }));
    expect((await call('DELETE', `${path}/${listed.first_id}`)).status).toBe(200);
    expect((await call('GET', path)).json.data).toHaveLength(2);
    expect((await call('GET', path, undefined, 'Bearer other')).status).toBe(404);
    expect((await call('DELETE', `/conversations/${made.id}`)).json).toMatchObject({ deleted: true });
    expect((await call('GET', path)).status).toBe(404);
  });
});
