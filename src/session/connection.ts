import type { SessionEvent } from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { TURN_STATE_HEADER } from '../headers.ts';
import { type SessionStore, StoreUnavailable } from '../store/port.ts';
import type { Abilities, Doubt } from '../upstream/abilities.ts';
import {
  classifyRefusal,
  hostOf,
  isApiError,
  normaliseError,
  refusesAnchor,
  refusesAnchors,
} from '../upstream/errors.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import type {
  ConnectionHandlers,
  DialResult,
  FailureKind,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamError,
  UpstreamTarget,
  UpstreamTransport,
} from '../upstream/port.ts';
import { credentialRefusalAnswer, refusesCredential } from '../upstream/redact.ts';
import { anchorStored, canSendFull, composeFrame, loadContents, loadHistory, mayResend, planFor } from './planning.ts';
import { type AnswerHead, credentialOf } from './port.ts';
import type { Turn, TurnEnding } from './turn.ts';

/** Result of one dial, for the machine. */
export type DialOutcome =
  | { kind: 'opened'; headers: Record<string, string> }
  | { kind: 'superseded' }
  | Exclude<DialResult, { kind: 'open' }>;

/** The end of a connection. */
export type LostConnection = Parameters<ConnectionHandlers['closed']>[0];

/** First observable event on a connection. */
export type FirstSign =
  /** It delivered an answer of an API: a frame, or over HTTP a refusal in the API's format. */
  | { kind: 'spoke' }
  /** It delivered anything else over HTTP. */
  | { kind: 'babbled' }
  /** It ended. `asked`: a frame had been sent on it. */
  | { kind: 'ended'; code: number; asked: boolean };

export interface SessionSocketOptions {
  transport: UpstreamTransport;
  clock: Pick<Clock, 'now' | 'after'>;
  onFrame(text: string): void;
  onLost(generation: number, how: LostConnection): void;
  onRefused(answer: Extract<DialResult, { kind: 'refused' }>['answer']): void;
  /** Called when reading was paused for so long that the upstream would soon consider this end dead. */
  onStuck(): void;
  /** Returns false if the upstream refuses anchors: then no connection holds one. */
  takesAnchors(): boolean;
}

/**
 * Maximum time for which reading from the upstream is paused, in milliseconds. Pings are not answered during a pause,
 * and common servers ping every 20 s and close the connection 20 s later. A client that reads nothing for this long,
 * with a full buffer, must not cost the socket.
 */
const UNREAD_MOST_MS = 15_000;

/**
 * The single upstream connection of a session. Each connection belongs to a generation. Events from a connection of an
 * older generation are ignored, so frames of a cancelled turn cannot reach another turn.
 */
export interface SessionSocket {
  readonly generation: number;
  readonly open: boolean;
  readonly kind: UpstreamConnection['kind'] | null;
  /** Id of the last successful response on this connection; null after any error, failure or cancel. */
  anchor: string | null;
  /** True if a frame was sent on this connection and nothing has been received on it. */
  readonly unheard: boolean;
  /** Time at which the connection opened, in monotonic milliseconds. */
  readonly openedAt: number;
  /**
   * Opens a connection of the given generation. An HTTP exchange counts as open at once.
   *
   * @param onSign called once for each connection that opened, with the first event on it
   * @returns `superseded` if another generation was dialed or the socket was closed in the meantime
   */
  dial(
    generation: number,
    how: 'websocket' | 'http',
    request: Parameters<UpstreamTransport['dial']>[0],
    onSign: (sign: FirstSign) => void,
  ): Promise<DialOutcome>;
  /**
   * Sends the frame of a turn. Frames read afterwards belong to this turn. A pause requested by another turn ends.
   *
   * @returns false if the connection did not take the frame
   */
  send(frame: string, turn: object): boolean;
  /** Pauses or resumes reading for the turn on this connection. Calls for any other turn have no effect. */
  pause(turn: object, paused: boolean): void;
  /** Notes that the turn on this connection has ended and resumes reading. */
  free(): void;
  close(code?: number, reason?: string): void;
}

/** Creates the upstream connection of a session; none is open at first. */
export function createSessionSocket(options: SessionSocketOptions): SessionSocket {
  let connection: UpstreamConnection | null = null;
  let generation = 0;
  let openedAt = 0;
  let anchor: string | null = null;
  let stopPatience: (() => void) | null = null;
  /** The turn whose frame was sent last and whose answer has not ended. Only this turn can pause reading. */
  let reader: object | null = null;

  let asked = false;
  let heard = false;

  const handlers = (mine: UpstreamConnection, at: number, onSign: (sign: FirstSign) => void): ConnectionHandlers => {
    let silent = true;
    const first = (sign: FirstSign) => {
      if (silent) onSign(sign);
      silent = false;
    };
    return {
      frame: (text) => {
        if (mine !== connection) return;
        heard = true;
        first({ kind: mine.kind === 'http' && text.startsWith('{"type":"error"') ? 'babbled' : 'spoke' });
        options.onFrame(text);
      },
      refused: (answer) => {
        if (mine !== connection) return;
        first({ kind: isApiError(answer) ? 'spoke' : 'babbled' });
        options.onRefused(answer);
      },
      closed: (how) => {
        if (mine !== connection) return;
        first({ kind: 'ended', code: how.code, asked });
        forget();
        options.onLost(at, how);
      },
    };
  };
  const forget = () => {
    connection = null;
    anchor = null;
    reader = null;
    stopPatience?.();
    stopPatience = null;
  };
  const goOn = () => {
    stopPatience?.();
    stopPatience = null;
    connection?.resume();
  };

  const socket: SessionSocket = {
    get anchor() {
      return anchor;
    },
    set anchor(id) {
      anchor = id !== null && options.takesAnchors() ? id : null;
    },
    get generation() {
      return generation;
    },
    get open() {
      return connection?.open ?? false;
    },
    get kind() {
      return connection?.kind ?? null;
    },
    get unheard() {
      return connection !== null && asked && !heard;
    },
    get openedAt() {
      return openedAt;
    },
    async dial(wanted, how, request, onSign) {
      generation = wanted;
      const result: DialResult =
        how === 'http'
          ? { kind: 'open', connection: options.transport.exchange(request), headers: {} }
          : await options.transport.dial(request);
      if (result.kind !== 'open') return generation === wanted ? result : { kind: 'superseded' };
      if (generation !== wanted) {
        result.connection.close(1000, 'not wanted any more');
        return { kind: 'superseded' };
      }
      connection = result.connection;
      openedAt = options.clock.now();
      anchor = null;
      asked = false;
      heard = false;
      connection.attach(handlers(connection, wanted, onSign));
      return { kind: 'opened', headers: result.headers };
    },
    send(frame, turn) {
      goOn();
      asked = connection?.send(frame) ?? false;
      reader = asked ? turn : null;
      return asked;
    },
    pause(turn, paused) {
      if (turn !== reader) return;
      if (!paused) return goOn();
      connection?.pause();
      if (connection?.kind === 'websocket') stopPatience ??= options.clock.after(UNREAD_MOST_MS, options.onStuck);
    },
    free() {
      reader = null;
      goOn();
    },
    close(code, reason) {
      const old = connection;
      forget();
      generation = -1;
      old?.close(code, reason);
    },
  };
  return socket;
}

export interface DialerOptions {
  store: SessionStore;
  socket: SessionSocket;
  target: UpstreamTarget;
  deadlines: Pick<Config['deadlines'], 'connect' | 'upgrade'>;
  abilities: Abilities;
  /** Returns the turn that currently needs the socket, or null. */
  current(): Turn | null;
  generation(): number;
  creates(): number;
  send(event: SessionEvent): void;
  /** Called with the provider's own turn state from a handshake. */
  learnTurnState(turn: Turn, value: string): void;
  /** Called when a connection was opened, with the headers of the provider's answer. */
  opened(headers: Record<string, string>): void;
  /** Called when something other than the upstream or the store failed: the turn cannot continue. */
  failed(error: unknown): void;
  /**
   * Called when a connection could not be established.
   *
   * @param cause readable cause: a code or a status, and the host
   */
  onFailure(turn: Turn, cause: string): void;
}

/** Opens the session's upstream connections and loads the data that a full send needs. */
export interface Dialer {
  /** Opens a connection of the current generation and reports the result to the machine as an event. Never rejects. */
  dial(): Promise<void>;
  /**
   * Handles the loss of the connection of that generation.
   *
   * @param turn the turn that was on the wire, if any
   */
  lost(turn: Turn | null, generation: number, how: LostConnection): void;
  /** Handles a refusal of an HTTP exchange. Its connection ends right afterwards. */
  refused(turn: Turn, answer: UpstreamAnswer): void;
  /**
   * Drops an anchor that the provider refused and sends the whole context once, if it is known exactly. Otherwise the
   * turn ends with `relayed`.
   */
  resendWithoutAnchor(turn: Turn, relayed: TurnEnding): Promise<void>;
  /**
   * Like `resendWithoutAnchor`, for a response that had already begun: its connection is closed.
   *
   * @returns false if the turn cannot be sent again
   */
  resendElsewhere(turn: Turn, error: UpstreamError): boolean;
  /** Handles a turn whose first event did not arrive in time. */
  overdue(turn: Turn): void;
}

/** WebSocket close code 1009: the message is too big. */
const TOO_LARGE = 1009;
/** WebSocket close code 1006: the connection ended without a close frame. */
const NO_CLOSE_FRAME = 1006;

/** Failures that occur before the remote end could show whether it supports WebSocket. */
const beforeAnyAnswer = new Set<FailureKind>(['dns', 'network', 'refused', 'tls']);

/**
 * Returns how strongly a failed dial suggests that the upstream does not support WebSocket. Null if HTTP would fail in
 * the same way.
 */
function doubtOf(outcome: Extract<DialOutcome, { kind: 'refused' | 'failed' }>): Doubt | null {
  if (outcome.kind === 'failed') {
    return outcome.unreachable && beforeAnyAnswer.has(outcome.unreachable.kind) ? null : 'doubtful';
  }
  const meaning = classifyRefusal(outcome.answer);
  return meaning === 'relay' ? null : meaning === 'retry' ? 'doubtful' : 'certain';
}

/**
 * Describes why a dial failed, for logs and users: the failure and the host. Never includes any part of an answer's
 * body.
 */
function causeOf(outcome: Extract<DialOutcome, { kind: 'refused' | 'failed' }>, { baseUrl }: UpstreamTarget): string {
  if (outcome.kind === 'failed') return outcome.unreachable?.text ?? `${outcome.reason} at ${hostOf(baseUrl)}`;
  return `the upgrade was answered with ${outcome.answer.status} at ${hostOf(baseUrl)}`;
}

/**
 * Replaces an answer that refuses a credential which is not the client's own: details about the shared credential must
 * not reach the client.
 */
const relayable = ({ evidence }: Turn, answer: UpstreamAnswer): UpstreamAnswer =>
  !evidence.credentialIsClients && refusesCredential(answer.status) ? credentialRefusalAnswer(answer) : answer;

/** Creates the dialer of a session. */
export function createDialer(options: DialerOptions): Dialer {
  const { store, socket, target, abilities, send } = options;
  /** The turn on the wire that the upstream reported as not accepted. */
  let untaken: Turn | null = null;

  const peerOf = (turn: Turn) => ({ targetId: target.id, credentialFp: turn.evidence.credentialFp });

  /** Sends this turn over HTTP from now on, including any later send of it. */
  function leaveWebSocket(turn: Turn, cause: string): void {
    turn.evidence = { ...turn.evidence, passThrough: 'no_websocket' };
    turn.outcome = 'passed_through';
    turn.cause = cause;
  }

  /**
   * Loads what a full send of this turn needs in addition to its own body: contents of referenced items and the
   * history.
   */
  async function historyFor(turn: Turn): Promise<'ready' | 'missing'> {
    const { scope, references, store: stored } = turn.evidence;
    const unread = stored ? [] : references.filter((id) => !turn.contents.has(id));
    if (turn.parent !== null && unread.length > 0) {
      const read = await loadContents(store, scope, [turn.parent.id], unread);
      turn.contents = new Map([...turn.contents, ...read]);
    }
    if (turn.continuation?.kind !== 'anchored' || turn.history !== null || turn.parent === null) return 'ready';
    // The provider stores the anchor. If it refuses the anchor later, this function runs again and loads the history.
    if (anchorStored(turn)) return 'ready';
    turn.history = await loadHistory(store, turn);
    return turn.history === null ? 'missing' : 'ready';
  }

  function open(turn: Turn, generation: number, how: 'websocket' | 'http', timeoutMs: number): Promise<DialOutcome> {
    const peer = peerOf(turn);
    const headers = upstreamHeaders({
      client: turn.request.headers,
      credential: credentialOf(turn.request.caller),
      transport: how,
      also: target.forwardHeaders,
    });
    return socket.dial(generation, how, { target, headers, timeoutMs }, (sign) => {
      if (how === 'http') return sign.kind === 'spoke' ? abilities.confirm(peer) : abilities.acquit(peer);
      if (sign.kind === 'spoke') abilities.works(peer);
      else if (sign.kind === 'ended' && sign.code !== TOO_LARGE) {
        abilities.dropped(peer, sign.code === NO_CLOSE_FRAME || !sign.asked);
      }
    });
  }

  /**
   * Opens a connection. In `auto` mode a failed WebSocket attempt falls back to HTTP after a short timeout, so the turn
   * still gets an answer.
   */
  async function connect(turn: Turn, generation: number): Promise<DialOutcome> {
    const { connect: connectMs, upgrade } = options.deadlines;
    if (turn.evidence.passThrough !== null) return open(turn, generation, 'http', connectMs);
    const { fallsBack } = abilities;
    // With a fallback, the rest of the deadline is reserved for HTTP. Without one, the attempt ends before the deadline
    // does, so that its cause is known.
    const timeoutMs = fallsBack ? Math.min(upgrade, connectMs / 2) : Math.floor(connectMs * 0.9);
    const outcome = await open(turn, generation, 'websocket', timeoutMs);
    if (outcome.kind !== 'refused' && outcome.kind !== 'failed') return outcome;
    const cause = causeOf(outcome, target);
    options.onFailure(turn, cause);
    const doubt = fallsBack ? doubtOf(outcome) : null;
    if (doubt === null) {
      turn.cause = cause;
      return outcome;
    }
    abilities.suspect(peerOf(turn), doubt);
    leaveWebSocket(turn, cause);
    return open(turn, generation, 'http', connectMs);
  }

  /** Applies what earlier turns found out about this upstream. */
  function recall(turn: Turn): void {
    const peer = peerOf(turn);
    if (turn.parent?.replay === 'exact' && !abilities.takesAnchors(peer)) turn.anchorRefused = true;
    if (turn.evidence.passThrough !== null) return;
    if (abilities.withoutWebSocket(peer)) leaveWebSocket(turn, 'no WebSocket there');
    else if (abilities.isTooLarge(target.id, turn.frameBytes)) leaveWebSocket(turn, 'the frame is too large');
  }

  /** Ends the turn: nothing was sent, and a retry would not change the result. */
  function giveUp(turn: Turn, ending: Partial<TurnEnding>): void {
    turn.ending = { state: 'failed', terminal: null, fault: null, answer: null, error: null, ...ending };
  }

  async function attempt(turn: Turn, generation: number): Promise<void> {
    recall(turn);
    const [outcome, history] = await Promise.all([connect(turn, generation), historyFor(turn)]);
    if (history === 'missing') {
      socket.close(1000, 'not needed');
      return send({ type: 'history.missing', generation });
    }
    switch (outcome.kind) {
      case 'opened': {
        options.opened(outcome.headers);
        const provided = outcome.headers[TURN_STATE_HEADER];
        if (provided) options.learnTurnState(turn, provided);
        return send({ type: 'socket.opened', generation });
      }
      case 'refused':
        if (classifyRefusal(outcome.answer) === 'retry') break;
        giveUp(turn, { answer: relayable(turn, outcome.answer) });
        return send({ type: 'socket.refused', generation });
      case 'failed':
        if (!outcome.unreachable?.final && !outcome.unreachable?.byProxy) break;
        giveUp(turn, { fault: 'bridge_upstream_unreachable' });
        return send({ type: 'socket.refused', generation });
      case 'superseded':
        return;
    }
    send({ type: 'socket.failed', generation });
  }

  async function sendWhole(turn: Turn, relayed: TurnEnding): Promise<void> {
    if (relayed.error && refusesAnchors(relayed.error)) abilities.refusesAnchors(peerOf(turn));
    turn.anchorRefused = true;
    const history = await historyFor(turn).catch(() => 'missing' as const);
    if (turn.ending || options.current() !== turn) return;
    if (history === 'ready' && options.creates() < 2) return send({ type: 'upstream.anchor_refused' });
    turn.ending = relayed;
    send({ type: 'upstream.ended', keepSocket: true });
  }

  return {
    async dial() {
      const turn = options.current();
      if (!turn) return;
      const generation = options.generation();
      try {
        await attempt(turn, generation);
      } catch (error) {
        // The store may answer at the next attempt; any other failure would occur again.
        if (error instanceof StoreUnavailable) return send({ type: 'socket.failed', generation });
        if (options.generation() === generation && options.current() === turn) options.failed(error);
      }
    },
    lost(turn, generation, { code, unreachable }) {
      if (turn?.handedOver()) return send({ type: 'upstream.ended', keepSocket: false });
      if (turn && unreachable) {
        turn.cause = unreachable.text;
        options.onFailure(turn, unreachable.text);
        giveUp(turn, { fault: 'bridge_upstream_unreachable' });
        return send({ type: 'upstream.ended', keepSocket: false });
      }
      if (turn && code === TOO_LARGE && turn.responseId === null && turn.evidence.passThrough === null) {
        untaken = turn;
        if (abilities.fallsBack) abilities.tooLarge(target.id, turn.frameBytes);
      }
      const resendable = turn !== null && mayResend(turn, untaken === turn) && canSendFull(turn);
      untaken = null;
      send({ type: 'socket.lost', generation, resendable });
    },
    refused(turn, answer) {
      const error = normaliseError(answer);
      const ownAnchor = turn.wire?.form === 'delta' && turn.parent?.replay === 'exact';
      if (ownAnchor && refusesAnchor(error) && options.creates() < 2) {
        if (refusesAnchors(error)) abilities.refusesAnchors(peerOf(turn));
        turn.anchorRefused = true;
        untaken = turn;
        return;
      }
      giveUp(turn, { answer });
      send({ type: 'upstream.ended', keepSocket: false });
    },
    async resendWithoutAnchor(turn, relayed) {
      try {
        await sendWhole(turn, relayed);
      } catch (error) {
        if (!turn.ending && options.current() === turn) options.failed(error);
      }
    },
    overdue(turn) {
      // Some gateways accept an upgrade and then forward nothing. This turn may be running upstream, so only later
      // turns use HTTP.
      if (socket.kind === 'websocket' && socket.unheard) abilities.suspect(peerOf(turn), 'doubtful');
    },
    resendElsewhere(turn, error) {
      if (options.creates() > 1 || !mayResend(turn, true) || !canSendFull(turn)) return false;
      if (refusesAnchors(error)) abilities.refusesAnchors(peerOf(turn));
      turn.anchorRefused = true;
      const { generation } = socket;
      socket.close(1000, 'the anchor was refused');
      send({ type: 'socket.lost', generation, resendable: true });
      return true;
    },
  };
}

export interface SenderOptions {
  socket: SessionSocket;
  clock: Clock;
  config: Pick<Config, 'deadlines' | 'limits'>;
  abilities: Abilities;
  targetId: string;
  sessionId: string;
  /** Returns whether this worker still has the identity that owns the session, and a valid lease. */
  maySend(): boolean;
  creates(): number;
  /** Returns the turn-state token of this epoch. Called only once the session's row is durable. */
  token(turn: Turn): string;
  turnState(turn: Turn): string | null;
  /** Returns the answer headers that the provider has sent so far. */
  headers(turn: Turn): AnswerHead['headers'];
  /** Called when releasing the client's status failed. */
  failed(error: unknown): void;
  send(event: SessionEvent): void;
}

/** Sends committed turns on the session's socket. */
export interface Sender {
  /** Hands the turn's frame to the socket, or sends the machine an event with the reason why it did not. */
  send(turn: Turn): void;
  /** Cancels the timer that releases the client's status. */
  release(): void;
}

/** Creates the sender of a session. */
export function createSender(options: SenderOptions): Sender {
  const { socket, clock, config, abilities, targetId, send } = options;
  let cancelHold = () => {};

  /**
   * Releases the client's status after `statusHold` even without an event, so that a slow model does not look like a
   * slow bridge.
   */
  const holdStatus = (turn: Turn) => {
    cancelHold();
    cancelHold = clock.after(config.deadlines.statusHold, () => {
      try {
        turn.showCreated();
        turn.stream.sink.open();
      } catch (error) {
        options.failed(error);
      }
    });
  };

  /**
   * Closes a socket that cannot carry this turn and moves the turn to HTTP. The machine dials the exchange, because the
   * context that the socket held may have to be loaded first.
   */
  const overHttp = (turn: Turn) => {
    if (turn.evidence.passThrough === null) turn.evidence = { ...turn.evidence, passThrough: 'oversize' };
    turn.outcome = 'passed_through';
    socket.close(1000, 'the turn goes over HTTP');
    send({ type: 'frame.not_sent', cause: 'socket' });
  };

  return {
    send(turn) {
      // Last check before bytes leave: the lease may have lapsed since the store's answer. And if the client was
      // already answered with "nothing was sent", that must remain true.
      if (!options.maySend() || turn.stream.finished) return send({ type: 'frame.not_sent', cause: 'lease' });
      if (options.creates() > 1) turn.rewind();
      const { passThrough, credentialFp } = turn.evidence;
      if (socket.kind === 'websocket' && (passThrough === 'background' || passThrough === 'conversation')) {
        return overHttp(turn);
      }
      const rebuilt = turn.continuation?.kind !== 'anchored' || turn.history !== null;
      if (rebuilt && !abilities.takesAnchors({ targetId, credentialFp })) turn.anchorRefused = true;
      turn.wire = planFor(turn, socket.anchor);
      if (turn.wire.form === 'impossible') {
        turn.ending = { state: 'failed', terminal: null, fault: 'bridge_session_expired', answer: null, error: null };
        return send({ type: 'upstream.ended', keepSocket: false });
      }
      const frame = composeFrame(turn, options.turnState(turn));
      turn.frameBytes = Buffer.byteLength(frame);
      const tooLarge = turn.frameBytes > config.limits.frameBytes || abilities.isTooLarge(targetId, turn.frameBytes);
      if (socket.kind === 'websocket' && tooLarge) return overHttp(turn);
      turn.stream.head({
        outcome: turn.outcome,
        sessionId: options.sessionId,
        token: options.token(turn),
        headers: options.headers(turn),
      });
      if (!socket.send(frame, turn)) return send({ type: 'frame.not_sent', cause: 'socket' });
      turn.times.sent = clock.now();
      turn.note({ type: 'send' });
      holdStatus(turn);
    },
    release: () => cancelHold(),
  };
}
