import { afterEach } from 'vitest';
import type { WebSocket } from 'ws';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { type Answer, post, terminalsOf } from '../support/client.ts';
import { type Provider, startProvider } from '../upstream/servers.ts';

export type Item = Record<string, unknown>;

export const user = (text: string): Item => ({
  type: 'message',
  role: 'user',
  content: [{ type: 'input_text', text }],
});
export const message = (id: string, text: string): Item => ({
  type: 'message',
  id,
  role: 'assistant',
  status: 'completed',
  content: [{ type: 'output_text', text, annotations: [] }],
});
export const bodyOf = (input: readonly Item[], more: object = {}) => ({
  model: 'm',
  stream: true,
  store: false,
  input,
  ...more,
});
export const endsOf = (answer: Answer) => terminalsOf(answer).map(({ type }) => type);
/** Returns the error of an answer, from its stream or its JSON body. */
export const errorOf = (answer: Answer) => answer.body.error ?? null;

const closing: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const close of closing.splice(0).reverse()) await close();
});

/** Starts a bridge that is closed after the test. */
export async function startBridge(options: TestBridgeOptions = {}): Promise<TestBridge> {
  const at = await startTestBridge(options);
  closing.push(() => at.close());
  return at;
}

/** One request that reached the provider, over either transport. */
export interface Asked {
  /** Number of the request, from 1. */
  n: number;
  body: Record<string, unknown> & { input: Item[]; previous_response_id?: string };
  authorization: string | undefined;
  /** Null over HTTP. */
  socket: WebSocket | null;
  /** Sends a frame, or one event; text is sent unchanged. */
  send(frame: object | string): void;
  /** Sends response.created, these items (default: one message), and response.completed. */
  answer(...output: Item[]): void;
  /** Ends an HTTP answer. */
  end(): void;
}

/** Starts a provider whose answers the test writes, and a bridge in front of it. */
export async function startBoth(
  turn: (asked: Asked) => void,
  env: Record<string, string> = {},
  means: Pick<TestBridgeOptions, 'clock'> = {},
) {
  const asked: Asked[] = [];
  const take = (body: Asked['body'], means: Pick<Asked, 'authorization' | 'socket' | 'send' | 'end'>) => {
    const n = asked.length + 1;
    const given: Asked = {
      n,
      body,
      ...means,
      answer(...output) {
        const id = `resp_${n}`;
        const items = output.length > 0 ? output : [message(`msg_${n}`, `answer ${n}`)];
        means.send({ type: 'response.created', response: { id, status: 'in_progress', output: [] } });
        items.forEach((item, output_index) => {
          means.send({ type: 'response.output_item.done', output_index, item });
        });
        means.send({ type: 'response.completed', response: { id, status: 'completed', output: items, usage: null } });
        means.end();
      },
    };
    asked.push(given);
    turn(given);
  };
  const provider: Provider = await startProvider({
    websocket(socket, { headers: { authorization } }) {
      const send = (frame: object | string) => socket.send(typeof frame === 'string' ? frame : JSON.stringify(frame));
      socket.on('message', (data) => take(JSON.parse(String(data)), { authorization, socket, send, end: () => {} }));
    },
    async http(request, response) {
      let text = '';
      for await (const chunk of request.setEncoding('utf8')) text += chunk;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      take(JSON.parse(text), {
        authorization: request.headers.authorization,
        socket: null,
        send: (frame) => response.write(`data: ${typeof frame === 'string' ? frame : JSON.stringify(frame)}\n\n`),
        end: () => void response.end(),
      });
    },
  });
  closing.push(() => provider.close());
  const at = await startBridge({ ...means, env: { HOLDFAST_UPSTREAM_URL: provider.url, ...env } });
  return {
    at,
    asked,
    provider,
    ask: (body: object, headers: Record<string, string> = {}) => post(at.url, body, headers),
  };
}
