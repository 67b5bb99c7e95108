import OpenAI from 'openai';
import type { ResponseInputItem, ResponseOutputItem, Tool } from 'openai/resources/responses/responses';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { user } from '../support/messages.ts';
import type { Client, Conversation, Mode, Opening } from './client.ts';
import { versionsOf } from './install.ts';

const tools: Tool[] = [
  {
    type: 'function',
    name: 'weather',
    description: 'Returns the weather of a city.',
    strict: true,
    parameters: {
      type: 'object',
      properties: { city: { type: 'string' } },
      required: ['city'],
      additionalProperties: false,
    },
  },
];

interface Answer {
  id: string;
  output: ResponseOutputItem[];
  output_text?: string;
}

type Send = (input: ResponseInputItem[], previous: string | null) => Promise<Answer>;

/** Runs the tools of a turn, and sends either the whole history or only new items after the last answer. */
function conversation(send: Send, anchored: boolean, close = () => {}): Conversation {
  let history: ResponseInputItem[] = [];
  let last: string | null = null;
  return {
    async ask(text) {
      let added: ResponseInputItem[] = [user(text) as ResponseInputItem];
      let whole = [...history, ...added];
      let previous = last;
      for (;;) {
        const answer = await send(anchored ? added : whole, anchored ? previous : null);
        previous = answer.id;
        added = answer.output
          .filter((item) => item.type === 'function_call')
          .map(({ call_id }) => ({ type: 'function_call_output', call_id, output: 'clear' }));
        whole = [...whole, ...(answer.output as ResponseInputItem[]), ...added];
        if (added.length > 0) continue;
        history = whole;
        last = previous;
        return JSON.stringify(answer.output);
      }
    },
    close,
  };
}

const clientOf = ({ baseURL, apiKey }: Opening) => new OpenAI({ baseURL, apiKey });

const overHttp = (streams: boolean, anchored: boolean): Mode => ({
  transport: 'HTTP',
  name: `${streams ? 'a stream' : 'one answer'}, ${anchored ? 'previous_response_id' : 'the whole history'}`,
  streams,
  async open(at) {
    const client = clientOf(at);
    return conversation((input, previous_response_id) => {
      const body = { model: 'gpt-5.5', input, tools, previous_response_id };
      return streams ? client.responses.stream(body).finalResponse() : client.responses.create(body);
    }, anchored);
  },
});

const overWebSocket: Mode = {
  transport: 'WebSocket',
  name: 'ResponsesWS with reconnect',
  streams: true,
  async open(at) {
    const client = clientOf(at);
    let ws: ResponsesWS | null = null;
    /** Sends one request on the connection, which is opened when there is none. */
    const send: Send = (input, previous_response_id) =>
      new Promise<Answer>((resolve, reject) => {
        ws ??= new ResponsesWS(client);
        const own = ws;
        const over = (error: unknown) => {
          ws = null;
          own.close();
          reject(error as Error);
        };
        own.once('error', over);
        own.socket.once('close', (code: number) => over(new Error(`the connection was closed with ${code}`)));
        own.once('response.failed', ({ response }) => over(new Error(JSON.stringify(response.error))));
        own.once('response.completed', ({ response }) => {
          own.off('error', over);
          resolve(response);
        });
        own.send({
          type: 'response.create',
          model: 'gpt-5.5',
          store: false,
          include: ['reasoning.encrypted_content'],
          input,
          tools,
          previous_response_id,
        } as never);
      });
    return conversation(send, true, () => ws?.close());
  },
};

/** The openai package for JavaScript. */
export const openai: Client = {
  name: 'OpenAI SDK (TypeScript)',
  page: 'openai-typescript',
  install: () => versionsOf('openai'),
  modes: [overHttp(true, false), overHttp(false, false), overHttp(true, true), overWebSocket],
};
