import { Agent, MemorySession, OpenAIProvider, Runner, tool } from '@openai/agents';
import { testBridge } from 'holdfast/testing';
import { z } from 'zod';

const own = process.env.HOLDFAST_URL ? null : await testBridge();
const url = own?.url ?? process.env.HOLDFAST_URL;

const lookUpOrder = tool({
  name: 'look_up_order',
  description: 'Returns the state of an order.',
  parameters: z.object({ id: z.string() }),
  execute: async ({ id }) => `Order ${id} has left the warehouse.`,
});
const agent = new Agent({
  name: 'Support',
  instructions: 'You answer questions about orders.',
  model: 'gpt-5.5',
  tools: [lookUpOrder],
});

// The base URL is the only change to a program that talks to the provider itself.
const modelProvider = new OpenAIProvider({ baseURL: `${url}/v1`, apiKey: process.env.OPENAI_API_KEY ?? 'any' });
const runner = new Runner({ modelProvider, tracingDisabled: true });
const session = new MemorySession();

// The simulated provider obeys the brackets; a real one reads the sentence.
for (const question of ['Where is order 7? [call:look_up_order {"id":"7"}]', 'Thank you. When will it arrive?']) {
  const result = await runner.run(agent, question, { session });
  for (const item of result.newItems) if (item.type === 'tool_call_output_item') console.log(`tool: ${item.output}`);
  console.log(`> ${result.finalOutput}`);
}

if (own) {
  const turns = own.simulator.journal.of('create');
  const deltas = turns.filter(({ previousResponseId }) => previousResponseId !== null);
  console.log(
    `${turns.length} turns on ${own.simulator.connections.length} socket, ${deltas.length} with the new items only`,
  );
  await own.close();
}
