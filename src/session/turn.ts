import { type Actor, createActor } from 'xstate';
import { type TurnEvent, type TurnMachine, turnMachine } from '../../machines/turn.ts';
import { type BridgeCode, BridgeError } from '../errors.ts';
import type { Written } from '../json.ts';
import type { AttemptFact, Evidence, Outcome } from '../resolve/types.ts';
import type { Inspect } from '../runtime/index.ts';
import type { TurnEnd, TurnRow } from '../store/port.ts';
import type { Line } from '../transcript/line.ts';
import type { Continuation, Item, ReadItems, WireForm } from '../transcript/types.ts';
import type { UpstreamAnswer, UpstreamError } from '../upstream/port.ts';
import type { AnswerHead, ClientSink, TurnRequest } from './port.ts';
import type { BufferShare, Lease } from './quota.ts';

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
export interface TurnStream {
  /** Sets the data for the answer's headers. A later reader gets the same data with the outcome `reattached`. */
  head(head: AnswerHead): void;
  /** Replaces the provider's headers; no effect on an answer whose status has been sent. */
  restate(headers: AnswerHead['headers']): void;
  /** Adds an event and writes it to the reader. No effect after the end. */
  push(type: string, json: string, telemetry: boolean): void;
  /**
   * Ends the stream.
   *
   * @returns true if this call ended it; only the first one does
   */
  finish(ending: Ending): boolean;
  /** Replaces the reader. The new one gets the buffered events from the start, then live events. */
  attach(sink: ClientSink): void;
  /**
   * Drops buffered events before a turn is sent again whose output was not shown: no event of the first attempt may be
   * shown.
   */
  rewind(): void;
  /** Ends the stream without writing to the reader, which now belongs to another stream. */
  abandon(): void;
  /** Drops the buffer: no reader can attach after this. */
  discard(): void;
  readonly sink: ClientSink;
  readonly attached: boolean;
  /** True if any reader so far was shown an event. */
  readonly shown: boolean;
  /** True while the buffer begins with event 0. */
  readonly complete: boolean;
  readonly finished: boolean;
  /** Size of the buffer kept for a later reader. */
  readonly bufferedBytes: number;
  /** True once a reader has received the terminal event, or the stream was abandoned. */
  readonly delivered: boolean;
  /** Registers a listener that is called once when a reader has received the terminal event; immediately if one has. */
  onDelivered(listener: () => void): void;
}

/**
 * Creates the stream of a turn.
 *
 * @param first sink of the client that sent the request
 */
export function createTurnStream(first: ClientSink, options: StreamOptions): TurnStream {
  let sink = first;
  let buffer: Entry[] | null = [];
  let bytes = 0;
  let shown = false;
  let ending: Ending | { kind: 'abandoned' } | null = null;
  let head: AnswerHead | null = null;
  let delivered = false;
  /** Number of characters written since the reader last kept up. */
  let behind = 0;
  const listeners: (() => void)[] = [];
  /** True if the buffer was dropped while a reader could still have attached. */
  let cropped = false;
  const giveUp = () => {
    buffer = null;
    bytes = 0;
    cropped = true;
  };
  const share = options.share?.(giveUp);
  const caughtUp = () => {
    options.unread?.(-behind);
    behind = 0;
  };
  const discard = () => {
    buffer = null;
    bytes = 0;
    share?.empty();
  };

  /** Runs a write to a reader and closes the reader's connection if the write throws, so that it does not wait in vain. */
  const orCut = <T>(reader: ClientSink, act: () => T): T => {
    try {
      return act();
    } catch (error) {
      reader.cut();
      throw error;
    }
  };
  const write = (entry: Entry) => {
    if (!sink.attached) return;
    let crowded = false;
    if (sink.event(entry.type, entry.json, entry.telemetry)) caughtUp();
    else {
      behind += entry.json.length;
      crowded = options.unread?.(entry.json.length) ?? false;
    }
    // Pausing the upstream also delays its pings. Therefore events are buffered here first, as long as there is room.
    if (behind > options.bufferBytes || crowded) options.onPressure(true);
    shown ||= sink.shown;
  };
  const close = () =>
    orCut(sink, () => {
      if (ending?.kind === 'end') {
        // The terminal event counts as unread until it was read, like any other event.
        if (sink.attached) {
          behind += ending.json.length;
          options.unread?.(ending.json.length);
        }
        sink.end(ending.type, ending.json);
      } else if (ending?.kind === 'fail') sink.fail(ending.error);
      else if (ending?.kind === 'relay') sink.relay(ending.answer);
    });
  const listen = (reader: ClientSink) => {
    reader.onDrain(() => {
      if (reader !== sink) return;
      caughtUp();
      options.onPressure(false);
    });
    reader.onGone(() => {
      if (reader !== sink) return;
      caughtUp();
      // The turn continues while no client reads it.
      options.onPressure(false);
    });
    reader.onDelivered(() => {
      if (reader !== sink || delivered) return;
      delivered = true;
      caughtUp();
      discard();
      for (const listener of listeners.splice(0)) listener();
    });
  };
  listen(first);

  return {
    head(given) {
      head = given;
      sink.head(given);
    },
    restate(headers) {
      if (!head || ending) return;
      head = { ...head, headers };
      if (!sink.committed) sink.head(head);
    },
    push(type, json, telemetry) {
      if (ending) return;
      const entry = { type, json, telemetry };
      if (buffer) {
        bytes += json.length;
        buffer.push(entry);
        if (bytes <= options.bufferBytes) share?.grow(json.length);
        else {
          share?.empty();
          giveUp();
        }
      }
      write(entry);
    },
    finish(given) {
      if (ending) return false;
      ending = given;
      close();
      return true;
    },
    attach(reader) {
      const before = sink;
      caughtUp();
      sink = reader;
      // A client that retries has abandoned its earlier connection, even if its close has not been noticed here yet.
      if (before.attached) before.cut();
      listen(reader);
      options.onPressure(false);
      if (head) reader.head({ ...head, outcome: 'reattached' });
      for (const entry of buffer ?? []) write(entry);
      if (ending) close();
    },
    rewind() {
      discard();
      buffer = [];
      cropped = false;
    },
    abandon() {
      ending ??= { kind: 'abandoned' };
      discard();
    },
    discard,
    get sink() {
      return sink;
    },
    get attached() {
      return sink.attached;
    },
    get shown() {
      return shown;
    },
    get complete() {
      return !cropped;
    },
    get bufferedBytes() {
      return bytes;
    },
    get finished() {
      return ending !== null;
    },
    get delivered() {
      return delivered || ending?.kind === 'abandoned';
    },
    onDelivered(listener) {
      if (delivered) listener();
      else listeners.push(listener);
    },
  };
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
  sent: number | null;
  firstEvent: number | null;
  ended: number | null;
}

/** A stored turn with the line that ends at it. */
export interface TurnWithLine {
  row: TurnRow;
  line: Line;
}

/** One request in progress: its content, its placement and its answer. Owned by one session at a time. */
export interface Turn {
  readonly id: string;
  readonly request: TurnRequest;
  /** The admission under which it counts for its tenant. */
  readonly lease: Pick<Lease, 'run'>;
  /** Computed once; only `passThrough` may change later. */
  evidence: Evidence;
  readonly stream: TurnStream;
  readonly actor: Actor<TurnMachine>;
  /** Facts from failed placement attempts, as input for the resolver. */
  readonly attempts: AttemptFact[];
  resolutions: number;
  /** Number of attempts that failed because the conversation moved in the meantime. */
  conflicts: number;
  /** Number of waits between placement attempts. */
  rests: number;
  /** Number of hops to other workers. */
  hops: number;
  outcome: Outcome;
  /** Id of the row of the resolution table that decided last; null if an idle session here was used without a look-up. */
  decidedBy: string | null;

  /** Set if another worker may have started this turn. It may run here only once that is known not to be the case. */
  maybeAt: { workerId: string; sessionId: string | null; epoch: number | null } | null;
  /** Start of the wait for a silent owner, in monotonic milliseconds. */
  awaitedSince: number | null;
  /** Time since which this worker's own lease is in doubt, in monotonic milliseconds. */
  lapsedSince: number | null;
  /** Time since which the store has not answered any call for this turn, in monotonic milliseconds. */
  silentSince: number | null;

  /** Session that the request's hard key names, according to the rows read last. */
  namedByKey: string | null;

  /** The request's items. */
  readonly items: ReadItems;

  /** Row of the anchor, if the request has one that is known in its scope. */
  anchor: TurnRow | null;
  /** The deepest known turn whose line is the start of an unanchored request. */
  ancestor: TurnWithLine | null;
  /**
   * Texts of items that the provider does not store, by item id. A full send contains them in place of references to
   * them.
   */
  contents: ReadonlyMap<string, string>;
  parent: TurnRow | null;
  /** The line that ends at the parent, if the request was compared with it. */
  parentLine: Line | null;
  expectedHead: string | null;
  continuation: Continuation | null;
  /** Exact texts of the items of the parent's lineage; null if not needed, not loaded or not exact. */
  history: readonly string[] | null;
  wire: WireForm | null;
  /** True if the provider refused the anchor: it is not tried again for this turn. */
  anchorRefused: boolean;

  responseId: string | null;
  /** Output items from `response.output_item.done` events; those of steered predecessors come first. */
  streamed: Written<Item>[];
  /**
   * Output items from the terminal event, after those of steered predecessors. Null before that event, or if it has no
   * list.
   */
  listed: readonly Written<Item>[] | null;
  /** True if the output contained something that is not kept: then only the provider can continue the turn. */
  inexact: boolean;
  /** Number of items in `streamed` that belong to steered predecessors of the running response. */
  steered: number;
  /** The output in the form that this turn's client has: `streamed` or `listed`, whichever holds more items. */
  readonly output: readonly Written<Item>[];
  /**
   * True if the bridge requested encrypted reasoning that the client did not request: it is kept for replays and not
   * shown.
   */
  hideEncrypted: boolean;
  usage: unknown;
  /** The provider's own id of the answered request. */
  upstreamRequest: string | null;
  /** True once a frame other than `response.created` and telemetry has arrived. */
  sawOutput: boolean;
  /** `response.created`, held back until a second event shows that the turn is under way. */
  heldCreated: { type: string; json: string } | null;
  /** The last event that contained the whole response object, kept for background turns only. */
  standing: string | null;
  ending: TurnEnding | null;
  /** Reason why the upstream was not reached, or not over WebSocket: a code and a host. Null if it was. */
  cause: string | null;
  readonly times: TurnTimes;
  frameBytes: number;

  /**
   * True if another reader can get the whole stream: it is kept from event 0, the turn is running or has ended well,
   * and no reader has received its end.
   */
  readonly repeatable: boolean;

  /** Shows the client the `response.created` event that was held back. */
  showCreated(): void;
  /** Sends an event to the turn's own machine. */
  note(event: TurnEvent): void;
  /** Ends the turn with an error of the bridge, unless it has ended already. */
  fail(error: BridgeError): void;
  /** Notes that another worker has delivered the whole answer. */
  served(terminal: TurnEnd): void;
  /** Removes facts from failed attempts that may be outdated. */
  forget(outdated: (fact: AttemptFact) => boolean): void;
  /** Ends this turn without writing to its client, which reads another turn's stream from now on. */
  handOver(): void;
  /**
   * Handles the end of the upstream connection without a terminal event. A background response continues at the
   * provider: the turn ends here as `incomplete`, and its client gets the response object in its last known state.
   *
   * @returns false for any other turn, which is left unchanged
   */
  handedOver(): boolean;
  /** Sends the prepared ending to the client, unless the stream has ended already. */
  deliver(): void;
  /** Resets the turn for its second create: all data of the first attempt is dropped. */
  rewind(): void;
}

export interface TurnOptions {
  id: string;
  request: TurnRequest;
  evidence: Evidence;
  lease: Lease;
  sink: ClientSink;
  bufferBytes: number;
  share: StreamOptions['share'];
  unread: StreamOptions['unread'];
  onPressure(turn: Turn, paused: boolean): void;
  /** Called once, when the turn's client has received its terminal event (or cannot receive it any more). */
  onFinished(turn: Turn): void;
  inspect?: Inspect | undefined;
}

const endEvent: Record<TurnEnd, TurnEvent['type']> = {
  completed: 'complete',
  incomplete: 'end_incomplete',
  failed: 'fail',
  cancelled: 'cancel',
  lost: 'lose',
};

/** Errors whose cause may be an upstream that could not be reached. */
const withCause = new Set<BridgeCode>(['bridge_upstream_unreachable', 'bridge_hold_expired']);

/** Returns the client's error for a fault. The error of an unreachable upstream includes the cause. */
export function faultError({ cause }: Turn, fault: BridgeCode): BridgeError {
  return new BridgeError(fault, withCause.has(fault) && cause !== null ? { detail: `${cause}.` } : {});
}

/** Creates a turn for a new request that has not been placed yet. */
export function createTurn(options: TurnOptions): Turn {
  const { request, evidence } = options;
  const actor = createActor(turnMachine, { input: { turnId: options.id }, inspect: options.inspect });
  actor.start();
  let finished = false;
  const finish = (state: TurnEnd) => {
    if (finished) return;
    finished = true;
    actor.send({ type: endEvent[state] } as TurnEvent);
    actor.stop();
    options.onFinished(turn);
  };

  /** Runs `act`, which ends the stream, and then ends the turn, even if writing the end failed. */
  const endAfter = (state: TurnEnd, act: () => boolean) => {
    let taken = true;
    try {
      taken = act();
    } finally {
      if (taken) finish(state);
    }
  };

  const turn: Turn = {
    id: options.id,
    request,
    evidence,
    lease: options.lease,
    stream: createTurnStream(options.sink, {
      bufferBytes: options.bufferBytes,
      share: options.share,
      unread: options.unread,
      onPressure: (paused) => options.onPressure(turn, paused),
    }),
    actor,
    attempts: [],
    resolutions: 0,
    conflicts: 0,
    rests: 0,
    hops: 0,
    outcome: 'refused',
    decidedBy: null,
    maybeAt: null,
    awaitedSince: null,
    lapsedSince: null,
    silentSince: null,
    namedByKey: null,
    items: request.items,
    anchor: null,
    ancestor: null,
    contents: new Map(),
    parent: null,
    parentLine: null,
    expectedHead: null,
    continuation: null,
    history: null,
    wire: null,
    anchorRefused: false,
    responseId: null,
    streamed: [],
    listed: null,
    inexact: false,
    steered: 0,
    get output() {
      const { streamed, listed } = turn;
      if (listed === null || streamed.length > listed.length) return streamed;
      return listed.length > streamed.length || request.body.stream !== true ? listed : streamed;
    },
    hideEncrypted: false,
    usage: null,
    upstreamRequest: null,
    sawOutput: false,
    heldCreated: null,
    standing: null,
    ending: null,
    cause: null,
    times: { received: request.receivedAt, sent: null, firstEvent: null, ended: null },
    frameBytes: 0,
    get repeatable() {
      const { stream, ending } = turn;
      if (!stream.complete || stream.delivered) return false;
      return ending === null || (ending.terminal !== null && ending.terminal.type !== 'response.failed');
    },
    showCreated() {
      const held = turn.heldCreated;
      turn.heldCreated = null;
      if (held) turn.stream.push(held.type, held.json, false);
    },
    note(event) {
      if (!finished) actor.send(event);
    },
    fail(error) {
      error.outcome ??= turn.outcome;
      // A request that its client abandoned counts as cancelled; it is not reported as a failure.
      const state = error.code === 'bridge_turn_cancelled' ? 'cancelled' : 'failed';
      turn.ending ??= { state, terminal: null, fault: error.code, answer: null, error: null };
      const { state: end } = turn.ending;
      endAfter(end, () => turn.stream.finish({ kind: 'fail', error }));
    },
    served(terminal) {
      turn.ending ??= { state: terminal, terminal: null, fault: null, answer: null, error: null };
      turn.stream.abandon();
      finish(terminal);
    },
    forget(outdated) {
      const kept = turn.attempts.filter((fact) => !outdated(fact));
      turn.attempts.splice(0, turn.attempts.length, ...kept);
    },
    handOver() {
      turn.stream.abandon();
      finish('cancelled');
    },
    handedOver() {
      if (request.body.background !== true || turn.responseId === null || turn.ending) return false;
      turn.showCreated();
      const shown = request.body.stream === true ? null : turn.standing;
      turn.ending = {
        state: 'incomplete',
        terminal: shown === null ? null : { type: 'response.incomplete', json: shown },
        fault: 'bridge_upstream_lost',
        answer: null,
        error: null,
      };
      return true;
    },
    deliver() {
      const { ending } = turn;
      if (!ending || turn.stream.finished) return;
      endAfter(ending.state, () => {
        if (ending.terminal) return turn.stream.finish({ kind: 'end', ...ending.terminal });
        if (ending.answer) return turn.stream.finish({ kind: 'relay', answer: ending.answer });
        const error = ending.fault === null ? new BridgeError('bridge_internal') : faultError(turn, ending.fault);
        error.outcome = turn.outcome;
        return turn.stream.finish({ kind: 'fail', error });
      });
    },
    rewind() {
      turn.responseId = null;
      turn.streamed = [];
      turn.listed = null;
      turn.inexact = false;
      turn.steered = 0;
      turn.sawOutput = false;
      turn.heldCreated = null;
      turn.stream.rewind();
      actor.send({ type: 'commit' });
    },
  };
  return turn;
}
