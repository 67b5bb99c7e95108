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
import type { ClientSink, TurnRequest } from './port.ts';
import type { Lease } from './quota.ts';
import { createTurnStream, type StreamOptions, type TurnStream } from './stream.ts';

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
export interface KnownTurn {
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
  ancestor: KnownTurn | null;
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
