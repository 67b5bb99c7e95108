import { pino } from 'pino';
import { afterEach } from 'vitest';
import { bounds } from '../../../src/intake/read.ts';
import { type Asked, startBridge, user } from '../../field/support.ts';
import type { TestBridgeOptions } from '../../support/bridge.ts';
import { type Answer, post } from '../../support/client.ts';
import { until } from '../../support/until.ts';
import { type Provider, startProvider } from '../../upstream/servers.ts';

const providers: Provider[] = [];
afterEach(async () => {
  for (const provider of providers.splice(0)) await provider.close();
});

/** A line of the bridge's log. */
export interface LogLine {
  level: number;
  msg: string;
  [field: string]: unknown;
}

/** Creates a logger whose lines the test can read. */
export function recordingLogger(): { logger: NonNullable<TestBridgeOptions['logger']>; lines: LogLine[] } {
  const lines: LogLine[] = [];
  const logger = pino({ level: 'debug' }, { write: (text: string) => void lines.push(JSON.parse(text)) });
  return { logger, lines };
}

export interface Hostile {
  ask(body: object, headers?: Record<string, string>): Promise<Answer>;
  /** Returns the log lines at level `error`. */
  errors(): LogLine[];
  readonly lines: LogLine[];
  /** Resolves when no session is busy. */
  atRest(): Promise<void>;
  readonly at: Awaited<ReturnType<typeof startBridge>>;
}

/** Starts a provider that answers with the texts of the test over one transport, and a bridge in front of it. */
export async function startHostile(
  transport: 'websocket' | 'http',
  frames: (asked: Pick<Asked, 'n' | 'body'>) => readonly string[],
  options: TestBridgeOptions = {},
): Promise<Hostile> {
  const { logger, lines } = recordingLogger();
  let n = 0;
  const provider: Provider = await startProvider({
    websocket(socket) {
      socket.on('message', (data) => {
        n += 1;
        for (const text of frames({ n, body: JSON.parse(String(data)) })) socket.send(text);
      });
    },
    async http(request, response) {
      let text = '';
      for await (const chunk of request.setEncoding('utf8')) text += chunk;
      n += 1;
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (const frame of frames({ n, body: JSON.parse(text) })) response.write(`data: ${frame}\n\n`);
      response.end();
    },
  });
  const at = await startBridge({
    logger,
    ...options,
    env: { HOLDFAST_UPSTREAM_URL: provider.url, HOLDFAST_UPSTREAM_TRANSPORT: transport, ...options.env },
  });
  providers.push(provider);
  return {
    at,
    lines,
    ask: (body, headers = {}) => post(at.url, body, headers),
    errors: () => lines.filter(({ level }) => level >= 50),
    atRest: () => until(() => at.bridge.sessions().every(({ state }) => ['live.idle', 'stale'].includes(state))),
  };
}

export const nested = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`;

const message = (text: string) =>
  `{"type":"message","id":"msg_x","role":"assistant","status":"completed","content":[{"type":"output_text","text":"${text}","annotations":[]}]}`;

/** Output items that no provider should send, with their names for the test. */
export const hostileItems: readonly [string, string][] = [
  ['null', 'null'],
  ['a number', '17'],
  ['a string', '"text"'],
  ['true', 'true'],
  ['an array', '[{"type":"message"}]'],
  ['an empty object', '{}'],
  ['the type constructor', '{"type":"constructor"}'],
  ['the type __proto__', '{"type":"__proto__","id":"x"}'],
  ['a member __proto__', '{"type":"message","role":"assistant","__proto__":{"type":"reasoning"},"content":null}'],
  ['a type that is null', '{"type":null,"role":null,"id":null}'],
  ['a type that is an object', '{"type":{"toString":1},"role":{"toString":1},"content":[{"type":{"toString":1}}]}'],
  ['content of a strange type', '{"type":"message","role":"assistant","content":{"length":3}}'],
  ['content of nulls', '{"type":"message","role":"assistant","content":[null,1,"x",[]]}'],
  ['nesting of 9,000 levels', `{"type":"message","role":"assistant","content":${nested(9_000)}}`],
  ['an array nested 9,000 deep', nested(9_000)],
  ['NUL in strings and names', '{"type":"function_call","call_id":"\\u0000","name":"a\\u0000b","\\u0000":"\\u0000"}'],
  [
    'lone surrogates',
    '{"type":"message","id":"\\ud800","role":"assistant","content":[{"type":"output_text","text":"\\udc00"}]}',
  ],
  ['a huge id', `{"type":"message","id":"${'x'.repeat(1_000_000)}","role":"assistant","content":[]}`],
  ['numbers beyond doubles', '{"type":"function_call","call_id":"c","name":"f","arguments":"{}","n":1e999,"m":-0}'],
  ['reasoning without substance', '{"type":"reasoning","summary":7,"encrypted_content":{"a":1}}'],
];

/** Returns the frames of a turn with this item at the given place. */
export function framesWith(n: number, item: string, where: 'streamed' | 'listed' | 'both', more = ''): string[] {
  const id = `resp_${n}_${Math.random().toString(36).slice(2)}`;
  const last = message(`answer ${n}`);
  const done = (index: number, json: string) =>
    `{"type":"response.output_item.done","output_index":${index},"item":${json}}`;
  const listed = where === 'streamed' ? `[${last}]` : `[${item},${last}]`;
  return [
    `{"type":"response.created","response":{"id":"${id}","status":"in_progress","output":[]}}`,
    ...(where === 'listed' ? [] : [done(0, item)]),
    done(1, last),
    `{"type":"response.completed","response":{"id":"${id}","object":"response","status":"completed","output":${listed},"usage":null${more}}}`,
  ];
}

export const first = (thread: string, more: object = {}) => ({
  model: 'm',
  store: false,
  input: [user(`hello ${thread}`)],
  ...more,
});

/**
 * Returns the part of an answer that a client can send back: items that are objects, with ids that a request may hold.
 */
export const sentBack = (items: readonly unknown[]): object[] =>
  items.filter((item): item is object => {
    if (typeof item !== 'object' || item === null || Array.isArray(item)) return false;
    return !('id' in item) || typeof item.id !== 'string' || item.id.length <= bounds.id;
  });
