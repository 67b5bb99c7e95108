import { createOpenAI } from '@ai-sdk/openai';
import { generateText, isStepCount, type ModelMessage, streamText, tool } from 'ai';
import { z } from 'zod';
import type { Client, Mode } from './client.ts';
import { versionsOf } from './install.ts';

const tools = {
  weather: tool({
    description: 'Returns the weather of a city.',
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => ({ city, sky: 'clear' }),
  }),
};

const mode = (streams: boolean): Mode => ({
  transport: 'HTTP',
  name: streams ? 'streamText' : 'generateText',
  streams,
  async open({ baseURL, apiKey }) {
    const model = createOpenAI({ baseURL, apiKey })('gpt-5.5');
    const messages: ModelMessage[] = [];
    return {
      async ask(text) {
        const asked: ModelMessage[] = [...messages, { role: 'user', content: text }];
        const settings = { model, messages: asked, tools, stopWhen: isStepCount(5) };
        let failure: unknown = null;
        const run = streams
          ? streamText({ ...settings, onError: ({ error }) => void (failure ??= error) })
          : await generateText(settings);
        const answer = await run.text;
        if (failure) throw failure;
        messages.splice(0, messages.length, ...asked, ...(await run.responseMessages));
        return answer;
      },
      close() {},
    };
  },
});

/** The Vercel AI SDK with its responses model and the default of `store`: it refers to earlier output by ids. */
export const vercel: Client = {
  name: 'Vercel AI SDK',
  page: 'vercel-ai',
  install: () => versionsOf('ai', '@ai-sdk/openai'),
  modes: [mode(true), mode(false)],
};
