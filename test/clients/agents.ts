import {
  Agent,
  MemorySession,
  OpenAIConversationsSession,
  OpenAIProvider,
  Runner,
  type Session,
  tool,
} from '@openai/agents';
import OpenAI from 'openai';
import { z } from 'zod';
import type { Client, Mode, Opening } from './client.ts';
import { versionsOf } from './install.ts';

const weather = tool({
  name: 'weather',
  description: 'Returns the weather of a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => `${city}: clear`,
});
const agent = new Agent({ name: 'Agent', instructions: 'Be brief.', model: 'gpt-5.5', tools: [weather] });

/** Where the history is: in the program, in the provider's conversation, or in the answer that the next request names. */
type History = (at: Opening) => Session | null;
const inMemory: History = () => new MemorySession();
const inConversation: History = ({ baseURL, apiKey }) =>
  new OpenAIConversationsSession({ client: new OpenAI({ baseURL, apiKey }) });
const byAnchor: History = () => null;

const mode = (transport: Mode['transport'], name: string, streams: boolean, history: History): Mode => ({
  transport,
  name,
  streams,
  async open(at) {
    const { baseURL, apiKey } = at;
    const modelProvider = new OpenAIProvider({
      baseURL,
      apiKey,
      useResponses: true,
      useResponsesWebSocket: transport === 'WebSocket',
    });
    const runner = new Runner({ modelProvider, tracingDisabled: true });
    const session = history(at);
    let previousResponseId: string | undefined;
    return {
      async ask(text) {
        const options = session ? { session } : { previousResponseId };
        let result: { finalOutput?: string | undefined; lastResponseId: string | undefined };
        if (streams) {
          const run = await runner.run(agent, text, { ...options, stream: true });
          for await (const _event of run);
          await run.completed;
          result = run;
        } else result = await runner.run(agent, text, options);
        previousResponseId = result.lastResponseId;
        return result.finalOutput ?? '';
      },
      close: () => modelProvider.close(),
    };
  },
});

/** The agents SDK for JavaScript. */
export const agents: Client = {
  name: 'Agents SDK (TypeScript)',
  page: 'agents-typescript',
  install: () => versionsOf('@openai/agents'),
  modes: [
    mode('HTTP', 'MemorySession', false, inMemory),
    mode('HTTP', 'OpenAIConversationsSession', true, inConversation),
    mode('WebSocket', 'MemorySession', true, inMemory),
    mode('WebSocket', 'OpenAIConversationsSession', false, inConversation),
    mode('WebSocket', 'previousResponseId', true, byAnchor),
  ],
};
