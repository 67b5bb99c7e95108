import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { connect, type Frame, hangUp, type RawClient, user } from './client.ts';

describe('the simulated model', () => {
  let sim: Simulator;
  let client: RawClient;

  beforeEach(async () => {
    sim = await startSimulator({ seed: 5, reasoning: true });
    client = await connect(sim.url);
  });
  afterEach(async () => {
    await hangUp(client);
    await sim.close();
  });

  const include = ['reasoning.encrypted_content'];
  const ofType = (response: Frame, type: string): Frame[] =>
    response.output.filter((item: Frame) => item.type === type);
  const outputsOf = (response: Frame) =>
    ofType(response, 'function_call').map(({ call_id }) => ({ type: 'function_call_output', call_id, output: 'ok' }));

  it('The simulated model calls one tool per round, then answers, as a delta', async () => {
    const ask = 'go [[call:a {"n":1}][call:b]]';
    const first = (await client.turn({ input: ask, store: false })).last.response;
    expect(ofType(first, 'function_call')).toMatchObject([{ name: 'a', arguments: '{"n":1}' }]);
    const continued = { store: false, previous_response_id: first.id };
    const second = (await client.turn({ ...continued, input: outputsOf(first) })).last.response;
    expect(ofType(second, 'function_call')).toMatchObject([{ name: 'b' }]);
    const input = outputsOf(second);
    const last = (await client.turn({ store: false, previous_response_id: second.id, input })).last.response;
    const items = [ask, first, ...outputsOf(first), second, ...outputsOf(second)];
    expect(digestOf(last)).toBe(expectedDigest({ items }));
    expect(ofType(last, 'function_call')).toEqual([]);
  });

  it('The simulated model takes the same rounds when the whole history is sent each time', async () => {
    const history: unknown[] = [user('go [[call:a][call:b]]')];
    const names: string[] = [];
    for (let turn = 0; turn < 3; turn++) {
      const { response } = (await client.turn({ input: history, store: false, include })).last;
      names.push(ofType(response, 'function_call')[0]?.name ?? 'answer');
      history.push(...response.output, ...outputsOf(response));
    }
    expect(names).toEqual(['a', 'b', 'answer']);
  });

  it('The simulated model makes parallel calls and calls of custom tools, with their events', async () => {
    const { frames, last } = await client.turn({ input: '[call:a {"x":1}][custom:patch "*** go"]' });
    expect(ofType(last.response, 'function_call')).toHaveLength(1);
    expect(ofType(last.response, 'custom_tool_call')).toMatchObject([{ name: 'patch', input: '*** go' }]);
    const deltas = (type: string) => frames.filter((frame) => frame.type === type).map(({ delta }) => delta);
    expect(deltas('response.function_call_arguments.delta').join('')).toBe('{"x":1}');
    expect(deltas('response.custom_tool_call_input.delta').join('')).toBe('*** go');
  });

  it('The simulated model refuses a call without its output, and an output without its call', async () => {
    const { response } = (await client.turn({ input: '[call:a]' })).last;
    const call = ofType(response, 'function_call')[0]!;
    const dangling = await client.turn({ input: 'next', previous_response_id: response.id });
    expect(dangling.last.error.message).toBe(`No tool output found for function call ${call.call_id}.`);
    const stray = { type: 'function_call_output', call_id: 'call_x', output: '' };
    expect((await client.turn({ input: [user('x'), stray] })).last.error.message).toContain('call_x');
  });

  it('The simulated model shows encrypted reasoning only when requested, and accepts only its own', async () => {
    const plain = (await client.turn({ input: 'x' })).last.response;
    expect(ofType(plain, 'reasoning')[0]).not.toHaveProperty('encrypted_content');
    const { response } = (await client.turn({ input: 'x', include })).last;
    const [reasoning] = ofType(response, 'reasoning');
    expect(reasoning!.encrypted_content).toEqual(expect.any(String));
    expect(response.usage.output_tokens_details.reasoning_tokens).toBeGreaterThan(0);

    const resend = { input: [user('x'), ...response.output, user('y')] };
    expect((await client.turn(resend)).last.type).toBe('response.completed');
    const forged = { ...reasoning, encrypted_content: `${reasoning!.encrypted_content}x` };
    expect((await client.turn({ input: [forged, user('y')] })).last.error.code).toBe('invalid_encrypted_content');
    const stranger = await connect(sim.url, { authorization: 'Bearer two' });
    expect((await stranger.turn(resend)).last.error.code).toBe('invalid_encrypted_content');
    await hangUp(stranger);
  });

  it('The simulated model accepts its encrypted content after a restart with the same seed', async () => {
    const { response } = (await client.turn({ input: 'x', include })).last;
    const input = [user('x'), ...response.output, user('y')];
    for (const [seed, type] of [
      [5, 'response.completed'],
      [6, 'error'],
    ] as const) {
      const next = await startSimulator({ seed });
      const other = await connect(next.url);
      expect((await other.turn({ input })).last.type).toBe(type);
      await hangUp(other);
      await next.close();
    }
  });

  it('The simulated model answers a compaction trigger with one compaction item, which replaces the context', async () => {
    const first = (await client.turn({ input: 'a long story', store: false })).last.response;
    const trigger = { type: 'compaction_trigger' };
    const compacted = await client.turn({ input: [trigger], store: false, previous_response_id: first.id });
    expect(compacted.last.response.output).toMatchObject([{ type: 'compaction' }]);
    const { output, id } = compacted.last.response;
    const next = await client.turn({ input: 'go on', store: false, previous_response_id: id });
    expect(digestOf(next.last.response)).toBe(expectedDigest({ items: [...output, 'go on'] }));
    const full = await client.turn({ input: [...output, user('go on')], store: false });
    expect(digestOf(full.last.response)).toBe(digestOf(next.last.response));
  });

  it('The simulated model compacts by itself above the threshold of a request', async () => {
    const context_management = [{ type: 'compaction', compact_threshold: 50 }];
    const short = (await client.turn({ input: 'x', context_management })).last.response;
    expect(ofType(short, 'compaction')).toHaveLength(0);
    const long = (await client.turn({ input: 'x'.repeat(400), context_management })).last.response;
    expect(long.output.map(({ type }: Frame) => type)).toEqual(['compaction', 'reasoning', 'message']);
    const next = (await client.turn({ input: 'y', previous_response_id: long.id })).last.response;
    expect(digestOf(next)).toBe(expectedDigest({ items: [...long.output, 'y'] }));
  });

  it('The simulated model answers with given words, in a given number of deltas', async () => {
    const { frames, last } = await client.turn({ input: '[say:Bonjour.] [deltas:12]' });
    expect(frames.filter(({ type }) => type === 'response.output_text.delta')).toHaveLength(12);
    expect(ofType(last.response, 'message')[0]!.content[0].text).toMatch(/^Bonjour\. digest=/);
  });

  it('The simulated model resolves item references to stored items, and no others', async () => {
    const { response } = (await client.turn({ input: 'x' })).last;
    const id = ofType(response, 'message')[0]!.id;
    const referred = await client.turn({ input: [user('x'), { type: 'item_reference', id }, user('y')] });
    const message = ofType(response, 'message')[0]!;
    expect(digestOf(referred.last.response)).toBe(expectedDigest({ items: ['x', message, 'y'] }));
    expect((await client.turn({ input: [{ type: 'item_reference', id: 'msg_no' }] })).last.status).toBe(404);
  });
});
