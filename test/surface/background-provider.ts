import type { ServerResponse } from 'node:http';
import { type Provider, startProvider } from '../upstream/servers.ts';

type Event = Record<string, unknown> & { sequence_number: number };

/** A provider of responses in the background that releases its events when the test says so. */
export interface BackgroundProvider extends Omit<Provider, 'deserted'> {
  /** Number of events of a whole response. */
  readonly total: number;
  /** Number of streams that are open now. */
  readonly readers: number;
  /** Makes the first `count` events of every response available. */
  release(count: number): void;
  /** Breaks every open stream off, as a lost connection does. */
  cut(): void;
  /** The next streams that are resumed: `refuse` of them get 503, and the one after them begins `repeat` events too early. */
  misbehave(next: { repeat: number; refuse: number }): void;
  reset(): void;
  /** Resolves when no stream is open. */
  deserted(): Promise<void>;
}

/**
 * The sequence has the shape of a recorded one: created, queued, in progress, items and deltas, numbered from 0, and the terminal
 * event last. A stream with `starting_after` begins with the event after it.
 */
function eventsOf(id: string): Event[] {
  const response = {
    id,
    object: 'response',
    created_at: 1_771_881_670,
    model: 'gpt-4o',
    background: true,
    store: true,
  };
  const at = (status: string, more: object = {}) => ({
    response: { ...response, status, output: [], error: null, ...more },
  });
  const message = (status: string, content: object[]) => ({
    id: `msg_${id}`,
    type: 'message',
    role: 'assistant',
    status,
    content,
  });
  const said = { type: 'output_text', text: '2 + 2 equals 4.', annotations: [], logprobs: [] };
  const item = { output_index: 0 };
  const part = { ...item, content_index: 0, item_id: `msg_${id}` };
  const events: Record<string, unknown>[] = [
    { type: 'response.created', ...at('queued') },
    { type: 'response.queued', ...at('queued') },
    { type: 'response.in_progress', ...at('in_progress') },
    { type: 'response.output_item.added', ...item, item: message('in_progress', []) },
    { type: 'response.content_part.added', ...part, part: { ...said, text: '' } },
    ...['2', ' +', ' 2', ' equals', ' ', '4', '.'].map((delta) => ({
      type: 'response.output_text.delta',
      ...part,
      delta,
      logprobs: [],
      obfuscation: 'x1y2z3',
    })),
    { type: 'response.output_text.done', ...part, text: said.text, logprobs: [] },
    { type: 'response.content_part.done', ...part, part: said },
    { type: 'response.output_item.done', ...item, item: message('completed', [said]) },
    {
      type: 'response.completed',
      ...at('completed', {
        output: [message('completed', [said])],
        usage: { input_tokens: 1, output_tokens: 1, total_tokens: 2 },
      }),
    },
  ];
  return events.map((event, sequence_number) => ({ ...event, sequence_number }));
}

export async function startBackgroundProvider(): Promise<BackgroundProvider> {
  const total = eventsOf('x').length;
  const known = new Map<string, Event[]>();
  const open = new Map<ServerResponse, () => void>();
  const left: (() => void)[] = [];
  let released = 0;
  let made = 0;
  let next = { repeat: 0, refuse: 0 };

  function stream(res: ServerResponse, events: readonly Event[], from: number): void {
    let at = from;
    res.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8' });
    res.flushHeaders();
    const write = () => {
      for (; at < Math.min(released, events.length); at += 1) {
        res.write(`event: ${events[at]!.type}\ndata: ${JSON.stringify(events[at])}\n\n`);
      }
      if (at === events.length) res.end();
    };
    open.set(res, write);
    res.on('close', () => {
      open.delete(res);
      if (open.size === 0) for (const each of left.splice(0)) each();
    });
    write();
  }
  const answer = (res: ServerResponse, status: number, body: unknown) => {
    res.writeHead(status, { 'content-type': 'application/json' });
    res.end(JSON.stringify(body));
  };

  const provider = await startProvider({
    upgrade: (_req, socket) => void socket.end('HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n'),
    async http(req, res) {
      let text = '';
      for await (const chunk of req) text += chunk;
      const { pathname, searchParams } = new URL(req.url ?? '/', 'http://provider');
      const [, , , given, action] = pathname.split('/');
      if (req.method === 'POST' && given === undefined) {
        const body = JSON.parse(text) as { stream?: boolean; background?: boolean };
        const id = `resp_${String((made += 1)).padStart(48, '0')}`;
        const events = eventsOf(id);
        known.set(id, events);
        if (body.background !== true) {
          if (body.stream !== true) return answer(res, 200, events.at(-1)!.response);
          const all = released;
          released = total;
          stream(res, events, 0);
          released = all;
          return;
        }
        return body.stream === true ? stream(res, events, 0) : answer(res, 200, events[1]!.response);
      }
      const events = known.get(given ?? '');
      if (!events) {
        const message = `Response with id '${given}' not found.`;
        return answer(res, 404, { error: { message, type: 'invalid_request_error', param: null, code: null } });
      }
      if (action === 'cancel' || searchParams.get('stream') !== 'true') return answer(res, 200, events[2]!.response);
      if (next.refuse > 0) {
        next.refuse -= 1;
        return answer(res, 503, { error: { message: 'overloaded', type: 'server_error', param: null, code: null } });
      }
      const after = searchParams.get('starting_after');
      const from = after === null ? 0 : Number(after) + 1;
      const early = Math.max(0, from - next.repeat);
      next.repeat = 0;
      stream(res, events, early);
    },
  });
  return {
    ...provider,
    total,
    get readers() {
      return open.size;
    },
    release(count) {
      released = count;
      for (const write of [...open.values()]) write();
    },
    cut() {
      for (const res of [...open.keys()]) res.socket?.resetAndDestroy();
    },
    misbehave(given) {
      next = { ...given };
    },
    reset() {
      released = 0;
    },
    deserted: () =>
      open.size === 0
        ? Promise.resolve()
        : new Promise((resolve) => {
            left.push(resolve);
          }),
  };
}
