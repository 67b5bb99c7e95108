import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  digestOf,
  type ExpectedItem,
  expectedDigest,
  explore,
  fixedEvents,
  testBridge,
  transitionCover,
} from 'holdfast/testing';
import OpenAI from 'openai';
import { createMachine } from 'xstate';

// What can happen to a client that anchors each request to the last answer.
const machine = createMachine({
  initial: 'fresh',
  states: {
    fresh: { on: { ask: 'anchored' } },
    anchored: { on: { ask: 'anchored', drop: 'cold', restart: 'cold', busy: 'limited' } },
    // Its socket is gone, by a network fault or with the worker.
    cold: { on: { ask: 'anchored' } },
    // The provider refuses the next turn.
    limited: { on: { ask: 'anchored' } },
  },
});
const tooMany = { status: 429, code: 'rate_limit_exceeded', message: 'Too many requests.', retryAfter: 0 };
const events = fixedEvents([{ type: 'ask' }, { type: 'drop' }, { type: 'restart' }, { type: 'busy' }]);

for (const { name, steps } of transitionCover(explore({ name: 'client', machine, events })))
  test(`The model sees the whole conversation through: ${name}`, async (t) => {
    const at = await testBridge();
    t.after(() => at.close());
    const line: ExpectedItem[] = [];
    let anchor: string | undefined;
    const causes: Record<string, () => unknown> = {
      async ask() {
        // A restarted bridge has another port.
        const client = new OpenAI({ baseURL: `${at.url}/v1`, apiKey: 'any' });
        const question = { role: 'user' as const, content: `Question ${line.length}` };
        const answer = await client.responses.create({ model: 'm', input: [question], previous_response_id: anchor });
        line.push(question);
        assert.equal(digestOf(answer), expectedDigest({ items: line }));
        line.push(...(answer.output as unknown as ExpectedItem[]));
        anchor = answer.id;
      },
      drop: () => at.simulator.dropAll(),
      restart: () => at.restart(),
      busy: () => at.simulator.script.onTurn({}, { kind: 'error', error: tooMany }),
    };
    for (const { event } of steps) await causes[event.type]!();
  });
