import type { ServerResponse } from 'node:http';
import type { WebSocket } from 'ws';
import { testBridge } from '../../src/testing/index.ts';
import { type Provider, startProvider } from '../upstream/servers.ts';

// biome-ignore lint/suspicious/noExplicitAny: bodies and log lines are read freely by the tests
type Fields = Record<string, any>;

/** One create that reached the upstream, over either transport. */
export interface ScriptedTurn {
  /** Index of the turn, from 0. */
  readonly n: number;
  readonly transport: 'websocket' | 'http';
  readonly body: Fields;
  /** Headers of the upgrade or of the request. */
  readonly headers: NodeJS.Dict<string | string[]>;
  /** Response id of the turn: `resp_` and the index. */
  readonly id: string;
  /** Sends text unchanged: as a frame, or as the data of one event. */
  raw(text: string): void;
  send(type: string, fields?: object): void;
  /** Ends the answer; only over HTTP. */
  end(): void;
  response(fields?: object): Record<string, unknown>;
}

export interface Scripted extends AsyncDisposable {
  readonly url: string;
  readonly turns: ScriptedTurn[];
  /** Log lines of the turns that have ended. */
  readonly lines: Fields[];
  readonly provider: Provider;
}

export const message = (text: string, id = `msg_${text}`) => ({
  id,
  type: 'message',
  role: 'assistant',
  status: 'completed',
  content: [{ type: 'output_text', text, annotations: [] }],
});
export const user = (text: string) => ({ role: 'user', content: [{ type: 'input_text', text }] });

/** Sends the events of a turn as providers usually do. */
export function usual(turn: ScriptedTurn, text = 'ok'): void {
  turn.send('response.created', { response: turn.response() });
  turn.send('response.output_item.done', { output_index: 0, item: message(text) });
  turn.send('response.completed', { response: turn.response({ status: 'completed', output: [message(text)] }) });
  turn.end();
}

/**
 * Starts a bridge in front of an upstream whose every frame the test writes.
 *
 * @param options.handshake lines of the 101 answer
 * @param options.answerHead headers of each HTTP answer
 */
export async function scripted(options: {
  turn(turn: ScriptedTurn, socket: WebSocket | null): void;
  env?: Record<string, string>;
  handshake?: string[];
  answerHead?: Record<string, string>;
}): Promise<Scripted> {
  const turns: ScriptedTurn[] = [];
  const lines: Fields[] = [];
  const take = (
    transport: ScriptedTurn['transport'],
    { type: _type, ...body }: Fields,
    headers: ScriptedTurn['headers'],
    write: (text: string) => void,
    end: () => void,
  ) => {
    const n = turns.length;
    const id = `resp_${n}`;
    const turn: ScriptedTurn = {
      n,
      transport,
      body,
      headers,
      id,
      raw: write,
      send: (name, fields) => write(JSON.stringify({ type: name, ...fields })),
      end,
      response: (fields) => ({ id, object: 'response', model: 'm', status: 'in_progress', output: [], ...fields }),
    };
    turns.push(turn);
    return turn;
  };
  const overHttp = (response: ServerResponse) => (text: string) => {
    if (!response.headersSent) response.writeHead(200, { 'content-type': 'text/event-stream', ...options.answerHead });
    response.write(
      `${text
        .split('\n')
        .map((line) => `data: ${line}`)
        .join('\n')}\n\n`,
    );
  };
  const provider = await startProvider({
    ...(options.handshake ? { handshake: options.handshake } : {}),
    async http(request, response) {
      let text = '';
      for await (const chunk of request) text += chunk;
      const turn = take('http', JSON.parse(text), request.headers, overHttp(response), () => response.end());
      options.turn(turn, null);
    },
    websocket(socket, request) {
      socket.on('message', (data) => {
        const write = (text: string) => socket.send(text);
        options.turn(
          take('websocket', JSON.parse(String(data)), request.headers, write, () => {}),
          socket,
        );
      });
    },
  });
  const logger = { level: 'info', info: (line: Fields, text: string) => void (text === 'turn' && lines.push(line)) };
  const silent = { warn() {}, error() {}, debug() {}, trace() {}, fatal() {}, child: () => ({ ...logger, ...silent }) };
  const at = await testBridge({
    env: { HOLDFAST_UPSTREAM_URL: provider.url, ...options.env },
    logger: { ...logger, ...silent } as never,
  });
  return {
    get url() {
      return at.url;
    },
    turns,
    lines,
    provider,
    async [Symbol.asyncDispose]() {
      await at.close();
      await provider.close();
    },
  };
}
