import { afterEach, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge({ ...options, simulator: { reasoning: true } });
};
afterEach(() => at.close());

type Item = Record<string, unknown>;
const reference = (item: Item | undefined): Item => ({ type: 'item_reference', id: item!.id });
const ask = (input: Item[], more: object = {}, headers: Record<string, string> = {}) =>
  post(at.url, { model: 'gpt-5.5', input, ...more }, headers);
const sent = () => {
  const create = at.simulator.journal.of('create').at(-1)!;
  return { anchor: create.previousResponseId, input: create.body.input as Item[] };
};
const isMessage = ({ type }: Item) => type === 'message';

describe('item references', () => {
  it.each([
    ['stored by the provider', {}],
    ['not stored', { store: false }],
  ])(
    'A request with item references continues its conversation on its socket when the items are %s',
    async (_, more) => {
      await start();
      const first = await ask([user('one')], more);
      const again = await ask([user('one'), ...first.body.output.map(reference), user('two')], more);
      expect(again.headers['x-holdfast-outcome']).toBe('live_reuse');
      expect(sent()).toEqual({ anchor: first.body.id, input: [user('two')] });
    },
  );

  it('An item reference stays a reference in a full send when the provider stores the item', async () => {
    await start();
    const first = await ask([user('one')]);
    await at.restart();
    const input = [user('one'), ...first.body.output.map(reference), user('two')];
    const again = await ask(input);
    expect([again.status, again.headers['x-holdfast-outcome']]).toEqual([200, 'stale_recovery']);
    expect(sent()).toEqual({ anchor: null, input });
  });

  it('An item reference is replaced by its content in a full send when the provider does not store the item', async () => {
    await start();
    const more = { store: false, include: ['reasoning.encrypted_content'] };
    const first = await ask([user('one')], more);
    await at.restart();
    const again = await ask([user('one'), ...first.body.output.map(reference), user('two')], more);
    expect([again.status, again.headers['x-holdfast-outcome']]).toEqual([200, 'stale_recovery']);
    const { anchor, input } = sent();
    expect(anchor).toBeNull();
    const whole = first.body.output.map(({ id: _id, status: _status, ...item }) => item);
    expect(input).toEqual([user('one'), ...whole, user('two')]);
    expect(again.body).not.toHaveProperty('input_transformations');
  });

  it('References are replaced by content also beside an object that only the provider knows', async () => {
    await start();
    const tools = [{ type: 'file_search', vector_store_ids: ['vs_1'] }];
    const more = { store: false, include: ['reasoning.encrypted_content'] };
    const first = await post(at.url, { model: 'gpt-5.5', tools, input: [user('one')], ...more });
    await at.restart();
    const input = [user('one'), ...first.body.output.map(reference), user('two')];
    expect((await post(at.url, { model: 'gpt-5.5', tools, input, ...more })).status).toBe(200);
    expect(sent().input.filter(({ type }) => type === 'item_reference')).toEqual([]);
  });

  it('With the client’s own credential the provider judges references and comparisons that are unknown here', async () => {
    await start();
    const input = [user('one'), { type: 'item_reference', id: 'msg_nowhere' }, user('two')];
    const compared = { prompt_cache_options: { comparison_response_id: 'resp_nowhere' } };
    const answer = await ask(input, compared);
    expect(answer.body.error?.bridge_code).toBeUndefined();
    expect(sent().input).toEqual(input);
  });

  it('Referenced items are still resolved when the context of the request changes', async () => {
    await start();
    const more = { store: false, include: ['reasoning.encrypted_content'] };
    const first = await ask([user('one')], more);
    const input = [user('one'), ...first.body.output.map(reference), user('two')];
    const again = await ask(input, { ...more, instructions: 'Be brief.' });
    expect(again.status).toBe(200);
    expect(sent().input.filter(isMessage)).toHaveLength(3);
  });
});

describe('item references under a credential that several tenants share', () => {
  const shared = { HOLDFAST_UPSTREAM_KEY: 'sk-shared', HOLDFAST_API_KEYS: 'one:key-1,two:key-2' };
  const tenant = (n: 1 | 2) => ({ authorization: `Bearer key-${n}` });

  it('A reference to an item of the own scope is accepted, whatever conversation it is from', async () => {
    await start({ env: shared });
    const first = await ask([user('one')], {}, tenant(1));
    const message = first.body.output.find(isMessage);
    const inAnother = [user('another beginning'), reference(message), user('go on')];
    expect((await ask(inAnother, {}, tenant(1))).status).toBe(200);
    expect(sent().input).toEqual(inAnother);
  });

  it('A reference to an item of another scope is refused like one that does not exist', async () => {
    await start({ env: shared });
    const first = await ask([user('one')], {}, tenant(1));
    const input = (id: unknown) => [user('one'), { type: 'item_reference', id }, user('two')];
    const before = at.simulator.journal.of('create').length;
    const foreign = await ask(input(first.body.output.find(isMessage)!.id), {}, tenant(2));
    const unknown = await ask(input('msg_nowhere'), {}, tenant(2));
    expect([foreign.status, foreign.body.error?.bridge_code]).toEqual([400, 'bridge_foreign_object']);
    expect(foreign.body).toEqual(unknown.body);
    expect(at.simulator.journal.of('create')).toHaveLength(before);
  });

  const naming: [string, (id: unknown) => Item][] = [
    ['a reference', (id) => ({ type: 'item_reference', id })],
    ['a reference without a type', (id) => ({ id })],
    ['a reference whose type is null', (id) => ({ type: null, id })],
    ['reasoning that is only named', (id) => ({ type: 'reasoning', id, summary: [] })],
    ['a picture that is only named', (id) => ({ type: 'image_generation_call', id })],
  ];
  it.each(naming)('An item of another scope is refused wherever the request names it as %s', async (_, named) => {
    await start({ env: shared });
    const first = await ask([user('one')], {}, tenant(1));
    const own = await ask([user('mine')], {}, tenant(2));
    const foreign = named(first.body.output[0]!.id);
    const before = at.simulator.journal.of('create').length;
    const attempts = await Promise.all([
      ask([foreign, user('go on')], {}, tenant(2)),
      ask([user('mine'), ...own.body.output, foreign, user('go on')], {}, tenant(2)),
      ask([foreign, user('go on')], { previous_response_id: own.body.id }, tenant(2)),
    ]);
    expect(attempts.map(({ body }) => body.error?.bridge_code)).toEqual(Array(3).fill('bridge_foreign_object'));
    expect(at.simulator.journal.of('create')).toHaveLength(before);
  });

  it('A reference is refused when only the client gave an item that id', async () => {
    await start({ env: shared });
    const first = await ask([user('one')], {}, tenant(1));
    const borrowed = { ...user('mine'), id: first.body.output.at(-1)!.id };
    const own = await ask([borrowed], {}, tenant(2));
    const named = [{ type: 'item_reference', id: borrowed.id }, ...own.body.output, user('go on')];
    const answer = await ask(named, { instructions: 'Be brief.' }, tenant(2));
    const sentReferences = sent().input.filter(({ type }) => type === 'item_reference');
    expect([answer.status, sentReferences]).toEqual([400, []]);
  });

  it('Reasoning of the own scope that is named only by id continues on its socket and after a restart', async () => {
    await start({ env: shared });
    const more = { store: false };
    const first = await ask([user('one')], more, tenant(1));
    const second = await ask([user('one'), ...first.body.output, user('two')], more, tenant(1));
    expect(sent().anchor).toBe(first.body.id);
    await at.restart();
    const items = [user('one'), ...first.body.output, user('two'), ...second.body.output, user('three')];
    expect((await ask(items, more, tenant(1))).status).toBe(200);
    expect(sent().input.filter((item) => 'encrypted_content' in item)).toHaveLength(2);
  });

  it('A request that names a response only for comparison is refused unless the response is of the own scope', async () => {
    await start({ env: shared });
    const first = await ask([user('one')], {}, tenant(1));
    const compared = { prompt_cache_options: { comparison_response_id: first.body.id } };
    expect((await ask([user('two')], compared, tenant(1))).status).toBe(200);
    const foreign = await ask([user('two')], compared, tenant(2));
    expect([foreign.status, foreign.body.error?.bridge_code]).toEqual([400, 'bridge_foreign_object']);
  });

  it('A compact call is refused for the same references as a turn', async () => {
    await start({ env: shared });
    const first = await ask([user('one')], {}, tenant(1));
    const compact = (n: 1 | 2) =>
      fetch(`${at.url}/v1/responses/compact`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...tenant(n) },
        body: JSON.stringify({ model: 'm', input: [user('one'), reference(first.body.output.find(isMessage))] }),
      });
    expect([(await compact(1)).status, (await compact(2)).status]).toEqual([200, 400]);
  });
});

describe('reasoning whose encrypted content the client did not request', () => {
  it('Omitted encrypted reasoning is restored when its conversation is sent in full', async () => {
    await start();
    const first = await ask([user('one')], { store: false });
    const [reasoning] = first.body.output;
    expect(reasoning).toMatchObject({ type: 'reasoning' });
    expect(reasoning).not.toHaveProperty('encrypted_content');
    await at.restart();
    const again = await ask([user('one'), ...first.body.output, user('two')], { store: false });
    expect([again.status, again.headers['x-holdfast-outcome']]).toEqual([200, 'stale_recovery']);
    const { anchor, input } = sent();
    expect(anchor).toBeNull();
    expect(input[1]).toMatchObject({ type: 'reasoning', encrypted_content: expect.any(String) });
    expect(again.body).not.toHaveProperty('input_transformations');
  });
});

it('A warm-up requested by prompt_cache_options has no output and can be continued like any turn', async () => {
  await start();
  const first = await ask([user('prompt')], { store: false, prompt_cache_options: { prewarm: true } });
  expect(first.status).toBe(200);
  const again = await ask([user('prompt'), ...first.body.output, user('go')], { store: false });
  expect(again.headers['x-holdfast-outcome']).toBe('live_reuse');
  expect(sent()).toEqual({ anchor: first.body.id, input: [user('go')] });
});
