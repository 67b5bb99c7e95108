import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { installFromNpm, type StartUpstream } from './upstream.ts';

const VERSION = '1.43.0';
/** Characters of a long answer: at one chunk of 20 every 40 ms it takes about six seconds. */
const LONG = 3_000;

interface Message {
  role: string;
  content?: unknown;
  tool_calls?: { id: string; function: { name: string } }[];
  tool_call_id?: string;
}

/** What the mock takes of a request, one word a message, in a form that both sides can compute. */
const digest = (words: readonly string[]) => createHash('sha256').update(words.join('\n')).digest('hex').slice(0, 16);

const wordOf = ({ role, content, tool_calls: calls, tool_call_id: id }: Message): string =>
  calls
    ? `call ${calls.map((call) => call.id).join()}`
    : id
      ? `output ${id} ${String(content)}`
      : `${role} ${String(content)}`;

const textOf = (content: unknown): string =>
  typeof content === 'string' ? content : (content as { text?: string }[]).map(({ text = '' }) => text).join('');

const wordOfItem = (item: Record<string, unknown>): string => {
  if (item.type === 'function_call') return `call ${String(item.call_id)}`;
  if (item.type === 'function_call_output') return `output ${String(item.call_id)} ${String(item.output)}`;
  return `${String(item.role)} ${textOf(item.content)}`;
};

/** CopilotKit's mock of OpenAI. It ignores `previous_response_id`, and its responses do not show that. */
export const startAimock: StartUpstream = async (scratch) => {
  const folder = await installFromNpm(scratch, '@copilotkit/aimock', VERSION);
  const { LLMock } = await import(pathToFileURL(join(folder, 'dist', 'index.js')).href);
  const mock = new LLMock({ port: 0, chunkSize: 20 });
  const last = (messages: Message[]) => messages.at(-1)!;
  const asked = ({ messages }: { messages: Message[] }, word: string) =>
    last(messages).role === 'user' && String(last(messages).content).includes(word);
  const answer = ({ messages }: { messages: Message[] }) => ({ content: `digest=${digest(messages.map(wordOf))}` });
  mock.on(
    { predicate: (request: { messages: Message[] }) => asked(request, '[refuse]') },
    { error: { message: 'Too many requests.', type: 'rate_limit_error', code: 'rate_limit_exceeded' }, status: 429 },
  );
  mock.on(
    { predicate: (request: { messages: Message[] }) => asked(request, '[look]') },
    { toolCalls: [{ name: 'look', arguments: '{}' }] },
  );
  mock.on(
    { predicate: (request: { messages: Message[] }) => asked(request, '[long]') },
    (request: { messages: Message[] }) => ({ content: `${answer(request).content} ${'x'.repeat(LONG)}` }),
    { latency: 40 },
  );
  mock.on({ predicate: () => true }, answer);
  await mock.start();
  return {
    name: 'aimock',
    version: VERSION,
    url: `${mock.url}/v1`,
    model: 'gpt-4o',
    transports: ['websocket', 'http'],
    env: { HOLDFAST_UPSTREAM_ANCHORS: 'off' },
    callsTool: '[look]',
    takesLong: '[long]',
    refused: { model: 'gpt-4o', input: [{ role: 'user', content: '[refuse]' }] },
    sawExactly: ({ output }, items) =>
      JSON.stringify(output).includes(`digest=${digest(items.map((item) => wordOfItem(item as never)))}`),
    close: () => mock.stop(),
  };
};
