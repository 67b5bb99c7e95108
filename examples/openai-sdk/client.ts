import { testBridge } from 'holdfast/testing';
import OpenAI from 'openai';

/** Two workers on one store. Real ones share a database instead: see the README of this example. */
async function startTwoWorkers() {
  // No balancer has to notice that they leave.
  const env = { HOLDFAST_LAME_DUCK_MS: '0' };
  const one = await testBridge({ env });
  const two = await testBridge({ env, simulator: one.simulator, openStore: async () => one.store });
  return {
    urls: [one.url, two.url],
    async close() {
      await two.close();
      await one.close();
    },
  };
}

const weather: OpenAI.Responses.FunctionTool = {
  type: 'function',
  name: 'get_weather',
  description: 'Returns the weather of a city.',
  parameters: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
  strict: true,
};
const getWeather = ({ city }: { city: string }) => `${city}: ${city.length} degrees`;

const own = process.env.HOLDFAST_URLS ? null : await startTwoWorkers();
const urls = own?.urls ?? process.env.HOLDFAST_URLS!.split(',');
const workers = urls.map(
  (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.OPENAI_API_KEY ?? 'any', maxRetries: 2 }),
);
let requests = 0;

/** Sends the next request to the next worker, as a balancer without affinity would. */
async function create(input: OpenAI.Responses.ResponseInput) {
  const number = requests % workers.length;
  requests += 1;
  const sent = workers[number]!.responses.create({ model: 'gpt-5.5', store: false, tools: [weather], input });
  const { data, response } = await sent.withResponse();
  const session = response.headers.get('x-holdfast-session');
  console.log(`worker ${number + 1}  ${response.headers.get('x-holdfast-outcome')}  ${session}`);
  return data;
}

const history: OpenAI.Responses.ResponseInput = [];
// The simulated provider obeys the brackets; a real one reads the sentence.
const questions = [
  'What is the weather in Oslo and in Rome? [call:get_weather {"city":"Oslo"}][call:get_weather {"city":"Rome"}]',
  'And in Lima? [call:get_weather {"city":"Lima"}]',
  'Where is it warmest?',
];
for (const content of questions) {
  history.push({ role: 'user', content });
  for (;;) {
    const answer = await create(history);
    // The SDK types outputs and inputs apart; an output is a valid input.
    history.push(...(answer.output as OpenAI.Responses.ResponseInputItem[]));
    const calls = answer.output.filter((item) => item.type === 'function_call');
    for (const { call_id, arguments: args } of calls)
      history.push({ type: 'function_call_output', call_id, output: getWeather(JSON.parse(args)) });
    if (calls.length > 0) continue;
    console.log(`> ${answer.output_text}`);
    break;
  }
}
await own?.close();
