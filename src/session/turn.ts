import { type Actor, createActor, transition } from 'xstate';
import { type TurnEvent, type TurnMachine, turnMachine } from '../../machines/turn.ts';
import { type BridgeCode, BridgeError, catalogue } from '../errors.ts';
import { REQUEST_ID_HEADER } from '../headers.ts';
import type { Written } from '../json.ts';
import type { AttemptFact, Evidence, Outcome } from '../resolve/types.ts';
import type { Inspect, Observed } from '../runtime/index.ts';
import type { KeptResponse, TurnEnd, TurnMetrics, TurnRow } from '../store/port.ts';
import type { Line } from '../transcript/items.ts';
import type { Continuation, Item, ReadItems, WireForm } from '../transcript/types.ts';
import type { UpstreamAnswer, UpstreamError } from '../upstream/port.ts';
import type { AnswerHead, ClientSink, TurnRequest } from './port.ts';
import type { BufferShare, Lease, Quota } from './quota.ts';

type TerminalType = 'response.completed' | 'response.incomplete' | 'response.failed';

interface Entry {
  type: string;
  json: string;
  telemetry: boolean;
}

type Ending =
  | { kind: 'end'; type: TerminalType; json: string }
  | { kind: 'fail'; error: BridgeError }
  | { kind: 'relay'; answer: UpstreamAnswer };

export interface StreamOptions {
  /** Maximum number of bytes kept from event 0 for a client that reconnects; above that the whole buffer is dropped. */
  bufferBytes: number;
  /** Registers this turn's buffer with the budget of all turns, which may drop it. Default: not counted. */
  share?: ((giveUp: () => void) => BufferShare) | undefined;
  /**
   * Counts bytes that readers have not consumed; returns true if the total over all turns is too high. Default: not
   * counted.
   */
  unread?: ((change: number) => boolean) | undefined;
  /** Called when the reader is further behind than the size of the buffer, and when it has caught up. */
  onPressure(paused: boolean): void;
}

/**
 * The event stream of one turn, from event 0 to its terminal event, and its current reader. A later reader gets all
 * events from the start, or is rejected if the start is not kept any more.
 */
export class TurnStream {
  /** The current reader. */
  sink: ClientSink;
  /** True if any reader so far was shown an event. */
  shown = false;
  /** True while the buffer begins with event 0; false once it was dropped while a reader could still have attached. */
  complete = true;
  /** Size of the buffer kept for a later reader. */
  bufferedBytes = 0;
  readonly #options: StreamOptions;
  readonly #share: BufferShare | undefined;
  #buffer: Entry[] | null = [];
  #ending: Ending | { kind: 'abandoned' } | null = null;
  #head: AnswerHead | null = null;
  #delivered = false;
  /** Number of characters written since the reader last kept up. */
  #behind = 0;
  readonly #listeners: (() => void)[] = [];

  /** @param first sink of the client that sent the request */
  constructor(first: ClientSink, options: StreamOptions) {
    this.sink = first;
    this.#options = options;
    this.#share = options.share?.(() => this.#crop());
    this.#listen(first);
  }

  get attached(): boolean {
    return this.sink.attached;
  }

  get finished(): boolean {
    return this.#ending !== null;
  }

  /** True once a reader has received the terminal event, or the stream was abandoned. */
  get delivered(): boolean {
    return this.#delivered || this.#ending?.kind === 'abandoned';
  }

  /** Sets the data for the answer's headers. A later reader gets the same data with the outcome `reattached`. */
  head(head: AnswerHead): void {
    this.#head = head;
    this.sink.head(head);
  }

  /** Replaces the provider's headers; no effect on an answer whose status has been sent. */
  restate(headers: AnswerHead['headers']): void {
    if (!this.#head || this.#ending) return;
    this.#head = { ...this.#head, headers };
    if (!this.sink.committed) this.sink.head(this.#head);
  }

  /** Adds an event and writes it to the reader. No effect after the end. */
  push(type: string, json: string, telemetry: boolean): void {
    if (this.#ending) return;
    const entry = { type, json, telemetry };
    if (this.#buffer) {
      this.bufferedBytes += json.length;
      this.#buffer.push(entry);
      if (this.bufferedBytes <= this.#options.bufferBytes) this.#share?.grow(json.length);
      else {
        this.#share?.empty();
        this.#crop();
      }
    }
    this.#write(entry);
  }

  /**
   * Ends the stream.
   *
   * @returns true if this call ended it; only the first one does
   */
  finish(ending: Ending): boolean {
    if (this.#ending) return false;
    this.#ending = ending;
    this.#close();
    return true;
  }

  /** Replaces the reader. The new one gets the buffered events from the start, then live events. */
  attach(reader: ClientSink): void {
    const before = this.sink;
    this.#caughtUp();
    this.sink = reader;
    // A client that retries has abandoned its earlier connection, even if its close has not been noticed here yet.
    if (before.attached) before.cut();
    this.#listen(reader);
    this.#options.onPressure(false);
    if (this.#head) reader.head({ ...this.#head, outcome: 'reattached' });
    for (const entry of this.#buffer ?? []) this.#write(entry);
    if (this.#ending) this.#close();
  }

  /**
   * Drops buffered events before a turn is sent again whose output was not shown: no event of the first attempt may be
   * shown.
   */
  rewind(): void {
    this.discard();
    this.#buffer = [];
    this.complete = true;
  }

  /** Ends the stream without writing to the reader, which now belongs to another stream. */
  abandon(): void {
    this.#ending ??= { kind: 'abandoned' };
    this.discard();
  }

  /** Drops the buffer: no reader can attach after this. */
  discard(): void {
    this.#buffer = null;
    this.bufferedBytes = 0;
    this.#share?.empty();
  }

  /** Registers a listener that is called once when a reader has received the terminal event; immediately if one has. */
  onDelivered(listener: () => void): void {
    if (this.#delivered) listener();
    else this.#listeners.push(listener);
  }

  #crop(): void {
    this.#buffer = null;
    this.bufferedBytes = 0;
    this.complete = false;
  }

  #caughtUp(): void {
    this.#options.unread?.(-this.#behind);
    this.#behind = 0;
  }

  #write(entry: Entry): void {
    const { sink } = this;
    const { unread, bufferBytes } = this.#options;
    if (!sink.attached) return;
    let crowded = false;
    if (sink.event(entry.type, entry.json, entry.telemetry)) this.#caughtUp();
    else {
      this.#behind += entry.json.length;
      crowded = unread?.(entry.json.length) ?? false;
    }
    // Pausing the upstream also delays its pings. Therefore events are buffered here first, as long as there is room.
    if (this.#behind > bufferBytes || crowded) this.#options.onPressure(true);
    this.shown ||= sink.shown;
  }

  /** Writes the end to the reader. If that throws, closes the reader's connection, so that it does not wait in vain. */
  #close(): void {
    const { sink } = this;
    const ending = this.#ending;
    try {
      if (ending?.kind === 'end') {
        // The terminal event counts as unread until it was read, like any other event.
        if (sink.attached) {
          this.#behind += ending.json.length;
          this.#options.unread?.(ending.json.length);
        }
        sink.end(ending.type, ending.json);
      } else if (ending?.kind === 'fail') sink.fail(ending.error);
      else if (ending?.kind === 'relay') sink.relay(ending.answer);
    } catch (error) {
      sink.cut();
      throw error;
    }
  }

  #listen(reader: ClientSink): void {
    reader.onDrain(() => {
      if (reader !== this.sink) return;
      this.#caughtUp();
      this.#options.onPressure(false);
    });
    reader.onGone(() => {
      if (reader !== this.sink) return;
      this.#caughtUp();
      // The turn continues while no client reads it.
      this.#options.onPressure(false);
    });
    reader.onDelivered(() => {
      if (reader !== this.sink || this.#delivered) return;
      this.#delivered = true;
      this.#caughtUp();
      this.discard();
      for (const listener of this.#listeners.splice(0)) listener();
    });
  }
}

/** The end of a turn and the answer for its client. */
export interface TurnEnding {
  state: TurnEnd;
  /**
   * The terminal event in the form shown to the client; null if the client gets an error of the bridge or a relayed
   * refusal.
   */
  terminal: { type: 'response.completed' | 'response.incomplete' | 'response.failed'; json: string } | null;
  /** Code of the bridge's error; null if the upstream's answer is relayed. */
  fault: BridgeCode | null;
  answer: UpstreamAnswer | null;
  error: UpstreamError | null;
}

/** Timestamps of a turn for its log line, in monotonic milliseconds. */
export interface TurnTimes {
  received: number;
  /** The turn was handed to its session. */
  placed: number | null;
  /** The session was free and took the turn. */
  begun: number | null;
  /** The session had a socket, and the store was asked for the start. */
  ready: number | null;
  /** The store granted the start. */
  started: number | null;
  sent: number | null;
  firstEvent: number | null;
  /** The upstream's answer was over, and the store was asked for the end. */
  answered: number | null;
  ended: number | null;
}

/** A stored turn with the line that ends at it. */
export interface TurnWithLine {
  row: TurnRow;
  line: Line;
}

/** Progress of a turn's placement. Written by the dispatcher and by what it calls: look-up and forwarding. */
export interface Placement {
  /** Facts from failed placement attempts, as input for the resolver. */
  attempts: AttemptFact[];
  resolutions: number;
  /** Number of attempts that failed because the conversation moved in the meantime. */
  conflicts: number;
  /** Number of waits between placement attempts. */
  waits: number;
  /** Number of hops to other workers. */
  hops: number;
  /**
   * Id of the row of the resolution table that decided last; null if an idle session here was used, or the last owner of the
   * conversation asked, without a look-up.
   */
  decidedBy: string | null;
  /** Session that the request's hard key names, according to the rows read last. */
  namedByKey: string | null;
  /** Set if another worker may have started this turn. It may run here only once that is known not to be the case. */
  possibleOwner: { workerId: string; sessionId: string | null; epoch: number | null } | null;
  /** Time until which the request may wait for its frame to be sent, in monotonic milliseconds. */
  heldUntil: number;
  /** Start of the wait for a silent owner, in monotonic milliseconds. */
  awaitedSince: number | null;
  /** Time since which this worker's own lease is in doubt, in monotonic milliseconds. */
  lapsedSince: number | null;
  /** Time since which the store has not answered any call for this turn, in monotonic milliseconds. */
  silentSince: number | null;
}

/** The dispatcher, as its turns see it. */
export interface TurnHost {
  /** Maximum number of bytes of events that a turn keeps for a client that reconnects. */
  readonly bufferBytes: number;
  readonly quota: Pick<Quota, 'buffer' | 'unread'>;
  readonly inspect?: Inspect | undefined;
  /** Pauses or resumes reading from the upstream for a turn whose reader is slow or has caught up. */
  onPressure(turn: Turn, paused: boolean): void;
  /** Called once, when the turn's client has received its terminal event (or cannot receive it any more). */
  onFinished(turn: Turn): void;
}

type TurnState = ReturnType<Actor<TurnMachine>['getSnapshot']>['value'];

/** States to which events lead, by state and event. XState is asked once for each pair. */
const nextStates = new Map<TurnState, Map<TurnEvent['type'], TurnState>>();

function nextOf(state: TurnState, event: TurnEvent): TurnState {
  let ways = nextStates.get(state);
  if (ways === undefined) nextStates.set(state, (ways = new Map()));
  let next = ways.get(event.type);
  if (next === undefined) {
    const before = turnMachine.resolveState({ value: state, context: { turnId: '' } });
    [{ value: next }] = transition(turnMachine, before, event);
    ways.set(event.type, next);
  }
  return next;
}

const isFinal = (state: TurnState) => turnMachine.states[state]?.type === 'final';

/**
 * The progress of one turn through the states of its machine. The machine has neither effects nor conditions, so its state
 * is all there is to keep.
 */
export class TurnRecord implements Observed {
  /** The turn's id. */
  readonly id: string;
  readonly machine = turnMachine;
  readonly #context: { turnId: string };
  readonly #inspect: Inspect | undefined;
  /** Takes the same events, where XState's own inspection events are wanted. */
  readonly #shown: Actor<TurnMachine> | null;
  #state: TurnState = 'admitted';
  #stopped = false;

  constructor(id: string, inspect: Inspect | undefined) {
    this.id = id;
    this.#context = { turnId: id };
    this.#inspect = inspect;
    this.#shown = inspect?.xstate ? createActor(turnMachine, { input: this.#context, inspect: inspect.xstate }) : null;
    this.#shown?.start();
    this.#show({ type: 'xstate.init' });
  }

  snapshot(): { status: string; value: TurnState; context: { turnId: string } } {
    const status = isFinal(this.#state) ? 'done' : this.#stopped ? 'stopped' : 'active';
    return { status, value: this.#state, context: this.#context };
  }

  /** Takes an event. No effect once the turn has ended. */
  note(event: TurnEvent): void {
    if (this.#stopped) return;
    this.#state = nextOf(this.#state, event);
    this.#stopped = isFinal(this.#state);
    this.#shown?.send(event);
    this.#show(event);
  }

  /** Ends the record in the state that it is in. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#shown?.stop();
    this.#show({ type: 'xstate.stop' });
  }

  #show(event: { type: string }): void {
    this.#inspect?.step({ actor: this, event, ...this.snapshot() });
  }
}

const endEvent: Record<TurnEnd, TurnEvent> = {
  completed: { type: 'complete' },
  incomplete: { type: 'end_incomplete' },
  failed: { type: 'fail' },
  cancelled: { type: 'cancel' },
  lost: { type: 'lose' },
};

/** Errors whose cause may be an upstream that could not be reached. */
const withCause = new Set<BridgeCode>(['bridge_upstream_unreachable', 'bridge_hold_expired']);

/** Returns the client's error for a fault. The error of an unreachable upstream includes the cause. */
export function faultError({ cause }: Turn, fault: BridgeCode): BridgeError {
  return new BridgeError(fault, withCause.has(fault) && cause !== null ? { detail: `${cause}.` } : {});
}

/** One request in progress: its content, its placement and its answer. Owned by one session at a time. */
export class Turn {
  readonly id: string;
  readonly request: TurnRequest;
  /** The request's items. */
  readonly items: ReadItems;
  /** The admission under which it counts for its tenant. */
  readonly lease: Pick<Lease, 'run'>;
  /** Computed once; only `passThrough` may change later. */
  evidence: Evidence;
  readonly stream: TurnStream;
  readonly record: TurnRecord;
  readonly #host: TurnHost;
  #finished = false;

  readonly placement: Placement = {
    attempts: [],
    resolutions: 0,
    conflicts: 0,
    waits: 0,
    hops: 0,
    decidedBy: null,
    namedByKey: null,
    possibleOwner: null,
    heldUntil: Number.POSITIVE_INFINITY,
    awaitedSince: null,
    lapsedSince: null,
    silentSince: null,
  };
  outcome: Outcome = 'refused';

  // The context that the turn continues: looked up by `decide`, fixed by `place`, loaded and sent by the connection.

  /** Row of the anchor, if the request has one that is known in its scope. */
  anchor: TurnRow | null = null;
  /** The deepest known turn whose line is the start of an unanchored request. */
  ancestor: TurnWithLine | null = null;
  /**
   * Texts of items that the provider does not store, by item id. A full send contains them in place of references to
   * them.
   */
  contents: ReadonlyMap<string, string> = new Map();
  parent: TurnRow | null = null;
  /** The line that ends at the parent, if the request was compared with it. */
  parentLine: Line | null = null;
  expectedHead: string | null = null;
  continuation: Continuation | null = null;
  /** Exact texts of the items of the parent's lineage; null if not needed, not loaded or not exact. */
  history: readonly string[] | null = null;
  wire: WireForm | null = null;
  /** True if the provider refused the anchor: it is not tried again for this turn. */
  anchorRefused = false;
  /** True if it has left a crowded shared socket. */
  moved = false;
  /**
   * True if the bridge requested encrypted reasoning that the client did not request: it is kept for replays and not
   * shown.
   */
  hideEncrypted = false;
  frameBytes = 0;
  /** True if the upstream reported that it did not accept the frame: the turn cannot have had any effect. */
  untaken = false;
  /** Reason why the upstream was not reached, or not over WebSocket: a code and a host. Null if it was. */
  cause: string | null = null;

  // The response, as far as it was received. Written by the frame reader; `rewind` resets what an attempt began.

  responseId: string | null = null;
  /** Output items from `response.output_item.done` events; those of steered predecessors come first. */
  streamed: Written<Item>[] = [];
  /**
   * Output items from the terminal event, after those of steered predecessors. Null before that event, or if it has no
   * list.
   */
  listed: readonly Written<Item>[] | null = null;
  /** True if the output contained something that is not kept: then only the provider can continue the turn. */
  inexact = false;
  /** Number of items in `streamed` that belong to steered predecessors of the running response. */
  steered = 0;
  /** True once a frame other than `response.created` and telemetry has arrived. */
  sawOutput = false;
  /** `response.created`, held back until a second event shows that the turn is under way. */
  heldCreated: { type: string; json: string } | null = null;
  /** The last event that contained the whole response object, kept for background turns only. */
  standing: string | null = null;
  /** Columns that were read from the response of the terminal event; null before it. */
  kept: KeptResponse | null = null;
  /** The provider's own id of the answered request. */
  upstreamRequest: string | null = null;

  ending: TurnEnding | null = null;
  readonly times: TurnTimes;

  /** Creates a turn for a new request that has not been placed yet. */
  constructor(
    host: TurnHost,
    { id, request, evidence, lease, sink }: Pick<Turn, 'id' | 'request' | 'evidence' | 'lease'> & { sink: ClientSink },
  ) {
    this.id = id;
    this.request = request;
    this.items = request.items;
    this.evidence = evidence;
    this.lease = lease;
    this.#host = host;
    const open = { placed: null, begun: null, ready: null, started: null, sent: null, firstEvent: null };
    this.times = { received: request.receivedAt, ...open, answered: null, ended: null };
    this.record = new TurnRecord(id, host.inspect);
    this.stream = new TurnStream(sink, {
      bufferBytes: host.bufferBytes,
      share: (giveUp) => host.quota.buffer(request.caller.scope, giveUp),
      unread: host.quota.unread,
      onPressure: (paused) => host.onPressure(this, paused),
    });
  }

  /** The output in the form that this turn's client has: `streamed` or `listed`, whichever holds more items. */
  get output(): readonly Written<Item>[] {
    const { streamed, listed } = this;
    if (listed === null || streamed.length > listed.length) return streamed;
    return listed.length > streamed.length || this.request.body.stream !== true ? listed : streamed;
  }

  /**
   * True if another reader can get the whole stream: it is kept from event 0, the turn is running or has ended well,
   * and no reader has received its end.
   */
  get repeatable(): boolean {
    const { stream, ending } = this;
    if (!stream.complete || stream.delivered) return false;
    return ending === null || (ending.terminal !== null && ending.terminal.type !== 'response.failed');
  }

  /** Shows the client the `response.created` event that was held back. */
  showCreated(): void {
    const held = this.heldCreated;
    this.heldCreated = null;
    if (held) this.stream.push(held.type, held.json, false);
  }

  /** Notes an event in the turn's record. */
  note(event: TurnEvent): void {
    this.record.note(event);
  }

  /** Ends the turn with an error of the bridge, unless it has ended already. */
  fail(error: BridgeError): void {
    error.outcome ??= this.outcome;
    // A request that its client abandoned counts as cancelled; it is not reported as a failure.
    const state = error.code === 'bridge_turn_cancelled' ? 'cancelled' : 'failed';
    this.ending ??= { state, terminal: null, fault: error.code, answer: null, error: null };
    this.#finishWith(this.ending.state, { kind: 'fail', error });
  }

  /** Notes that another worker has delivered the whole answer. */
  served(terminal: TurnEnd): void {
    this.ending ??= { state: terminal, terminal: null, fault: null, answer: null, error: null };
    this.stream.abandon();
    this.#finish(terminal);
  }

  /** Ends this turn without writing to its client, which reads another turn's stream from now on. */
  handOver(): void {
    this.stream.abandon();
    this.#finish('cancelled');
  }

  /**
   * Handles the end of the upstream connection without a terminal event. A background response continues at the
   * provider: the turn ends here as `incomplete`, and its client gets the response object in its last known state.
   *
   * @returns false for any other turn, which is left unchanged
   */
  leaveInBackground(): boolean {
    const { request } = this;
    if (request.body.background !== true || this.responseId === null || this.ending) return false;
    this.showCreated();
    const json = request.body.stream === true ? null : this.standing;
    this.ending = {
      state: 'incomplete',
      terminal: json === null ? null : { type: 'response.incomplete', json },
      fault: 'bridge_upstream_lost',
      answer: null,
      error: null,
    };
    return true;
  }

  /** Sends the prepared ending to the client, unless the stream has ended already. */
  deliver(): void {
    const { ending } = this;
    if (!ending || this.stream.finished) return;
    if (ending.terminal) return this.#finishWith(ending.state, { kind: 'end', ...ending.terminal });
    if (ending.answer) return this.#finishWith(ending.state, { kind: 'relay', answer: ending.answer });
    const error = ending.fault === null ? new BridgeError('bridge_internal') : faultError(this, ending.fault);
    error.outcome = this.outcome;
    this.#finishWith(ending.state, { kind: 'fail', error });
  }

  /** Resets the turn for its second create: all data of the first attempt is dropped. */
  rewind(): void {
    this.responseId = null;
    this.streamed = [];
    this.listed = null;
    this.inexact = false;
    this.steered = 0;
    this.sawOutput = false;
    this.heldCreated = null;
    this.stream.rewind();
    this.note({ type: 'commit' });
  }

  /** Ends the stream and then the turn, even if writing the end failed. */
  #finishWith(state: TurnEnd, ending: Ending): void {
    let ended = true;
    try {
      ended = this.stream.finish(ending);
    } finally {
      if (ended) this.#finish(state);
    }
  }

  #finish(state: TurnEnd): void {
    if (this.#finished) return;
    this.#finished = true;
    this.note(endEvent[state]);
    this.record.stop();
    this.#host.onFinished(this);
  }
}

const since = (turn: Turn, at: number | null) => (at === null ? null : Math.round(at - turn.times.received));

/**
 * Returns the measurements that are stored with a turn's end.
 *
 * @param creates number of creates sent for the turn
 * @param now monotonic milliseconds
 */
export function metricsOf(turn: Turn, creates: number, now: number): TurnMetrics {
  const { request, wire, ending } = turn;
  return {
    outcome: turn.outcome,
    form: turn.times.sent === null || !wire || wire.form === 'impossible' ? null : wire.form,
    bytesFromClient: request.bytes,
    bytesSent: turn.frameBytes,
    creates,
    fault: ending?.fault ?? null,
    upstreamStatus: ending?.error?.status ?? ending?.answer?.status ?? null,
    placedMs: since(turn, turn.times.placed),
    begunMs: since(turn, turn.times.begun),
    readyMs: since(turn, turn.times.ready),
    startedMs: since(turn, turn.times.started),
    heldMs: since(turn, turn.times.sent),
    ownMs: ownOf(turn),
    firstEventMs: since(turn, turn.times.firstEvent),
    totalMs: Math.round(now - turn.times.received),
  };
}

/**
 * Returns the bridge's own share of the time until the frame left: without the wait for an earlier turn of the session, and
 * without the handshake with the upstream. Null when no frame left.
 */
function ownOf({ times: { received, placed, begun, ready, sent } }: Turn): number | null {
  if (sent === null) return null;
  const others = (begun ?? 0) - (placed ?? begun ?? 0) + (ready ?? 0) - (begun ?? ready ?? 0);
  return Math.round((sent - received - others) * 10) / 10;
}

/**
 * Returns the HTTP status that the client got; null where it left before an answer. An error after the first event of a
 * stream is reported in the stream, whose status is 200.
 */
function statusOf({ ending, stream, request }: Turn, fault: string | null): number | null {
  const wasOpen = stream.shown && request.body.stream === true;
  if (wasOpen || ending?.state === 'completed' || ending?.state === 'incomplete') return 200;
  if (fault !== null) return catalogue[fault as BridgeCode]?.status ?? null;
  return ending?.error?.status ?? ending?.answer?.status ?? null;
}

/** Returns a tenant's name for operators: a scope without its prefix, and of a hash of a credential only the beginning. */
export function tenantOf(scope: string): string {
  const name = scope.startsWith('tenant:') ? scope.slice(7) : scope;
  return name.startsWith('cred:') ? name.slice(0, 17) : name;
}
/** Returns a value that clients choose, such as a model's name, if it is a short identifier. */
const identifier = (value: unknown) => (typeof value === 'string' && /^[\w./:@-]{1,100}$/.test(value) ? value : null);

/** Log line of one turn. Times are milliseconds since the request was read. */
export interface TurnLine {
  request: string;
  session: string | null;
  epoch: number | null;
  turn: string;
  /** How the client is connected. */
  transport: 'http' | 'websocket';
  /** The provider's id of the response, if one was begun. */
  response: string | null;
  /** Tenant, `local`, or the beginning of the hash of a passed-through credential. */
  tenant: string;
  /** First 12 digits of the SHA-256 of the client's thread or session key, by which operators find its requests. */
  key: string | null;
  model: string | null;
  outcome: string;
  /** Id of the row of the resolution table that decided last; null where it was decided without a look-up. */
  decidedBy: string | null;
  shape: string;
  form: string | null;
  terminal: string;
  /** HTTP status that the client got; null where it left before an answer. */
  status: number | null;
  fault: string | null;
  /** Reason why the upstream was not reached, or not over WebSocket: a code and a host. */
  cause: string | null;
  upstreamStatus: number | null;
  /** The provider's id of the request, for its support. */
  upstreamRequest: string | null;
  heldMs: number | null;
  /** Part of `heldMs` without the wait for an earlier turn and without the handshake with the upstream. */
  ownMs: number | null;
  firstEventMs: number | null;
  totalMs: number;
  itemsFromClient: number;
  itemsSent: number | null;
  bytesFromClient: number;
  bytesSent: number;
  tokens: unknown;
  tokenIgnored: string | null;
}

/**
 * Returns the log line of an ended turn. It contains no content and no credential.
 *
 * @param now monotonic milliseconds
 */
export function describeTurn(turn: Turn, session: { id: string; epoch: number } | null, now: number): TurnLine {
  const { request, evidence, wire, ending } = turn;
  const sent = turn.times.sent === null || !wire || wire.form === 'impossible' ? null : wire.items;
  return {
    request: request.requestId,
    session: session?.id ?? null,
    epoch: session?.epoch ?? null,
    turn: turn.id,
    transport: request.clientTransport ?? 'http',
    response: turn.responseId,
    tenant: tenantOf(evidence.scope),
    key: evidence.hardKey?.hash.slice(0, 12) ?? null,
    model: identifier(request.body.model),
    outcome: turn.outcome,
    decidedBy: turn.placement.decidedBy,
    shape: evidence.shape,
    form: sent === null ? null : (wire?.form ?? null),
    terminal: ending?.state ?? 'cancelled',
    status: statusOf(turn, ending?.fault ?? null),
    fault: ending?.fault ?? null,
    cause: turn.cause,
    upstreamStatus: ending?.error?.status ?? ending?.answer?.status ?? null,
    upstreamRequest: (ending?.answer?.headers[REQUEST_ID_HEADER] ?? turn.upstreamRequest)?.slice(0, 200) ?? null,
    heldMs: since(turn, turn.times.sent),
    ownMs: ownOf(turn),
    firstEventMs: since(turn, turn.times.firstEvent),
    totalMs: Math.round(now - turn.times.received),
    itemsFromClient: request.items.list.length,
    itemsSent: sent,
    bytesFromClient: request.bytes,
    bytesSent: turn.frameBytes,
    tokens: turn.kept?.usage ?? null,
    tokenIgnored: evidence.token.kind === 'ignored' ? evidence.token.reason : null,
  };
}
