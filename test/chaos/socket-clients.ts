import { setTimeout as pause } from 'node:timers/promises';
import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { request } from 'undici';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { chance } from '../../src/testing/simulator/seeded.ts';
import { parseStream, type ResponseObject } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { connectSocket, type SocketClient, type SocketEvent } from '../support/websocket.ts';

/**
 * Clients on WebSockets that behave as the real ones do: they repeat only what those repeat by themselves, as often and after
 * the same pauses. What such a client would show to its user as an error is a failed turn.
 */

/** Results of many clients. */
export interface SocketTally {
  /** Completed responses. */
  turns: number;
  /** Completed responses whose context was not what the client meant. */
  wrong: number;
  /** Turns that ended with an error for the user; one sentence each. */
  failed: string[];
  /** Repetitions that the clients made by themselves, by cause. */
  repeats: Record<string, number>;
  /** Connections after the first one of each client. */
  reconnects: number;
  /** Requests that crossed the close of an idle connection. */
  crossed: number;
  /** Clients that went over to HTTP. */
  fellBack: number;
  /** Milliseconds from each request to its completed answer, all repetitions included. */
  totals: number[];
}

export const emptySocketTally = (): SocketTally => ({
  ...{ turns: 0, wrong: 0, failed: [], repeats: {}, reconnects: 0, crossed: 0, fellBack: 0, totals: [] },
});

export interface ChattyClient {
  /** Opens the connection. */
  connect(): Promise<void>;
  /** Runs one turn of the user, with the calls of tools that the model asks for. */
  turn(): Promise<void>;
  close(): void;
}

interface ClientOptions {
  seed: number;
  id: number;
  /** Base URL of the balancer. */
  url: string;
  tally: SocketTally;
}

/** Code with which the bridge closes a connection that is idle. */
const GOING_AWAY = 1001;
/** Attempts of Codex over one transport. */
const ATTEMPTS = 6;
/** Failed responses that Codex does not repeat. */
const FINAL = new Set([
  ...['server_is_overloaded', 'context_length_exceeded', 'insufficient_quota', 'usage_not_included', 'invalid_prompt'],
]);

/** How one attempt ended. `final`: the client shows it to its user. */
type Attempt =
  | { kind: 'completed'; response: ResponseObject; done: object[] }
  | { kind: 'again'; why: string; waitMs?: number }
  | { kind: 'final'; why: string };

/**
 * Creates a client: a Codex, or a program on the OpenAI SDK, half of each.
 */
export function createSocketClient(options: ClientOptions): ChattyClient {
  return chance(options.seed, 'kind', options.id) < 0.5 ? new Codex(options) : new SdkProgram(options);
}

/** A conversation, as its client knows it. */
abstract class Conversation implements ChattyClient {
  protected readonly options: ClientOptions;
  protected readonly history: object[] = [];
  #turns = 0;

  constructor(options: ClientOptions) {
    this.options = options;
  }

  abstract connect(): Promise<void>;
  abstract close(): void;
  /** Asks for an answer to the whole history. Returns the items of the answer, or why it failed. */
  protected abstract ask(): Promise<ResponseObject | string>;

  async turn(): Promise<void> {
    const { seed, id, tally } = this.options;
    const calls = chance(seed, 'calls', id, this.#turns) < 0.4 ? ' [call:look {}]' : '';
    this.history.push(user(`conversation ${id} turn ${this.#turns++}${calls}`));
    for (;;) {
      const startedAt = performance.now();
      const answer = await this.ask();
      if (typeof answer === 'string') {
        tally.failed.push(`${this.constructor.name} ${id}: ${answer}`);
        return;
      }
      tally.turns += 1;
      tally.totals.push(performance.now() - startedAt);
      const called = answer.output.filter((item) => item.type === 'function_call');
      if (called.length === 0) return;
      for (const { call_id } of called) this.history.push({ type: 'function_call_output', call_id, output: 'seen' });
    }
  }

  /** Records an answer to the items of the history before it. */
  protected answered(response: ResponseObject, items: readonly object[]): void {
    if (digestOf(response as never) !== expectedDigest({ items: this.history as never })) this.options.tally.wrong += 1;
    this.history.push(...items);
  }

  protected repeated(why: string): void {
    const { repeats } = this.options.tally;
    repeats[why] = (repeats[why] ?? 0) + 1;
  }
}

/** The last response on a connection, and the number of items that it stands for. */
interface Anchor {
  id: string;
  covers: number;
}

/** A request of an SDK program that waits for its answer. */
interface Pending {
  send(): void;
  end(result: ResponseObject | string): void;
  events: number;
  /** The request was on a connection that is closed. */
  lost: boolean;
}

/** Codex: increments on its connection, everything after a new one; six attempts, then six over HTTP. */
class Codex extends Conversation {
  #socket: SocketClient | null = null;
  #connected = 0;
  #onHttp = false;
  #anchor: Anchor | null = null;

  get #thread(): string {
    return `rolling-${this.options.seed}-${this.options.id}`;
  }

  async connect(): Promise<void> {
    this.#anchor = null;
    this.#socket = await connectSocket(this.options.url, {
      'thread-id': this.#thread,
      'session-id': this.#thread,
      'openai-beta': 'responses_websockets=2026-02-06',
    });
    if (this.#connected++ > 0) this.options.tally.reconnects += 1;
  }

  close(): void {
    this.#drop();
  }

  #drop(): void {
    this.#socket?.ws.terminate();
    this.#socket = null;
  }

  protected async ask(): Promise<ResponseObject | string> {
    let why = '';
    for (const transport of this.#onHttp ? (['http'] as const) : (['websocket', 'http'] as const)) {
      let waitMs: number | undefined;
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        if (attempt > 0) await pause(waitMs ?? 200 * 2 ** (attempt - 1));
        const made = await (transport === 'http' ? this.#post() : this.#create());
        if (made.kind === 'completed') {
          this.answered(made.response, made.done);
          if (transport === 'websocket') this.#anchor = { id: made.response.id, covers: this.history.length };
          return made.response;
        }
        if (transport === 'websocket') this.#drop();
        why = `${transport}: ${made.why}`;
        if (made.kind === 'final') return why;
        this.repeated(why);
        waitMs = made.waitMs;
      }
      if (!this.#onHttp) this.options.tally.fellBack += 1;
      this.#onHttp = true;
    }
    return `repeated for too long, last: ${why}`;
  }

  #body(anchor: Anchor | null): object {
    return {
      ...{ model: 'm', stream: true, store: false, include: ['reasoning.encrypted_content'] },
      input: anchor ? this.history.slice(anchor.covers) : this.history,
      ...(anchor ? { previous_response_id: anchor.id } : {}),
      client_metadata: { thread_id: this.#thread, session_id: this.#thread },
    };
  }

  async #create(): Promise<Attempt> {
    if (this.#socket?.ws.readyState !== this.#socket?.ws.OPEN) this.#socket = null;
    try {
      if (!this.#socket) await this.connect();
    } catch (error) {
      const status = /^refused (\d+)/.exec((error as Error).message)?.[1];
      const why = `upgrade ${status ?? (error as NodeJS.ErrnoException).code ?? (error as Error).message}`;
      return { kind: status === '429' ? 'final' : 'again', why };
    }
    const socket = this.#socket!;
    socket.send({ type: 'response.create', ...this.#body(this.#anchor) });
    const done: object[] = [];
    let events = 0;
    for (;;) {
      socket.events.length = 0;
      const event = await socket.next().catch(() => null);
      if (event === null) {
        const { code } = await socket.closed;
        if (events === 0 && code === GOING_AWAY) this.options.tally.crossed += 1;
        // What was finished before the connection broke stays in the history of this client.
        this.history.push(...done);
        return { kind: 'again', why: `closed ${code} after ${events === 0 ? 'no' : 'some'} events` };
      }
      events += 1;
      const end = judge(event, done);
      if (end === null) continue;
      if (end.kind !== 'completed') this.history.push(...done);
      return end;
    }
  }

  async #post(): Promise<Attempt> {
    const headers = { 'content-type': 'application/json', authorization: 'Bearer sk-test', 'thread-id': this.#thread };
    for (let attempt = 0; ; attempt += 1) {
      let why: string;
      let after: unknown = null;
      try {
        const answer = await request(`${this.options.url}/v1/responses`, {
          ...{ method: 'POST', headers, body: JSON.stringify(this.#body(null)), headersTimeout: 0, bodyTimeout: 0 },
        });
        const text = await answer.body.text();
        after = answer.headers['retry-after'];
        if (answer.statusCode === 200) {
          const done: object[] = [];
          for (const { data } of parseStream(text.slice(0, text.lastIndexOf('\n\n') + 2))) {
            const end = judge(data as unknown as SocketEvent, done);
            if (end) return end;
          }
          return { kind: 'again', why: 'stream closed before its end' };
        }
        why = `${answer.statusCode} ${/"bridge_code":"(\w+)"/.exec(text)?.[1] ?? ''}`;
        if (answer.statusCode === 400 || (answer.statusCode === 429 && after === undefined))
          return { kind: 'final', why };
        if (answer.statusCode < 500) return { kind: 'again', why };
      } catch (error) {
        why = (error as NodeJS.ErrnoException).code ?? (error as Error).message;
      }
      // The request itself is repeated four times before it counts as one failed stream.
      if (attempt === 4) return { kind: 'again', why };
      await pause(after ? 1_000 * Number(after) : 200 * 2 ** attempt);
    }
  }
}

/** Returns how an event ends a turn for Codex; null while it goes on. Collects the finished items. */
function judge(event: SocketEvent, done: object[]): Attempt | null {
  const { type, response, error, status } = event;
  if (type === 'response.output_item.done') done.push((event as unknown as { item: object }).item);
  if (type === 'response.completed') return { kind: 'completed', response: response!, done };
  if (type === 'response.incomplete') return { kind: 'final', why: 'incomplete' };
  if (type === 'error') {
    const why = `error ${status} ${error?.bridge_code ?? error?.code}`;
    const stops = status === 429 || status === 503;
    const repeated = [401, 403, 404, 409, 410, 500, 502].includes(status ?? 0);
    const anew = error?.code === 'previous_response_not_found' || error?.code === 'websocket_connection_limit_reached';
    return stops || !(anew || repeated) ? { kind: 'final', why } : { kind: 'again', why };
  }
  if (type !== 'response.failed') return null;
  const { code = '', message = '', bridge_code } = (response?.error ?? {}) as NonNullable<SocketEvent['error']>;
  const why = `failed ${bridge_code ?? code}`;
  if (FINAL.has(code)) return { kind: 'final', why };
  const seconds = code === 'rate_limit_exceeded' ? /try again in ([\d.]+)s/.exec(message)?.[1] : undefined;
  return seconds ? { kind: 'again', why, waitMs: 1_000 * Number(seconds) } : { kind: 'again', why };
}

/**
 * A program on the SDK's `ResponsesWS` with `reconnect`. The SDK connects again and sends what it has queued; the program sends a
 * request again that was lost with its connection, and everything where its anchor is not known. It shows all other errors.
 */
class SdkProgram extends Conversation {
  #ws: ResponsesWS | null = null;
  #previous: Anchor | null = null;
  #pending: Pending | null = null;

  async connect(): Promise<void> {
    const { url, tally } = this.options;
    const api = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'sk-test' });
    const ws = new ResponsesWS(api, {
      reconnect: {
        onReconnecting: ({ closeCode }) => {
          const pending = this.#pending;
          if (!pending || pending.lost) return;
          if (pending.events === 0 && closeCode === GOING_AWAY) tally.crossed += 1;
          this.repeated(`sdk: closed ${closeCode} after ${pending.events === 0 ? 'no' : 'some'} events`);
          pending.lost = true;
        },
      },
    });
    this.#ws = ws;
    ws.on('event', (event) => this.#event(event as unknown as SocketEvent));
    ws.on('error', (error) => this.#error(error as unknown as { message: string; error?: SocketEvent }));
    ws.on('reconnected', () => {
      tally.reconnects += 1;
      if (this.#pending?.lost) this.#pending.send();
    });
    ws.on('close', (code) => {
      this.#ws = null;
      this.#pending?.end(`sdk: closed for good with ${code}`);
    });
    if (ws.socket.readyState !== 1) await new Promise<void>((open) => ws.socket.once('open', () => open()));
  }

  close(): void {
    this.#ws?.close();
  }

  protected async ask(): Promise<ResponseObject | string> {
    if (!this.#ws) await this.connect();
    let whole = this.#previous === null;
    return new Promise((end) => {
      const pending: Pending = {
        events: 0,
        lost: false,
        send: () => {
          pending.events = 0;
          pending.lost = false;
          const from = whole ? 0 : this.#previous!.covers;
          const anchor = whole ? {} : { previous_response_id: this.#previous!.id };
          const create = { model: 'm', store: false, input: this.history.slice(from), ...anchor };
          this.#ws?.send({ type: 'response.create', ...create } as never);
        },
        end: (result) => {
          this.#pending = null;
          end(result);
        },
      };
      this.#pending = pending;
      this.#unknown = () => {
        if (whole) return false;
        whole = true;
        pending.send();
        return true;
      };
      pending.send();
    });
  }

  /** Sends everything, because the earlier response is not known. Returns false if everything was sent already. */
  #unknown: () => boolean = () => false;

  #event(event: SocketEvent): void {
    const pending = this.#pending;
    if (!pending) return;
    pending.events += 1;
    if (event.type === 'response.completed') {
      const response = event.response!;
      this.answered(response, response.output);
      this.#previous = { id: response.id, covers: this.history.length };
      return pending.end(response);
    }
    if (event.type !== 'response.failed' && event.type !== 'response.incomplete') return;
    const { code } = (event.response?.error ?? {}) as { code?: string };
    if (code === 'previous_response_not_found' && this.#unknown()) return this.repeated(`sdk: ${code}`);
    pending.end(`sdk: ${event.type} ${code ?? ''}`);
  }

  #error({ message, error: event }: { message: string; error?: SocketEvent }): void {
    const pending = this.#pending;
    if (!pending) return;
    if (!event) {
      // An error of the connection: the SDK opens another one. What it did not take is sent there.
      if (message.includes('closed WebSocket')) pending.lost = true;
      return;
    }
    const { code, bridge_code } = event.error ?? {};
    if (code === 'previous_response_not_found' && this.#unknown()) return this.repeated(`sdk: ${code}`);
    pending.end(`sdk: error ${event.status} ${bridge_code ?? code}`);
  }
}
