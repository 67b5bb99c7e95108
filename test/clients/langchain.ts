import type { Client, Mode } from './client.ts';
import { importFrom, installNpm } from './install.ts';

const packages = [
  '@langchain/openai@1.6.0',
  '@langchain/core@1.4.0',
  'langchain@1.5.14',
  '@langchain/langgraph@1.7.3',
  'zod@4.6.7',
];

interface Message {
  text: string;
  response_metadata: { status?: string };
}
interface LangChain {
  ChatOpenAI: new (options: object) => object;
  createAgent(options: object): { invoke(state: object): Promise<{ messages: Message[] }> };
  tool(run: (input: { city: string }) => Promise<string>, options: object): object;
  z: typeof import('zod')['z'];
}

async function load(scratch: string): Promise<LangChain> {
  const folder = await installNpm(scratch, packages);
  const names = ['@langchain/openai', 'langchain', 'zod'];
  return Object.assign({}, ...(await Promise.all(names.map((name) => importFrom(folder, name))))) as LangChain;
}

const mode = (streaming: boolean): Mode => ({
  transport: 'HTTP',
  name: streaming ? 'streaming' : 'one answer',
  streams: streaming,
  async open({ baseURL, apiKey, scratch }) {
    const { ChatOpenAI, createAgent, tool, z } = await load(scratch);
    const weather = tool(async ({ city }) => `${city}: clear`, {
      name: 'weather',
      description: 'Returns the weather of a city.',
      schema: z.object({ city: z.string() }),
    });
    const model = new ChatOpenAI({
      model: 'gpt-5.5',
      apiKey,
      useResponsesApi: true,
      streaming,
      configuration: { baseURL },
    });
    const agent = createAgent({ model, tools: [weather] });
    let history: object[] = [];
    return {
      async ask(text) {
        const { messages } = await agent.invoke({ messages: [...history, { role: 'user', content: text }] });
        const last = messages.at(-1)!;
        // A stream that ends as failed is no error for the package: its message is empty, and has no status.
        if (last.response_metadata.status !== 'completed') throw new Error('the answer ended as failed');
        history = messages;
        return last.text;
      },
      close() {},
    };
  },
});

/** LangChain for JavaScript with the Responses API: an agent whose program keeps the messages. */
export const langchain: Client = {
  name: 'LangChain (TypeScript)',
  page: 'langchain-typescript',
  async install(scratch) {
    await installNpm(scratch, packages);
    return packages
      .slice(0, 3)
      .map((name) => name.replace(/@(?=[\d])/, ' '))
      .join(', ');
  },
  modes: [mode(true), mode(false)],
};
