import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';

describe('the OpenAI SDK against the simulator', () => {
  let sim: Simulator;
  let client: OpenAI;

  beforeEach(async () => {
    sim = await startSimulator({ seed: 9, reasoning: true });
    client = new OpenAI({ apiKey: 'sk-sim', baseURL: sim.url });
  });
  afterEach(() => sim.close());

  const shell = { type: 'function' as const, name: 'shell', parameters: { type: 'object' }, strict: false };

  it('The OpenAI SDK runs a tool loop over HTTP streaming', async () => {
    let input: OpenAI.Responses.ResponseInput = [{ role: 'user', content: 'go [[call:shell {"n":1}][call:shell]]' }];
    let anchor: string | undefined;
    const history: unknown[] = [];
    for (let round = 0; ; round++) {
      const stream = client.responses.stream({ model: 'm', input, previous_response_id: anchor, tools: [shell] });
      const response = await stream.finalResponse();
      history.push(...input, ...response.output);
      expect(digestOf(response)).toBe(
        expectedDigest({ items: history.slice(0, history.length - response.output.length) as [], tools: [shell] }),
      );
      const calls = response.output.filter((item) => item.type === 'function_call');
      if (calls.length === 0) {
        expect(round).toBe(2);
        expect(response.output_text).toContain(`digest=${digestOf(response)}`);
        return;
      }
      anchor = response.id;
      input = calls.map(({ call_id }) => ({ type: 'function_call_output', call_id, output: 'done' }));
    }
  });

  it('The OpenAI SDK creates, retrieves, compacts, lists and deletes', async () => {
    const response = await client.responses.create({ model: 'm', input: 'hi' });
    expect(digestOf(response)).toBe(expectedDigest({ items: 'hi' }));
    expect((await client.responses.retrieve(response.id)).output_text).toBe(response.output_text);
    const compacted = await client.responses.compact({ model: 'gpt-5.5', input: 'hi' });
    expect(compacted.output.at(-1)?.type).toBe('compaction');
    expect((await client.models.list()).data.length).toBeGreaterThan(0);
    await client.responses.delete(response.id);
    await expect(client.responses.retrieve(response.id)).rejects.toMatchObject({ status: 404 });
  });

  it('The OpenAI SDK understands the errors, and retries where allowed', async () => {
    const lost = client.responses.create({ model: 'm', input: 'x', previous_response_id: 'resp_none' });
    await expect(lost).rejects.toMatchObject({ status: 400, code: 'previous_response_not_found' });
    const error = { status: 429, message: 'Later.', retryAfter: 0 };
    sim.script.onTurn({}, { kind: 'error', error });
    expect(digestOf(await client.responses.create({ model: 'm', input: 'x' }))).toBe(expectedDigest({ items: 'x' }));
    expect(sim.journal.of('create')).toHaveLength(3);
  });

  it('The OpenAI SDK chains turns over its WebSocket client', async () => {
    const ws = new ResponsesWS(client);
    const create = { type: 'response.create', model: 'm', store: false } as const;
    const ends: OpenAI.Responses.Response[] = [];
    ws.send({ ...create, input: 'warm', generate: false });
    for await (const { type, ...rest } of ws) {
      if (type !== 'message' || !('message' in rest) || rest.message.type !== 'response.completed') continue;
      const { response } = rest.message;
      ends.push(response);
      if (ends.length < 3) ws.send({ ...create, input: `turn ${ends.length}`, previous_response_id: response.id });
      else ws.close();
    }
    const [warm, first, second] = ends;
    expect(warm!.output).toEqual([]);
    expect(digestOf(second)).toBe(expectedDigest({ items: ['warm', 'turn 1', first!, 'turn 2'] }));
    await sim.journal.waitFor('closed');
  });

  it('The OpenAI SDK receives error frames on a socket that stays usable', async () => {
    const ws = new ResponsesWS(client);
    const errors: string[] = [];
    ws.on('error', (error) => void errors.push(JSON.stringify(error.error)));
    const done = new Promise<void>((resolve) => ws.on('response.completed', () => resolve()));
    ws.send({ type: 'response.create', model: 'm', input: 'x', previous_response_id: 'resp_none' });
    await sim.journal.waitFor('end');
    ws.send({ type: 'response.create', model: 'm', input: 'x' });
    await done;
    expect(errors.join()).toContain('previous_response_not_found');
    expect(sim.connections).toHaveLength(1);
    ws.close();
    await sim.journal.waitFor('closed');
  });
});
