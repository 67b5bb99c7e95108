import { Agent, tool, withResponsesWebSocketSession } from '@openai/agents';
import OpenAI from 'openai';
import { ResponsesWebSocketSession } from 'openai/lib/responses/responses-websocket-session';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { z } from 'zod';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import type { SocketEvent } from '../support/websocket.ts';

let at: TestBridge;
beforeEach(async () => {
  at = await startTestBridge();
});
afterEach(() => at.close());

const openai = () => new OpenAI({ baseURL: `${at.url}/v1`, apiKey: 'sk-test' });
type Create = Parameters<ResponsesWS['send']>[0];

it('ResponsesWS runs a conversation, gets errors as events, and goes on after them', async () => {
  const ws = new ResponsesWS(openai());
  const errors: string[] = [];
  ws.on('error', (error) => errors.push((error as { error?: SocketEvent }).error?.error?.code ?? String(error)));
  const history: object[] = [];
  let previous: string | null = null;
  const turn = async (text: string) => {
    const done = new Promise<{ id: string; output: object[] }>((end) =>
      ws.once('response.completed', ({ response }) => end(response)),
    );
    const message = user(text);
    history.push(message);
    const create = { model: 'm', store: false, input: [message], previous_response_id: previous };
    ws.send({ type: 'response.create', ...create } as unknown as Create);
    const response = await done;
    expect(digestOf(response as never)).toBe(expectedDigest({ items: history as never }));
    history.push(...response.output);
    previous = response.id;
  };
  await turn('one');
  ws.send({ type: 'response.create', model: 'm', input: 'x', stream_id: 'not a lane' } as Create);
  await until(async () => errors.length > 0);
  expect(errors).toEqual(['invalid_stream_id']);
  await turn('two');
  ws.close();
});

it('ResponsesWS connects again by itself when the bridge has closed its idle connection, and goes on', async () => {
  await at.close();
  at = await startTestBridge({ env: { HOLDFAST_CLIENT_IDLE_MS: '200' } });
  const codes: number[] = [];
  const onReconnecting = ({ closeCode }: { closeCode: number }) => void codes.push(closeCode);
  const ws = new ResponsesWS(openai(), { reconnect: { initialDelay: 10, maxDelay: 100, onReconnecting } });
  ws.on('error', () => {});
  const history: object[] = [];
  let previous: string | null = null;
  for (const text of ['one', 'two', 'three']) {
    const reconnected = new Promise<void>((again) => ws.once('reconnected', () => again()));
    const done = new Promise<{ id: string; output: object[] }>((end) =>
      ws.once('response.completed', ({ response }) => end(response)),
    );
    history.push(user(text));
    const create = { model: 'm', store: false, input: [user(text)], previous_response_id: previous };
    ws.send({ type: 'response.create', ...create } as unknown as Create);
    const response = await done;
    expect(digestOf(response as never)).toBe(expectedDigest({ items: history as never }));
    history.push(...response.output);
    previous = response.id;
    await reconnected;
  }
  expect(new Set(codes)).toEqual(new Set([1001]));
  ws.close();
});

it("The SDK's lanes run several conversations on one connection", async () => {
  const ws = new ResponsesWS(openai());
  await new Promise<void>((open) => ws.socket.once('open', open));
  const session = new ResponsesWebSocketSession(ws, { maxLanes: 8, maxBufferedEvents: 10_000, maxBufferedBytes: 1e8 });
  await Promise.all(
    [undefined, 'a', 'b', 'c'].map(async (name) => {
      const lane = session.lane(name);
      const history: object[] = [];
      let previous: string | null = null;
      for (let turn = 0; turn < 3; turn += 1) {
        const message = user(`${name}, turn ${turn}`);
        history.push(message);
        lane.create({ model: 'm', store: false, input: [message], previous_response_id: previous } as never);
        const response = await lane.finalResponse();
        expect(digestOf(response as never)).toBe(expectedDigest({ items: history as never }));
        history.push(...response.output);
        previous = response.id;
      }
    }),
  );
  session.close();
  ws.close();
});

it('The agents SDK runs an agent with a tool over its WebSocket transport', async () => {
  const asked: string[] = [];
  const weather = tool({
    name: 'weather',
    description: 'The weather of a city.',
    parameters: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      asked.push(city);
      return 'clear';
    },
  });
  const agent = new Agent({ name: 'Agent', instructions: 'Be brief.', model: 'm', tools: [weather] });
  await withResponsesWebSocketSession(
    async ({ run }) => {
      const first = await run(agent, 'How is it there? [call:weather {"city":"Reykjavik"}]');
      expect(first.finalOutput).toContain('digest=');
      const second = await run(agent, 'And here?', { previousResponseId: first.lastResponseId! });
      expect(second.finalOutput).toContain('digest=');
    },
    {
      providerOptions: { baseURL: `${at.url}/v1`, apiKey: 'sk-test', useResponses: true, useResponsesWebSocket: true },
      runnerConfig: { tracingDisabled: true },
    },
  );
  expect(asked).toEqual(['Reykjavik']);
  const text = await (await fetch(`${at.url}/metrics`)).text();
  expect(text).toMatch(/transport="websocket",terminal="completed"/);
  expect(text).not.toMatch(/transport="http"/);
});
