import { setTimeout as pause } from 'node:timers/promises';
import { request } from 'undici';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { chance } from '../../src/testing/simulator/seeded.ts';
import { parseStream, type StreamEvent } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { connectSocket, type SocketClient } from '../support/websocket.ts';

/** Results of many conversations. */
export interface Tally {
  turns: number;
  requests: number;
  /** Completed answers whose context was not what the client meant. */
  wrong: number;
  /** Complete answers with no terminal, or more than one. */
  badTerminals: number;
  /** Answers whose connection broke. */
  cut: number;
  /** Requests on WebSockets that crossed the close of an idle connection, and were sent again on another one. */
  crossed: number;
  /** Answers other than 200, by status and bridge code. */
  refused: Record<string, number>;
  outcomes: Record<string, number>;
  /** Every answer other than 200, with the request's id. */
  failures: string[];
  /** Milliseconds from the first attempt of a turn to its completed answer, for turns that needed more than one. */
  recoveries: number[];
  /** Milliseconds to the first event, for turns that needed one attempt. */
  firstEvents: number[];
  /** Milliseconds from the first attempt of a turn to the end of its answer, for all turns. */
  totals: number[];
  /** Turns that never completed. */
  lost: string[];
}

export const emptyTally = (): Tally => ({
  turns: 0,
  requests: 0,
  wrong: 0,
  badTerminals: 0,
  cut: 0,
  crossed: 0,
  refused: {},
  outcomes: {},
  failures: [],
  recoveries: [],
  firstEvents: [],
  totals: [],
  lost: [],
});

export interface TalkerOptions {
  seed: number;
  id: number;
  /** Returns the base URL for the next request. */
  pick(): string;
  tally: Tally;
  /** Milliseconds after which a turn that still fails is lost. */
  patienceMs: number;
  /** Keeps a WebSocket, and connects again when it is closed. Default: one HTTP request for each attempt. */
  webSocket?: boolean;
  /** Called with the id of each response that was delivered to the client as completed. */
  onCompleted?: (responseId: string) => void;
}

export interface Talker {
  /** Runs one user turn, and repeats it like a well-behaved client until it completes. */
  turn(): Promise<void>;
  readonly turns: number;
}

const terminals = new Set(['response.completed', 'response.incomplete', 'response.failed', 'error']);
/** Code with which the bridge closes a connection that is idle. */
const GOING_AWAY = 1001;

/** One attempt of a turn and its answer. */
interface Attempt {
  status: number;
  headers: Readonly<Record<string, unknown>>;
  /** Error of an answer other than 200. */
  error: { code?: string; bridge_code?: string } | null;
  events: StreamEvent[];
  cut: boolean;
  /** The connection was closed while it was idle, as the client has to expect: the request was not taken. */
  crossed: boolean;
  /** Milliseconds to the first event. */
  firstEvent: number | null;
}

/** Creates a conversation. Half of them resend everything, half anchor to the last response; all send a key. */
export function createTalker(options: TalkerOptions): Talker {
  const { seed, id, pick, tally, patienceMs, onCompleted } = options;
  const anchors = chance(seed, 'anchors', id) < 0.5;
  const store = chance(seed, 'store', id) < 0.3;
  const history: object[] = [];
  let anchor: string | null = null;
  let turns = 0;

  const thread = { 'thread-id': `chaos-${seed}-${id}` };
  let socket: SocketClient | null = null;

  const bodyOf = (next: object, anchored: boolean) => ({
    model: 'm',
    store,
    input: anchored ? [next] : [...history, next],
    ...(anchored ? { previous_response_id: anchor } : {}),
  });

  async function post(body: object): Promise<Attempt> {
    const startedAt = performance.now();
    let firstEvent: number | null = null;
    let text = '';
    let cut = false;
    const answer = await request(`${pick()}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: 'Bearer sk-chaos', ...thread },
      body: JSON.stringify({ ...body, stream: true }),
      headersTimeout: 60_000,
      bodyTimeout: 60_000,
    });
    try {
      for await (const chunk of answer.body.setEncoding('utf8')) {
        firstEvent ??= performance.now() - startedAt;
        text += chunk;
      }
    } catch {
      cut = true;
    }
    const status = answer.statusCode;
    const failed = status === 200 ? null : (JSON.parse(text || '{}') as { error?: Attempt['error'] });
    const events = failed ? [] : parseStream(text.slice(0, text.lastIndexOf('\n\n') + 2));
    return { status, headers: answer.headers, error: failed?.error ?? null, events, cut, crossed: false, firstEvent };
  }

  async function create(body: object): Promise<Attempt> {
    const startedAt = performance.now();
    if (socket?.ws.readyState !== socket?.ws.OPEN) socket = null;
    socket ??= await connectSocket(pick(), { ...thread, 'openai-beta': 'responses_websockets=2026-02-06' });
    const client = socket;
    const made: Attempt = {
      ...{ status: 200, headers: {}, error: null, events: [], cut: false, crossed: false, firstEvent: null },
    };
    client.send({ type: 'response.create', ...body });
    client.events.length = 0;
    try {
      for (;;) {
        const event = await client.next();
        made.firstEvent ??= performance.now() - startedAt;
        if (event.type === 'response.metadata') made.headers = event.headers ?? {};
        made.events.push({ type: event.type, data: event });
        if (event.type === 'error') {
          return { ...made, status: event.status ?? 500, error: event.error ?? null, headers: event.headers ?? {} };
        }
        if (terminals.has(event.type)) return made;
      }
    } catch {
      const { code } = await client.closed;
      return { ...made, cut: true, crossed: code === GOING_AWAY && made.events.length === 0 };
    }
  }

  async function turn(): Promise<void> {
    const next = user(`conversation ${id} turn ${turns}`);
    const startedAt = performance.now();
    let anchored = anchors && anchor !== null;
    let why = 'never answered';
    for (let attempts = 1; performance.now() - startedAt < patienceMs; attempts += 1) {
      tally.requests += 1;
      const answer = await (options.webSocket ? create : post)(bodyOf(next, anchored)).catch((error: Error) => error);
      if (answer instanceof Error) {
        why = answer.message;
        await pause(50);
        continue;
      }
      if (answer.crossed) {
        tally.requests -= 1;
        tally.crossed += 1;
        continue;
      }
      const { events, error } = answer;
      const outcome = String(answer.headers['x-holdfast-outcome'] ?? 'none');
      tally.outcomes[outcome] = (tally.outcomes[outcome] ?? 0) + 1;
      if (answer.status !== 200) {
        why = `${answer.status} ${error?.bridge_code ?? error?.code ?? ''}`;
        tally.refused[why] = (tally.refused[why] ?? 0) + 1;
        tally.failures.push(`${why}: request ${String(answer.headers['x-request-id'])}, ${outcome}`);
        if (error?.code === 'previous_response_not_found') anchored = false;
        else await pause(Math.min(1_000, 1_000 * Number(answer.headers['retry-after'] ?? 0.1)));
        continue;
      }
      const ends = events.filter(({ type }) => terminals.has(type));
      if (answer.cut) tally.cut += 1;
      else if (ends.length !== 1) tally.badTerminals += 1;
      const response = ends[0]?.data.response as
        | { id: string; output: object[]; error?: { code?: string } }
        | undefined;
      if (ends[0]?.type === 'response.completed' && response) {
        if (digestOf(response as never) !== expectedDigest({ items: [...history, next] as never })) tally.wrong += 1;
        history.push(next, ...response.output);
        anchor = response.id;
        onCompleted?.(response.id);
        turns += 1;
        tally.turns += 1;
        tally.totals.push(performance.now() - startedAt);
        if (attempts > 1) tally.recoveries.push(performance.now() - startedAt);
        else if (answer.firstEvent !== null) tally.firstEvents.push(answer.firstEvent);
        return;
      }
      why = `ended ${ends[0]?.type ?? 'cut'} ${response?.error?.code ?? ''}`;
      if (response?.error?.code === 'previous_response_not_found') anchored = false;
      await pause(50);
    }
    tally.lost.push(`conversation ${id} turn ${turns}: ${why}`);
  }

  return {
    turn,
    get turns() {
      return turns;
    },
  };
}
