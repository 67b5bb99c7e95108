import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { connect, type Frame, hangUp, type RawClient, user } from './client.ts';

const include = ['reasoning.encrypted_content'];
const itemsOf = (frames: readonly Frame[], what: 'added' | 'done'): Frame[] =>
  frames.filter(({ type }) => type === `response.output_item.${what}`).map(({ item }) => item);

describe('the simulator behaves as recorded', () => {
  let sim: Simulator;
  let client: RawClient;

  beforeEach(async () => {
    sim = await startSimulator({ seed: 21, reasoning: true });
    client = await connect(sim.url);
  });
  afterEach(async () => {
    await hangUp(client);
    await sim.close();
  });

  it('The simulator seals one content three times, and accepts any of the three as the same', async () => {
    const { frames, last } = await client.turn({ input: [user('x')], store: false, include });
    const forms = [itemsOf(frames, 'added')[0]!, itemsOf(frames, 'done')[0]!, last.response.output[0]!];
    expect(new Set(forms.map(({ id }) => id)).size).toBe(1);
    const ciphertexts: string[] = forms.map(({ encrypted_content }) => encrypted_content);
    expect(new Set(ciphertexts).size).toBe(3);
    // The difference is not a suffix that a client could cut off.
    expect(new Set(ciphertexts.map((text) => text.slice(5, 25))).size).toBe(3);

    const message = last.response.output[1]!;
    const digests: unknown[] = [];
    for (const form of forms) {
      const input = [user('x'), form, message, user('y')];
      const answer = (await client.turn({ input, store: false, include })).last.response;
      expect(digestOf(answer)).toBe(expectedDigest({ items: input as never }));
      digests.push(digestOf(answer));
    }
    expect(new Set(digests).size).toBe(1);
  });

  it('The simulator seals compactions and programs in the same way', async () => {
    const output = [{ type: 'program', code: 'go', fingerprint: 'sealed' }];
    sim.script.onTurn({ input: 'write' }, { kind: 'reply', output });
    const program = await client.turn({ input: 'write a program' });
    const compaction = await client.turn({ input: [user('x'), { type: 'compaction_trigger' }] });
    for (const [{ frames, last }, member] of [
      [program, 'fingerprint'],
      [compaction, 'encrypted_content'],
    ] as const) {
      const done = itemsOf(frames, 'done').at(-1)!;
      const completed = last.response.output.at(-1);
      expect(done[member]).not.toBe(completed[member]);
      expect(done.id).toBe(completed.id);
      expect(expectedDigest({ items: [done] })).toBe(expectedDigest({ items: [completed] }));
    }
  });

  it('The simulator answers JSON and retrieval with the completed form', async () => {
    const headers = { authorization: 'Bearer one', 'content-type': 'application/json' };
    const body = JSON.stringify({ model: 'm', input: 'x', include });
    const made = (await (await fetch(`${sim.url}/responses`, { method: 'POST', headers, body })).json()) as Frame;
    const got = (await (await fetch(`${sim.url}/responses/${made.id}`, { headers })).json()) as Frame;
    expect(got.output[0].encrypted_content).toBe(made.output[0].encrypted_content);
    const { last } = await client.turn({ input: 'x', include });
    const stored = (await (await fetch(`${sim.url}/responses/${last.response.id}`, { headers })).json()) as Frame;
    expect(stored.output[0].encrypted_content).toBe(last.response.output[0].encrypted_content);
  });

  it('The simulator obfuscates most deltas, unless the request declines it', async () => {
    const input = '[deltas:80] speak at length, so that there is enough to count';
    const deltasOf = (frames: readonly Frame[]) => frames.filter(({ type }) => type === 'response.output_text.delta');
    const deltas = deltasOf((await client.turn({ input })).frames);
    const obfuscated = deltas.filter(({ obfuscation }) => typeof obfuscation === 'string');
    expect(obfuscated.length / deltas.length).toBeGreaterThan(0.6);
    expect(obfuscated.length / deltas.length).toBeLessThan(0.95);
    for (const { delta, obfuscation } of obfuscated) expect((delta.length + obfuscation.length) % 16).toBe(0);
    const plain = deltasOf((await client.turn({ input, stream_options: { include_obfuscation: false } })).frames);
    expect(plain.filter((delta) => 'obfuscation' in delta)).toEqual([]);
  });

  it('The simulator sends signals before the response begins, by both names of the metadata, and timing only on request', async () => {
    const before: string[] = [];
    for (let turn = 0; turn < 8; turn += 1) {
      const { frames } = await client.turn({ input: 'x', store: false });
      before.push(
        ...frames
          .slice(
            0,
            frames.findIndex(({ type }) => type === 'response.created'),
          )
          .map((f) => f.type),
      );
    }
    expect(new Set(before)).toEqual(new Set(['codex.rate_limits', 'response.metadata', 'codex.response.metadata']));
    const timed = await connect(sim.url, {
      authorization: 'Bearer one',
      'x-responsesapi-include-timing-metrics': 'true',
    });
    const { types } = await timed.turn({ input: 'x' });
    expect(types.indexOf('responsesapi.websocket_timing')).toBeLessThan(types.indexOf('response.created'));
    await hangUp(timed);
  });

  it('The simulator sends the headers that clients act on, on the upgrade and on HTTP answers', async () => {
    expect(client.headers).toMatchObject({ 'x-reasoning-included': 'true', 'x-codex-primary-used-percent': '1' });
    const answer = await fetch(`${sim.url}/responses`, {
      method: 'POST',
      headers: { authorization: 'Bearer one' },
      body: JSON.stringify({ model: 'm-1', input: 'x', stream: true }),
    });
    await answer.text();
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      'x-reasoning-included': 'true',
      'openai-model': 'm-1',
      'x-models-etag': expect.any(String),
      'x-request-id': expect.any(String),
      'openai-processing-ms': expect.any(String),
    });
  });

  it('The simulator lists items that it did not stream on some turns, when a request names a hosted server', async () => {
    const tools = [{ type: 'mcp', server_label: 'one', server_url: 'http://127.0.0.1:9/' }];
    const counts = new Set<number>();
    for (let turn = 0; turn < 8; turn += 1) {
      const { frames, last } = await client.turn({ input: 'x', tools, store: false });
      counts.add(last.response.output.length - itemsOf(frames, 'done').length);
    }
    expect(counts).toEqual(new Set([0, 2]));
  });

  it('The simulator lists no output at the backend of ChatGPT logins on some turns', async () => {
    const headers = { authorization: 'Bearer one', 'chatgpt-account-id': 'acc' };
    const login = await connect(sim.url, headers);
    const listed = new Set<number>();
    for (let turn = 0; turn < 8; turn += 1)
      listed.add((await login.turn({ input: 'x', store: false })).last.response.output.length);
    expect(listed).toEqual(new Set([0, 2]));
    await hangUp(login);
  });

  it('The simulator lists the output differently when a message asks for it, and the chain continues unaffected', async () => {
    for (const dialect of ['listed', 'empty', 'ids']) {
      const ask = user(`[terminal:${dialect}]`);
      const { frames, last } = await client.turn({ input: [ask], store: false, include });
      const done = itemsOf(frames, 'done');
      const { output, id } = last.response;
      if (dialect === 'listed')
        expect(output.map(({ type }: Frame) => type).slice(0, 2)).toEqual(Array(2).fill('mcp_list_tools'));
      if (dialect === 'empty') expect(output).toEqual([]);
      if (dialect === 'ids') {
        const ids = [...itemsOf(frames, 'added'), ...done, ...output].map((item: Frame) => item.id);
        expect(new Set(ids).size).toBe(6);
      }
      const next = await client.turn({ input: [user('on')], store: false, previous_response_id: id });
      for (const kept of [done, output])
        if (kept.length > 0)
          expect(digestOf(next.last.response)).toBe(expectedDigest({ items: [ask, ...kept, user('on')] as never }));
    }
  });

  it('The simulator finds a stored item by either of its ids', async () => {
    const { frames, last } = await client.turn({ input: '[terminal:ids]' });
    for (const { id } of [itemsOf(frames, 'done').at(-1)!, last.response.output.at(-1)]) {
      const answer = await client.turn({ input: [{ type: 'item_reference', id }, user('y')] });
      expect(answer.last.type).toBe('response.completed');
    }
  });

  it('The simulator withholds reasoning from the model when it is replayed out of place, and reports it', async () => {
    const first = (await client.turn({ input: [user('x')], store: false, include })).last.response;
    const [reasoning, message] = first.output;
    const moved = [user('another'), reasoning, message, user('y')];
    const answer = (await client.turn({ input: moved, store: false, include })).last.response;
    expect(answer.input_transformations).toEqual([{ id: reasoning.id, action: 'removed', reason: 'prefix_mismatch' }]);
    expect(digestOf(answer)).toBe(expectedDigest({ items: [user('another'), message, user('y')] }));
    // The digest that a test expects applies the same rule, so that both ways to write the input are equal.
    expect(digestOf(answer)).toBe(expectedDigest({ items: moved as never }));
    const right = [user('x'), reasoning, message, user('y')];
    expect((await client.turn({ input: right, store: false, include })).last.response).not.toHaveProperty(
      'input_transformations',
    );
  });

  it('The simulator accepts reasoning made after a compaction, whether or not the earlier items are resent', async () => {
    const context_management = [{ type: 'compaction', compact_threshold: 50 }];
    const ask = user('x'.repeat(400));
    const long = (await client.turn({ input: [ask], context_management, store: false, include })).last.response;
    for (const items of [long.output, [ask, ...long.output]]) {
      const answer = (await client.turn({ input: [...items, user('y')], store: false, include })).last.response;
      expect(answer).not.toHaveProperty('input_transformations');
    }
  });
});
