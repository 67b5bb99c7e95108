import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import OpenAI from 'openai';
import { digestOf, expectedDigest, startSimulator } from '../../src/testing/index.ts';
import { freePort, startWorker, type WorkerProcess } from '../support/worker-process.ts';

/**
 * Runs a conversation through a worker that is killed in the middle of it. The model of the simulated upstream answers
 * with a digest of the whole context it received; the last column is computed from that.
 */

type Input = OpenAI.Responses.ResponseInputItem;
type Output = OpenAI.Responses.Response;

interface Line {
  turn: string;
  outcome: string;
  'client sent': string;
  'upstream got': string;
  socket: string;
  context: string;
}

const tool: OpenAI.Responses.FunctionTool = {
  type: 'function',
  name: 'weather',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
  strict: true,
};

const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-demo-'));
const simulator = await startSimulator({ reasoning: true });
const port = await freePort();
const env = { PORT: String(port), HOLDFAST_DATA_DIR: dataDir, HOLDFAST_UPSTREAM_URL: simulator.url };
const lines: Line[] = [];
let wrong = 0;
let worker: WorkerProcess = await startWorker(env);

const client = new OpenAI({
  apiKey: 'sk-demo',
  baseURL: `http://127.0.0.1:${port}/v1`,
  defaultHeaders: { 'session-id': crypto.randomUUID() },
});
const history: Input[] = [];

async function ask(label: string, items: Input[], options: { anchor?: string; store?: boolean } = {}): Promise<Output> {
  const { anchor, store = false } = options;
  history.push(...items);
  const input = anchor ? items : history;
  const { data, response } = await client.responses
    .create({
      model: 'demo',
      input,
      tools: [tool],
      store,
      include: ['reasoning.encrypted_content'],
      ...(anchor ? { previous_response_id: anchor } : {}),
    })
    .withResponse();
  const create = simulator.journal.of('create').at(-1)!;
  const expected = expectedDigest({ items: history as never, tools: [tool] });
  const digest = digestOf(data as never);
  if (digest !== expected) wrong += 1;
  lines.push({
    turn: label,
    outcome: response.headers.get('x-holdfast-outcome') ?? '?',
    'client sent': `${input.length}${anchor ? ' + anchor' : ''}`,
    'upstream got': `${create.itemsReceived}${create.previousResponseId ? ' + anchor' : ''}`,
    socket: `#${create.connection}`,
    context: digest === expected ? 'right' : `WRONG ${digest}, not ${expected}`,
  });
  history.push(...(data.output as Input[]));
  return data;
}

const say = (text: string): Input => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });
const result = (of: Output): Input => {
  const call = of.output.find((item) => item.type === 'function_call')!;
  return { type: 'function_call_output', call_id: call.call_id, output: '{"sky":"clear"}' };
};

try {
  await ask('1 hello', [say('Hello.')]);
  const called = await ask('2 asks for a tool', [say('How is the weather? [call:weather {"city":"Reykjavik"}]')]);
  const third = await ask('3 tool answers', [result(called)]);
  await worker.kill();
  console.log(`worker ${worker.pid} killed with SIGKILL; starting another on the same data directory`);
  worker = await startWorker(env);
  await ask('4 after the restart', [say('Still there?')]);
  const fifth = await ask('5 same socket again', [say('Good.')]);
  await worker.kill();
  console.log(`worker ${worker.pid} killed with SIGKILL; starting another on the same data directory`);
  worker = await startWorker(env);
  await ask('6 only an anchor, unstored', [say('And now?')], { anchor: fifth.id });
  console.table(lines);
  if (third.status !== 'completed') wrong += 1;
  console.log(wrong === 0 ? 'Every turn saw exactly the conversation.' : `${wrong} turns saw something else.`);
} finally {
  await worker.stop();
  await simulator.close();
  await rm(dataDir, { recursive: true, force: true });
}
process.exitCode = wrong === 0 ? 0 : 1;
