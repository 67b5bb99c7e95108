import { EventEmitter } from 'node:events';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { WebSocket, WebSocketServer } from 'ws';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { flatHeaders, IDEMPOTENCY_HEADER, THREAD_HEADER, TURN_METADATA_HEADER, TURN_STATE_HEADER } from '../headers.ts';
import type { Reader } from '../intake/pool.ts';
import { type MessageHead, messageHead } from '../intake/read.ts';
import type { Log } from '../log.ts';
import type { AnswerHead, Caller, ClientSink, TurnRequest } from '../session/port.ts';
import type { Lease, Quota } from '../session/quota.ts';
import { type Clock, guarded, type Ids, reportFault } from '../system.ts';
import type { ReadRequest } from '../transcript/types.ts';
import { createPulse } from '../upstream/websocket.ts';
import { type FailedCall, modelOf, shownPath, type TurnService } from './app.ts';
import { answerSocket, holdConnection } from './server.ts';
import { type Steer, Steering, type Successor } from './steering.ts';
import {
  type AnswerSocket,
  CODEX_PROTOCOL,
  createWebSocketSink,
  errorEventOf,
  type WebSocketSinkOptions,
} from './websocket-answers.ts';

type SinkListeners = Partial<Pick<WebSocketSinkOptions, 'onEvent' | 'onEnded' | 'onRefused'>>;

/** Limits of one connection, as the guide to WebSocket mode documents them. */
const MOST_IN_FLIGHT = 16;
const MOST_LANES = 32;
/** Messages of one connection that wait for their lane. With more, the connection is not read. */
const MOST_WAITING = 64;
/** Size from which a message counts as a body while it arrives, in bytes. */
const COUNTED_BYTES = 65_536;
/** Time for a message of that size to arrive, in milliseconds: that of a request over HTTP. */
const ARRIVAL_MS = 120_000;
/** Time for which a connection that has reached its age still accepts turns if it is never idle, in milliseconds. */
const EXTENSION_MS = 600_000;
/** Time for the client to answer a close frame, in milliseconds. */
const CLOSE_MS = 5_000;

/** Codes of closes: all but the last make clients connect again. */
const GOING_AWAY = 1001;
const TRY_AGAIN_LATER = 1013;
const TOO_BIG = 1009;

const REASONING_HEADER = 'x-reasoning-included';

/** Headers of an upgrade that do not concern each turn of its connection. */
const OF_THE_UPGRADE = [IDEMPOTENCY_HEADER, TURN_STATE_HEADER, 'x-stainless-retry-count'];

/** Members of `client_metadata` that Codex sends over HTTP as headers. */
const METADATA_HEADERS = [
  ['thread_id', THREAD_HEADER],
  ['session_id', 'session-id'],
  ['ws_request_header_traceparent', 'traceparent'],
  ['ws_request_header_tracestate', 'tracestate'],
  [TURN_METADATA_HEADER, TURN_METADATA_HEADER],
  [TURN_STATE_HEADER, TURN_STATE_HEADER],
] as const;
const HEADER_VALUE = /^[\t\x20-\x7e]{1,16384}$/;

/** WebSockets of clients on the paths of responses. */
export interface ClientSockets {
  /**
   * Handles the server's `upgrade` event for the paths of responses. Returns false, without touching the socket, for any
   * other path.
   *
   * @throws {BridgeError} when the client is refused
   */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  /** Number of open connections. */
  readonly open: number;
  /** Closes every connection at its next idle moment, spread over `withinMs` milliseconds. */
  leave(withinMs: number): void;
  /** Closes all connections; resolves when they are closed. */
  close(): Promise<void>;
}

interface ClientSocketsOptions {
  service: Pick<TurnService, 'turn' | 'shutdown'>;
  /** Asks the embedding application who sends a request. `authenticate` is called afterwards. */
  identify?: ((req: IncomingMessage) => Promise<void>) | undefined;
  /** Returns the caller of an upgrade. Throws when it is refused. */
  authenticate(req: IncomingMessage): Caller;
  /** Returns the caller with the upstream that the embedding application chooses. Absent: it chooses none. */
  chooseUpstream?: ((req: IncomingMessage, caller: Caller, model: string | null) => Promise<Caller>) | undefined;
  quota: Pick<Quota, 'admit' | 'refuse'>;
  config: Pick<Config, 'deadlines' | 'limits'>;
  reader: Reader;
  clock: Clock;
  ids: Ids;
  random(): number;
  /** Paths of the responses, in lower case. */
  paths: readonly string[];
  logger: Log<'error'>;
  /** Called after a request was answered with an error before it became a turn. */
  onFailed?: (request: FailedCall, error: BridgeError) => void;
}

/** What the connections share. */
interface Shared extends ClientSocketsOptions {
  /** What the provider says on its own connections, and a client has to know at its upgrade. */
  learned: { reasoningIncluded: string | null };
}

/** WebSocket of a client. Tells the client why its message ends the connection before the library closes it. */
class ClientWebSocket extends WebSocket {
  override close(code?: number, data?: string | Buffer): void {
    if (code === TOO_BIG && this.readyState === WebSocket.OPEN) {
      this.send(errorEventOf(new BridgeError('bridge_body_too_large'), '', null));
    }
    super.close(code, data);
  }
}

/** Creates the WebSocket side of the responses: each `response.create` becomes a turn, like a request over HTTP. */
export function createClientSockets(options: ClientSocketsOptions): ClientSockets {
  const { service, identify, authenticate, config, random } = options;
  const paths = new Set(options.paths);
  const connections = new Set<ClientConnection>();
  let leaving: number | null = null;
  let closed = false;
  const server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    maxPayload: config.limits.bodyBytes,
    // Compression costs 15 to 30 times the work for messages of this size.
    perMessageDeflate: false,
    // The library's types lack it.
    ...{ closeTimeout: CLOSE_MS },
    WebSocket: ClientWebSocket,
  });
  // Replace the library's own refusals, which have no error envelope.
  server.on('wsClientError', (error, socket, req) => {
    const code = req.method === 'GET' ? 'bridge_malformed_request' : 'bridge_method_not_allowed';
    answerSocket(socket, new BridgeError(code, { detail: `${error.message}.` }), ['sec-websocket-version: 13']);
  });
  // Codex reads this only from the upgrade; without it, it counts past reasoning again and compacts too early.
  const learned = { reasoningIncluded: null as string | null };
  server.on('headers', (lines) => {
    if (learned.reasoningIncluded !== null) lines.push(`${REASONING_HEADER}: ${learned.reasoningIncluded}`);
  });
  const spread = (ms: number) => ms * (0.5 + random() / 2);
  const accept = (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    const caller = authenticate(req);
    if (closed || service.shutdown.refusing) throw new BridgeError('bridge_draining');
    server.handleUpgrade(req, socket, head, (ws) =>
      guarded(
        'client connection',
        () => {
          const connection = new ClientConnection(ws, req, socket, caller, { ...options, learned });
          connections.add(connection);
          ws.once('close', () => connections.delete(connection));
          if (leaving !== null) connection.retire(spread(leaving));
        },
        () => ws.terminate(),
      )(),
    );
  };

  return {
    get open() {
      return connections.size;
    },
    handleUpgrade(req, socket, head) {
      if (!paths.has((req.url ?? '').split('?', 1)[0]!.replace(/\/$/, '').toLowerCase())) return false;
      if (!identify) accept(req, socket, head);
      else {
        identify(req)
          .then(() => accept(req, socket, head))
          .catch((error: unknown) => {
            if (!(error instanceof BridgeError)) reportFault(error, 'upgrade');
            const known = error instanceof BridgeError ? error : new BridgeError('bridge_internal', { cause: error });
            answerSocket(socket, known);
          });
      }
      return true;
    },
    leave(withinMs) {
      leaving = withinMs;
      for (const connection of connections) connection.retire(spread(withinMs));
    },
    async close() {
      closed = true;
      await Promise.all([...connections].map((connection) => connection.close()));
    },
  };
}

/** A message that has arrived. */
interface Arrived {
  /** Its text; null when it is refused. */
  data: Buffer | null;
  error: BridgeError | null;
  /** The admission under which its bytes are counted. */
  lease: Lease | null;
}

/** A `response.create`, or an error in its place, that waits for its lane. */
interface Waiting {
  readonly lane: string | null;
  readonly requestId: string;
  readonly lease: Lease | null;
  readonly request: ReadRequest | null;
  readonly caller: Caller;
  readonly error: BridgeError | null;
  /** Event that is sent at once, whatever runs in the lane. */
  readonly reply: string | null;
  /** Steering input that is part of the request. */
  readonly steers: readonly Steer[];
  /** No `response.create` of the client asks for this turn: it follows a steered response. */
  readonly follows: boolean;
}

/**
 * One WebSocket of a client. Messages are read one after the other. Turns of one lane run in the order of their messages,
 * and turns of different lanes at the same time. Everything that a message leads to is answered when its lane is free,
 * errors too, so that an error never seems to belong to the response before it.
 */
class ClientConnection implements AnswerSocket {
  readonly #ws: WebSocket;
  readonly #req: IncomingMessage;
  readonly #socket: Duplex & { readonly bytesRead?: number; readonly bytesWritten?: number };
  readonly #caller: Caller;
  readonly #options: Shared;
  readonly #headers: Readonly<Record<string, string>>;
  readonly #codex: boolean;
  readonly #inbox: Arrived[] = [];
  readonly #waiting: Waiting[] = [];
  readonly #lanes = new Set<string>();
  readonly #running = new Set<string | null>();
  readonly #drained = new Set<() => void>();
  readonly #gone = new Set<() => void>();
  readonly #pulse: ReturnType<typeof createPulse>;
  readonly #steering: Steering;
  /** Holds the connection while turns run. */
  #work: (EventEmitter & { closed: boolean }) | null = null;
  #reading = false;
  #paused = false;
  #stalled = false;
  /** Bytes of the message that is arriving, and what limits it once it is large. */
  #arriving = 0;
  #arrival: { lease: Lease; stopTimer(): void } | null = null;
  /** The connection is closed at its next idle moment. */
  #retiring = false;
  #expired = false;
  #ended = false;
  readonly #closed = Promise.withResolvers<void>();
  #stopIdle = () => {};
  #stopAge = () => {};
  #stopPatience: (() => void) | null = null;

  constructor(ws: WebSocket, req: IncomingMessage, socket: Duplex, caller: Caller, options: Shared) {
    const { clock, config } = options;
    const { deadlines } = config;
    this.#ws = ws;
    this.#req = req;
    this.#socket = socket;
    this.#caller = caller;
    this.#options = options;
    this.#steering = new Steering(options.ids.uuid);
    const headers = flatHeaders(req.headers);
    this.#codex = CODEX_PROTOCOL.test(headers['openai-beta'] ?? '');
    for (const name of OF_THE_UPGRADE) delete headers[name];
    this.#headers = headers;
    // The connection belongs to an authenticated client from now on, though it is idle.
    const greeting = Object.assign(new EventEmitter(), { closed: false });
    holdConnection(req, greeting, caller.scope);
    greeting.emit('close');

    const on = <A extends unknown[]>(event: string, listener: (...args: A) => void) =>
      ws.on(event, this.#guarded(listener) as (...args: unknown[]) => void);
    this.#pulse = createPulse({
      times: { pingMs: deadlines.ping, pongMs: deadlines.pong },
      bytesRead: () => this.#socket.bytesRead ?? 0,
      // While the client does not read, a ping waits behind the events before it.
      reading: () => !this.#paused && socket.writableLength === 0,
      ping: () => ws.ping(),
      dead: () => ws.terminate(),
    });
    on('pong', () => this.#pulse.pong());
    on('message', (data: Buffer, isBinary: boolean) => this.#arrived(data, isBinary));
    // The library closes the connection; `close` follows.
    on('error', () => {});
    on('close', () => this.#end());
    // Before the library's own listener, which calls `message` for the same bytes.
    socket.prependListener(
      'data',
      this.#guarded((chunk: Buffer) => this.#count(chunk.length)),
    );
    socket.on(
      'drain',
      this.#guarded(() => this.#caughtUp()),
    );
    const age = deadlines.clientAge;
    this.#stopAge = clock.after(age, () => {
      this.#stopAge = clock.after(EXTENSION_MS, () => {
        this.#expired = true;
      });
      this.#retire();
    });
    this.#armIdle();
  }

  /** Guards a listener: an exception in it ends this connection and nothing else. */
  #guarded<A extends unknown[]>(listener: (...args: A) => void): (...args: A) => void {
    return guarded('client connection', listener, () => this.#ws.terminate());
  }

  // The connection, as the answers on it see it.

  get open(): boolean {
    return this.#ws.readyState === WebSocket.OPEN;
  }

  send(text: string, delivered?: () => void): boolean {
    if (!this.open) return true;
    this.#ws.send(text, (error) => {
      if (this.#socket.writableLength === 0) {
        this.#endPatience();
        if (this.#running.size === 0) this.#next();
      }
      if (!error && delivered) this.#guarded(delivered)();
    });
    if (this.#socket.writableLength === 0) return true;
    // The client takes nothing more for now.
    if (this.#stopPatience === null) this.#beginPatience();
    this.#stalled ||= this.#socket.writableNeedDrain;
    return !this.#stalled;
  }

  onDrain(listener: () => void): () => void {
    this.#drained.add(listener);
    return () => void this.#drained.delete(listener);
  }

  onGone(listener: () => void): () => void {
    if (this.#ended) listener();
    else this.#gone.add(listener);
    return () => void this.#gone.delete(listener);
  }

  /** Closes the connection once it is idle, but not before `afterMs` milliseconds, unless it becomes idle after a turn. */
  retire(afterMs: number): void {
    this.#stopAge();
    this.#retiring = true;
    if (afterMs === 0) this.#retire();
    else this.#stopAge = this.#options.clock.after(afterMs, () => this.#retire());
  }

  /** Closes the connection; resolves when it is closed. */
  close(): Promise<void> {
    this.#leave('the worker is stopping');
    return this.#closed.promise;
  }

  // Messages.

  /** Counts bytes as they arrive. A large message counts as a body, and must arrive in time. */
  #count(bytes: number): void {
    this.#arriving += bytes;
    if (this.#arriving < COUNTED_BYTES || !this.open) return;
    const { clock, quota } = this.#options;
    try {
      if (this.#arrival) return this.#arrival.lease.addBytes(bytes);
      const lease = quota.admit(this.#caller.scope, { metered: false, declaredBytes: this.#arriving });
      const late = () => this.#refuse(new BridgeError('bridge_request_timeout'));
      this.#arrival = { lease, stopTimer: clock.after(ARRIVAL_MS, late) };
    } catch (error) {
      if (!(error instanceof BridgeError)) throw error;
      this.#refuse(error);
    }
  }

  /** Ends the connection, because the rest of a message cannot be accepted. */
  #refuse(error: BridgeError): void {
    this.send(errorEventOf(error, this.#options.ids.uuid(), null));
    this.#ws.close(TRY_AGAIN_LATER, 'the message cannot be accepted');
    this.#ws.pause();
  }

  #endArrival(): void {
    this.#arriving = 0;
    this.#arrival?.stopTimer();
    this.#arrival?.lease.end();
    this.#arrival = null;
  }

  #arrived(data: Buffer, isBinary: boolean): void {
    this.#endArrival();
    // The client sent it before it got the close, and sends it again on its next connection.
    if (!this.open) return;
    const arrived: Arrived = { data: null, error: null, lease: null };
    if (isBinary) arrived.error = new BridgeError('bridge_unknown_event', { detail: 'It is a binary message.' });
    else {
      try {
        arrived.lease = this.#options.quota.admit(this.#caller.scope, { metered: false, declaredBytes: data.length });
        arrived.data = data;
      } catch (error) {
        if (!(error instanceof BridgeError)) throw error;
        arrived.error = error;
      }
    }
    this.#inbox.push(arrived);
    this.#regulate();
    if (this.#reading) return;
    this.#readAll().catch((error) => {
      reportFault(error, 'client connection');
      this.#ws.terminate();
    });
  }

  /** Reads the connection, or not, depending on how many messages wait. */
  #regulate(): void {
    const full = this.#inbox.length + this.#waiting.length >= MOST_WAITING;
    if (full === this.#paused || this.#ended) return;
    this.#paused = full;
    if (full) return this.#ws.pause();
    this.#ws.resume();
    this.#pulse.resumed();
  }

  async #readAll(): Promise<void> {
    this.#reading = true;
    const ended = new AbortController();
    const stop = this.onGone(() => ended.abort());
    for (let arrived = this.#inbox.shift(); arrived && !this.#ended; arrived = this.#inbox.shift()) {
      const { data, error, lease } = arrived;
      try {
        if (error) throw error;
        const { reader, chooseUpstream } = this.#options;
        // An upstream that the application chooses may have a credential that several tenants share.
        const named = !this.#caller.credentialIsClients || chooseUpstream !== undefined;
        const read = await reader.read([data!], 'message', { gone: ended.signal, named });
        const head = messageHead(read);
        if (head.type === 'response.steer') {
          // It concerns a response, whose lane may be busy: that is the case for which it exists.
          this.#wait({ lane: null, reply: this.#steering.accept(head.text, lease) });
          continue;
        }
        lease?.end();
        const joined =
          head.type === 'response.create' && head.lane !== false && !head.refused
            ? this.#steering.joined(head.lane, read.request)
            : null;
        const caller = await this.#callerOf(head, read.request);
        if (!joined) this.#take(head, read.request, caller);
        else await this.#takeSteered(joined, head.lane || null, caller, ended.signal);
      } catch (thrown) {
        lease?.end();
        this.#wait({ lane: null, error: this.#known(thrown) });
      }
    }
    stop();
    this.#reading = false;
    this.#next();
  }

  /** Takes a request that steering input is a part of: that of the client, or one that follows a steered response. */
  async #takeSteered(
    { text, steers }: Successor,
    lane: string | null,
    caller: Caller | BridgeError,
    gone: AbortSignal,
    follows = false,
  ): Promise<void> {
    const { reader, chooseUpstream, quota } = this.#options;
    const job = { lane, steers, follows };
    try {
      if (caller instanceof BridgeError) throw caller;
      if (this.#expired) throw new BridgeError('bridge_websocket_age');
      const named = !this.#caller.credentialIsClients || chooseUpstream !== undefined;
      const read = await reader.read(text, 'message', { gone, named });
      const { refused } = messageHead(read);
      if (refused) throw new BridgeError(refused.code, refused.param === null ? {} : { param: refused.param });
      const lease = quota.admit(this.#caller.scope, { declaredBytes: read.request.bytes });
      this.#wait({ ...job, request: read.request, lease, caller });
    } catch (error) {
      this.#wait({ ...job, error: this.#known(error) });
    }
  }

  /** Returns an error for the client. One that nothing expects is logged. */
  #known(error: unknown): BridgeError {
    if (error instanceof BridgeError) return error;
    this.#options.logger.error({ err: error }, 'a message of a client failed unexpectedly');
    return new BridgeError('bridge_internal', { cause: error });
  }

  /** Returns the caller of a turn, with the upstream that the embedding application chooses, or its refusal. */
  async #callerOf({ type, refused }: MessageHead, request: ReadRequest): Promise<Caller | BridgeError> {
    const { chooseUpstream } = this.#options;
    if (!chooseUpstream || type !== 'response.create' || refused) return this.#caller;
    try {
      return await chooseUpstream(this.#req, this.#caller, modelOf(request));
    } catch (error) {
      return this.#known(error);
    }
  }

  /** Takes one event of the client. */
  #take({ type, lane, refused }: MessageHead, request: ReadRequest, caller: Caller | BridgeError): void {
    if (type === 'response.processed') return;
    if (type !== 'response.create') {
      return this.#wait({ lane: lane || null, error: new BridgeError('bridge_unknown_event', { param: 'type' }) });
    }
    if (lane === false)
      return this.#wait({ lane: null, error: new BridgeError('bridge_stream_id', { param: 'stream_id' }) });
    if (lane !== null && !this.#lanes.has(lane)) {
      if (this.#lanes.size >= MOST_LANES) {
        return this.#wait({ lane, error: new BridgeError('bridge_stream_limit', { param: 'stream_id' }) });
      }
      this.#lanes.add(lane);
    }
    if (refused) {
      const { code, param, detail } = refused;
      const error = new BridgeError(code, { ...(param !== null && { param }), ...(detail !== null && { detail }) });
      return this.#wait({ lane, error });
    }
    try {
      // A turn is refused before it waits: what waits counts for its tenant.
      if (this.#expired) throw new BridgeError('bridge_websocket_age');
      if (caller instanceof BridgeError) throw caller;
      const lease = this.#options.quota.admit(this.#caller.scope, { declaredBytes: request.bytes });
      this.#wait({ lane, request, lease, caller });
    } catch (error) {
      this.#wait({ lane, error: this.#known(error) });
    }
  }

  // Turns.

  #wait(job: { lane: string | null } & Partial<Waiting>): void {
    if (this.#ended) {
      this.#steering.commit(job.steers ?? []);
      return void job.lease?.end();
    }
    const none = {
      lease: null,
      request: null,
      error: null,
      reply: null,
      caller: this.#caller,
      steers: [],
      follows: false,
    };
    const waiting = { ...none, ...job, requestId: this.#options.ids.uuid() };
    // What follows a response by itself comes before everything that its client has asked for since.
    if (waiting.follows) this.#waiting.unshift(waiting);
    else this.#waiting.push(waiting);
    this.#next();
  }

  /** Starts everything whose lane is free, in the order of arrival, and closes a connection that is not needed any more. */
  #next(): void {
    if (this.#ended) return;
    // A client that is behind gets no further answers: what it has not read would be kept here.
    for (let at = 0; at < this.#waiting.length && !this.#stalled; ) {
      const { lane, reply } = this.#waiting[at]!;
      const isFree = this.#running.size < MOST_IN_FLIGHT && !this.#running.has(lane);
      if (reply === null && !isFree) at += 1;
      else {
        const [waiting] = this.#waiting.splice(at, 1);
        this.#start(waiting!);
        // What is started may have ended at once, and freed its lane.
        at = 0;
      }
    }
    this.#regulate();
    if (!this.#isIdle) return void this.#stopIdle();
    if (this.#retiring) this.#leave('the connection is idle and not needed any more');
    else this.#armIdle();
  }

  /** Nothing is asked, and the client has taken all answers. */
  get #isIdle(): boolean {
    const { writableLength } = this.#socket;
    const works = this.#running.size + this.#waiting.length + this.#inbox.length > 0;
    return !works && !this.#reading && writableLength === 0;
  }

  #start({ lane, requestId, lease, request, caller, error, reply, steers, follows }: Waiting): void {
    const { service, onFailed, clock } = this.#options;
    if (reply !== null) {
      lease?.end();
      return void this.send(reply);
    }
    let refusal = error;
    if (!refusal && service.shutdown.refusing) refusal = new BridgeError('bridge_draining');
    refusal ??= this.#hold();
    if (refusal || !request) {
      lease?.end();
      const answered = refusal ?? new BridgeError('bridge_internal');
      const path = shownPath(this.#req.url ?? '');
      onFailed?.({ id: requestId, method: null, path, upgrade: false, scope: this.#caller.scope }, answered);
      const concerns = answered.code === 'bridge_websocket_age' ? null : lane;
      this.#sink(concerns, requestId, null, { onRefused: this.#givingBack(steers, follows) }).fail(answered);
      return;
    }
    this.#running.add(lane);
    const turn = this.#steering.run(lane, request, caller);
    let taken = false;
    const sink = this.#sink(lane, requestId, request, {
      onEvent: (type, json, responseId) => {
        if (!taken) this.#steering.commit(steers);
        taken = true;
        this.#steering.note(turn, responseId, type, json);
      },
      onRefused: this.#givingBack(steers, follows),
      onEnded: (terminal) => {
        this.#steering.commit(steers);
        const { events, successor } = this.#steering.ended(turn, terminal);
        for (const event of events) this.send(event);
        if (successor) return this.#follow(successor, lane, caller);
        this.#free(lane);
      },
    });
    try {
      service.turn(this.#turnRequest(request, caller, lane, requestId, clock.now()), sink, lease!);
    } catch (thrown) {
      lease?.end();
      sink.fail(this.#known(thrown));
    }
  }

  /** Returns the listener of a sink that gives steering input back when its turn is refused; undefined without any. */
  #givingBack(steers: readonly Steer[], instead: boolean): SinkListeners['onRefused'] {
    if (steers.length === 0) return undefined;
    return (message) => ({ events: this.#steering.giveBack(steers, message), instead });
  }

  /** Frees the lane of a turn that has ended. */
  #free(lane: string | null): void {
    this.#running.delete(lane);
    if (this.#running.size === 0) this.#unhold();
    // The turn that ends must not be affected by those that begin.
    queueMicrotask(this.#guarded(() => this.#next()));
  }

  /** Starts the turn that follows a steered response. Its lane stays busy until then. */
  #follow(successor: Successor, lane: string | null, caller: Caller): void {
    const ended = new AbortController();
    const stop = this.onGone(() => ended.abort());
    const taken = this.#takeSteered(successor, lane, caller, ended.signal, true).finally(() => {
      stop();
      this.#free(lane);
    });
    taken.catch((error) => {
      reportFault(error, 'client connection');
      this.#ws.terminate();
    });
  }

  #sink(lane: string | null, requestId: string, request: ReadRequest | null, listeners: SinkListeners): ClientSink {
    const { clock } = this.#options;
    const model = request && modelOf(request);
    const onHead = ({ headers }: AnswerHead) => {
      const { learned } = this.#options;
      learned.reasoningIncluded = headers?.[REASONING_HEADER] ?? learned.reasoningIncluded;
    };
    const given = { onEnded: () => {}, ...listeners };
    return createWebSocketSink({ socket: this, requestId, lane, codex: this.#codex, model, clock, onHead, ...given });
  }

  /** Returns the request of a turn: its own headers are those of the upgrade, replaced by what its metadata says. */
  #turnRequest(
    request: ReadRequest,
    caller: Caller,
    lane: string | null,
    requestId: string,
    receivedAt: number,
  ): TurnRequest {
    const headers = { ...this.#headers };
    // A thread is one conversation, and a named lane is another one than that of the connection.
    if (lane !== null) delete headers[THREAD_HEADER];
    const metadata = request.body.client_metadata as Readonly<Record<string, unknown>> | null | undefined;
    for (const [member, name] of METADATA_HEADERS) {
      const value = metadata?.[member];
      if (typeof value !== 'string' || value === '') continue;
      if (HEADER_VALUE.test(value)) headers[name] = value;
      // What cannot be a header must not be replaced by a header of the upgrade, which is about another turn.
      else delete headers[name];
    }
    return { ...request, requestId, caller, headers, receivedAt, clientTransport: 'websocket' };
  }

  /** Marks the connection as held while turns run. Returns the error if it cannot be held. */
  #hold(): BridgeError | null {
    if (this.#work) return null;
    const work = Object.assign(new EventEmitter(), { closed: false });
    const unheld = holdConnection(this.#req, work, this.#caller.scope);
    if (unheld === 'scope') return this.#options.quota.refuse('connections');
    if (unheld === 'worker') return new BridgeError('bridge_overloaded');
    this.#work = work;
    return null;
  }

  #unhold(): void {
    this.#work?.emit('close');
    this.#work = null;
  }

  // The life of the connection.

  #caughtUp(): void {
    if (!this.#stalled) return;
    this.#stalled = false;
    this.#endPatience();
    for (const listener of [...this.#drained]) listener();
    this.#next();
  }

  /** Ends the connection if the client takes nothing of what is written for `slowClient`. */
  #beginPatience(): void {
    const { clock, config } = this.#options;
    const taken = () => (this.#socket.bytesWritten ?? 0) - this.#socket.writableLength;
    const before = taken();
    this.#stopPatience = clock.after(config.deadlines.slowClient, () => {
      if (taken() === before) this.#ws.terminate();
      else this.#beginPatience();
    });
  }

  #endPatience(): void {
    this.#stopPatience?.();
    this.#stopPatience = null;
  }

  #armIdle(): void {
    this.#stopIdle();
    const { clock, config } = this.#options;
    this.#stopIdle = clock.after(config.deadlines.clientIdle, () => {
      if (this.#isIdle) this.#leave('the connection is idle');
    });
  }

  #retire(): void {
    this.#retiring = true;
    if (this.#isIdle) this.#leave('the connection is idle and not needed any more');
  }

  /** Closes the connection with the code after which clients connect again. */
  #leave(reason: string): void {
    for (const event of this.#steering.leave()) this.send(event);
    if (this.open) this.#ws.close(GOING_AWAY, reason);
  }

  #end(): void {
    this.#ended = true;
    this.#pulse.stop();
    this.#stopIdle();
    this.#stopAge();
    this.#endPatience();
    this.#endArrival();
    this.#steering.end();
    for (const { lease } of this.#inbox.splice(0)) lease?.end();
    for (const { lease, steers } of this.#waiting.splice(0)) {
      lease?.end();
      this.#steering.commit(steers);
    }
    this.#closed.resolve();
    for (const listener of [...this.#gone]) guarded('client connection', listener)();
    this.#unhold();
  }
}
