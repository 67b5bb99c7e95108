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

/** How a turn ended and what its client is to be told. */
export interface TurnEnding {
  state: TurnEnd;
  /** The terminal event as the client shall see it; null when the bridge or a refusal speaks instead. */
  terminal: { type: 'response.completed' | 'response.incomplete' | 'response.failed'; json: string } | null;
  /** Why the bridge speaks; null where the upstream's own word is relayed. */
  fault: BridgeCode | null;
  answer: UpstreamAnswer | null;
  error: UpstreamError | null;
}

/** Monotonic milliseconds of a turn's way, for its log line. */
export interface TurnTimes {
  received: number;
  sent: number | null;
  firstEvent: number | null;
  ended: number | null;
}

/** A stored turn together with the line it ends. */
export interface KnownTurn {
  row: TurnRow;
  line: Line;
}

/** One request on its way: what it asks, where it was placed, what came back. Owned by one session at a time. */
export interface Turn {
  readonly id: string;
  readonly request: TurnRequest;
  /** What it counts for among its tenant's requests. */
  readonly lease: Pick<Lease, 'run'>;
  /** Read once; only the way to the upstream may still be learned. */
  evidence: Evidence;
  readonly stream: TurnStream;
  readonly actor: Actor<TurnMachine>;
  /** Facts learned by failed placements; the resolver reads them. */
  readonly attempts: AttemptFact[];
  resolutions: number;
  /** Attempts that failed because the conversation moved meanwhile. */
  conflicts: number;
  /** Waits between two attempts to place it. */
  rests: number;
  /** Hops to other workers. */
  hops: number;
  outcome: Outcome;
  /** Id of the row of the resolution table that decided last; null where the warm session was used without it. */
  decidedBy: string | null;

  /** Another worker may have started this turn there: it may run here only once that is known not to be so. */
  maybeAt: { workerId: string; sessionId: string | null; epoch: number | null } | null;
  /** Monotonic milliseconds since when a silent owner is waited for. */
  awaitedSince: number | null;
  /** Monotonic milliseconds since when this worker's own lease is in doubt. */
  lapsedSince: number | null;
  /** Monotonic milliseconds since when the store has answered nothing that was asked for it. */
  silentSince: number | null;

  /** Session that the request's hard key names, by the rows read last. */
  namedByKey: string | null;

  /** The request's items. */
  readonly items: ReadItems;

  /** Row of the anchor, when the request has one that is known in its scope. */
  anchor: TurnRow | null;
  /** Deepest known turn whose line is the start of an unanchored request. */
  ancestor: KnownTurn | null;
  /** Texts of items that the provider did not keep, by item id: a full send holds them in place of what names them. */
  contents: ReadonlyMap<string, string>;
  parent: TurnRow | null;
  /** The line that the parent ends, when the request was compared with it. */
  parentLine: Line | null;
  expectedHead: string | null;
  continuation: Continuation | null;
  /** Exact texts of the items of the parent's lineage; null when not needed, not loaded or not exact. */
  history: readonly string[] | null;
  wire: WireForm | null;
  /** The provider refused the anchor: it is not tried again for this turn. */
  anchorRefused: boolean;

  responseId: string | null;
  /** Items as `response.output_item.done` showed them, those of steered predecessors first. */
  streamed: Written<Item>[];
  /** Items as the terminal event lists them, after those of steered predecessors; null until it came, or without a list. */
  listed: readonly Written<Item>[] | null;
  /** The provider's output held something that is not kept: the turn can be continued at the provider only. */
  inexact: boolean;
  /** How many of `streamed` belong to steered predecessors of the running response. */
  steered: number;
  /** The output in the form this turn's client has: as streamed, or as listed; whichever holds more items. */
  readonly output: readonly Written<Item>[];
  /** The bridge asked for encrypted reasoning that the client did not: it is kept for replays and not shown. */
  hideEncrypted: boolean;
  usage: unknown;
  /** The provider's own id of the request that was answered. */
  upstreamRequest: string | null;
  /** Something other than `response.created` and telemetry has arrived. */
  sawOutput: boolean;
  /** `response.created`, held back until a second event shows that the turn is really under way. */
  heldCreated: { type: string; json: string } | null;
  /** The last event that showed the whole response object, kept for background turns only. */
  standing: string | null;
  ending: TurnEnding | null;
  /** Why the upstream was not reached, or not over WebSocket: a code and a host. Null for a turn that was. */
  cause: string | null;
  readonly times: TurnTimes;
  frameBytes: number;

  /** Another reader may have all of it: it is kept from event 0, runs or has ended well, and no reader got its end. */
  readonly repeatable: boolean;

  /** Shows the client the `response.created` that was held back. */
  showCreated(): void;
  /** Moves the turn's own machine. */
  note(event: TurnEvent): void;
  /** Ends the turn with an error of the bridge, unless it has ended. */
  fail(error: BridgeError): void;
  /** Another worker has given its client everything. */
  served(terminal: TurnEnd): void;
  /** Drops what failed attempts taught, where it may not be so any more. */
  forget(outdated: (fact: AttemptFact) => boolean): void;
  /** Its client reads another turn's stream from now on: nothing more is said here. */
  handOver(): void;
  /**
   * Its connection has ended without a terminal. A background response goes on at the provider: the turn ends here as
   * `incomplete`, and its client gets the response object as it stood. False for any other turn.
   */
  handedOver(): boolean;
  /** Hands the prepared ending to the client, unless it has ended. */
  deliver(): void;
  /** Prepares the turn for its second create: nothing of the first attempt remains. */
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
  /** Called once, when the turn's client has got its terminal (or can no longer get one). */
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

/** Errors behind which there may be an upstream that could not be reached. */
const withCause = new Set<BridgeCode>(['bridge_upstream_unreachable', 'bridge_hold_expired']);

/** The client's error for a fault; that of an unreachable upstream names the cause. */
export function faultError({ cause }: Turn, fault: BridgeCode): BridgeError {
  return new BridgeError(fault, withCause.has(fault) && cause !== null ? { detail: `${cause}.` } : {});
}

/** A turn fresh from the HTTP face, placed nowhere yet. */
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

  /** The turn has ended once its stream has, also where writing its end failed. */
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
      // What nobody wanted any more was cancelled: it is no failure, and nobody needs its story.
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
