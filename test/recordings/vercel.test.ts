import { createOpenAI } from '@ai-sdk/openai';
import { generateText, isStepCount, type ModelMessage, streamText, tool } from 'ai';
import { afterEach, describe, expect, it } from 'vitest';
import { z } from 'zod';
import { digestOf, type TestBridge, testBridge } from '../../src/testing/index.ts';

type Model = ReturnType<ReturnType<typeof createOpenAI>>;
type Say = (model: Model, messages: ModelMessage[]) => Promise<{ text: string; messages: readonly ModelMessage[] }>;

const tools = {
  weather: tool({
    description: 'Tells the weather.',
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => ({ city, sky: 'clear' }),
  }),
};

const ways: { way: string; say: Say }[] = [
  {
    way: 'generateText',
    async say(model, messages) {
      const run = await generateText({ model, messages, tools, stopWhen: isStepCount(5) });
      return { text: run.text, messages: run.responseMessages };
    },
  },
  {
    way: 'streamText',
    async say(model, messages) {
      const run = streamText({ model, messages, tools, stopWhen: isStepCount(5), onError: () => undefined });
      return { text: await run.text, messages: await run.responseMessages };
    },
  },
];

const keys = [
  { key: 'its own key', apiKey: 'sk-own', upstreamKey: 'sk-own', env: {} as Record<string, string> },
  {
    key: 'a key of the bridge, behind which all share one credential',
    apiKey: 'hk-one',
    upstreamKey: 'sk-shared',
    env: { HOLDFAST_UPSTREAM_KEY: 'sk-shared', HOLDFAST_API_KEYS: 'one:hk-one' },
  },
];

/** By default the SDK leaves `store` unset, and refers to earlier output by item references. */
describe.each(keys)('the Vercel AI SDK with $key', ({ apiKey, upstreamKey, env }) => {
  let at: TestBridge;
  afterEach(() => at?.close());

  /** Runs three user turns, the second with two rounds of tools: five requests. */
  async function converse(say: Say, headers: Record<string, string>) {
    at = await testBridge({ simulator: { seed: 41, reasoning: true }, env });
    const sent: string[] = [];
    const openai = createOpenAI({
      baseURL: `${at.url}/v1`,
      apiKey,
      headers,
      fetch: (input, init) => {
        sent.push(String(init?.body));
        return fetch(input, init);
      },
    });
    const messages: ModelMessage[] = [];
    const texts: string[] = [];
    const asks = ['Hello.', 'Weather? [[call:weather {"city":"Oslo"}][call:weather {"city":"Rome"}]]', 'And now?'];
    for (const content of asks) {
      messages.push({ role: 'user', content });
      const said = await say(openai('gpt-5.5'), messages);
      texts.push(said.text);
      messages.push(...said.messages);
    }
    return { texts, sent, creates: at.simulator.journal.of('create') };
  }

  it.each(ways.flatMap((one) => [true, false].map((keyed) => ({ ...one, keyed }))))(
    'The Vercel AI SDK $way keeps one socket and sends deltas, with a thread header: $keyed',
    async ({ say, keyed }) => {
      const { texts, sent, creates } = await converse(say, keyed ? { 'thread-id': 'vercel' } : {});
      expect(sent).toHaveLength(5);
      expect(sent.at(-1)).toContain('"item_reference"');
      expect(creates).toHaveLength(5);
      expect(creates.slice(1).map(({ itemsReceived }) => itemsReceived)).toEqual([1, 1, 1, 1]);
      expect(creates.slice(1).every(({ previousResponseId }) => previousResponseId !== null)).toBe(true);
      expect(new Set(creates.map(({ connection }) => connection)).size).toBe(1);
      expect(texts.map((text) => digestOf(text) !== null)).toEqual([true, true, true]);
    },
  );

  it.each(ways)(
    'The Vercel AI SDK $way gets the context that its own requests mean to the provider',
    async ({ say }) => {
      const { texts, sent } = await converse(say, {});
      const direct = await fetch(`${at.simulator.url}/responses`, {
        method: 'POST',
        headers: { authorization: `Bearer ${upstreamKey}`, 'content-type': 'application/json' },
        body: JSON.stringify({ ...JSON.parse(sent.at(-1)!), stream: false }),
      });
      const answer = (await direct.json()) as { output: unknown[] };
      expect(direct.status).toBe(200);
      expect(digestOf(texts.at(-1))).toBe(digestOf(answer));
    },
  );

  it('References of the Vercel AI SDK are forwarded after the socket of the answer is lost', async () => {
    const { texts } = await converse(async (model, messages) => {
      at.simulator.dropAll();
      return ways[1]!.say(model, messages);
    }, {});
    expect(texts.map((text) => digestOf(text) !== null)).toEqual([true, true, true]);
  });
});
