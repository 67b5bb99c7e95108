import OpenAI from 'openai';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
beforeEach(async () => {
  at = await startTestBridge({ simulator: { reasoning: true } });
});
afterEach(() => at.close());

const client = () => new OpenAI({ baseURL: `${at.url}/v1`, apiKey: 'sk-test', maxRetries: 0 });
const seen = () => at.simulator.journal.of('request').filter(({ path }) => path.endsWith('/input_items'));

/** Runs three anchored turns that the provider does not store, and returns their answers. */
async function unstored() {
  const first = await post(at.url, { model: 'gpt-5.5', store: false, stream: true, input: 'one' });
  const second = await post(at.url, {
    model: 'gpt-5.5',
    store: false,
    input: [{ role: 'developer', content: 'two' }, user('three')],
    previous_response_id: first.body.id,
  });
  const third = await post(at.url, {
    model: 'gpt-5.5',
    store: false,
    input: [user('four')],
    previous_response_id: second.body.id,
  });
  return { first, second, third };
}

it('The items of a response that the provider does not store are listed from the rows, with all earlier turns', async () => {
  const { first, second, third } = await unstored();
  const { data } = await client().responses.inputItems.list(third.body.id, { order: 'asc', limit: 100 });
  expect(data.map(({ type }) => type)).toEqual([
    'message',
    ...first.body.output.map(({ type }) => type),
    ...['message', 'message'],
    ...second.body.output.map(({ type }) => type),
    'message',
  ]);
  expect(data[0]).toMatchObject({ role: 'user', content: [{ type: 'input_text', text: 'one' }] });
  expect(data.find((item) => 'role' in item && item.role === 'developer')).toMatchObject({
    content: [{ type: 'input_text', text: 'two' }],
  });
  for (const item of data) expect(item).toMatchObject({ id: expect.stringMatching(/./) });
  expect(new Set(data.map(({ id }) => id)).size).toBe(data.length);
  expect(data.map(({ id }) => id)).toEqual(expect.arrayContaining(first.body.output.map(({ id }) => id)));
  expect(data.find(({ type }) => type === 'reasoning')).not.toHaveProperty('encrypted_content');
  expect(seen()).toEqual([]);
});

it("Retrieving or cancelling such a response is the provider's to answer", async () => {
  const { third } = await unstored();
  await expect(client().responses.retrieve(third.body.id)).rejects.toMatchObject({ status: 404 });
  await expect(client().responses.cancel(third.body.id)).rejects.toMatchObject({ status: expect.any(Number) });
  const paths = at.simulator.journal.of('request').map(({ path }) => path);
  expect(paths.slice(-2)).toEqual([`/v1/responses/${third.body.id}`, `/v1/responses/${third.body.id}/cancel`]);
});

it('The SDK pages through them in both directions, and the newest item comes first by default', async () => {
  const { third } = await unstored();
  const all = (await client().responses.inputItems.list(third.body.id, { order: 'asc', limit: 100 })).data;
  for (const order of ['asc', 'desc'] as const) {
    const ids: string[] = [];
    for await (const { id } of client().responses.inputItems.list(third.body.id, { order, limit: 2 })) ids.push(id!);
    expect(ids).toEqual((order === 'asc' ? all : all.toReversed()).map(({ id }) => id));
  }
  const newest = await client().responses.inputItems.list(third.body.id, { limit: 1 });
  expect([newest.data[0]!.id, newest.has_more]).toEqual([all.at(-1)!.id, true]);
  const [, second] = all;
  const rest = await client().responses.inputItems.list(third.body.id, { order: 'asc', after: second!.id! });
  expect(rest.data.map(({ id }) => id)).toEqual(all.slice(2).map(({ id }) => id));
  expect(rest.has_more).toBe(false);
});

it('Sealed reasoning is listed when it is asked for', async () => {
  const { third } = await unstored();
  const list = (include: ['reasoning.encrypted_content'] | []) =>
    client().responses.inputItems.list(third.body.id, { include, limit: 100 });
  const reasoning = (await list(['reasoning.encrypted_content'])).data.filter(({ type }) => type === 'reasoning');
  expect(reasoning).toHaveLength(2);
  for (const item of reasoning) expect(item).toHaveProperty('encrypted_content', expect.any(String));
});

it('A cursor or a limit that cannot apply is refused by name', async () => {
  const { third } = await unstored();
  for (const [query, param] of [
    [{ after: 'msg_unknown' }, 'after'],
    [{ limit: 0 }, 'limit'],
    [{ limit: 101 }, 'limit'],
    [{ order: 'up' as 'asc' }, 'order'],
  ] as const) {
    await expect(client().responses.inputItems.list(third.body.id, query)).rejects.toMatchObject({
      status: 400,
      param,
    });
  }
});

it('The items of a response that the provider stores, or of an unknown one, come from the provider', async () => {
  const { body } = await post(at.url, { model: 'm', store: true, stream: true, input: 'one' });
  expect((await client().responses.inputItems.list(body.id)).data).toHaveLength(1);
  await expect(client().responses.inputItems.list('resp_unknown')).rejects.toMatchObject({ status: 404 });
  expect(seen()).toHaveLength(2);
});

it('The items of another credential are not listed', async () => {
  const { third } = await unstored();
  const other = new OpenAI({ baseURL: `${at.url}/v1`, apiKey: 'sk-other', maxRetries: 0 });
  await expect(other.responses.inputItems.list(third.body.id)).rejects.toMatchObject({ status: 404 });
});
