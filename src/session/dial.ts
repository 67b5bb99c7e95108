import type { SessionEvent } from '../../machines/session.ts';
import type { Config } from '../config.ts';
import { type SessionStore, StoreUnavailable } from '../store/port.ts';
import type { Abilities, Doubt } from '../upstream/abilities.ts';
import { instead, refusesCredential } from '../upstream/discreet.ts';
import { normaliseError } from '../upstream/errors.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import type { UpstreamAnswer, UpstreamError, UpstreamTarget } from '../upstream/port.ts';
import { classifyRefusal, refusesAnchor, refusesAnchors } from '../upstream/refusal.ts';
import { type FailureKind, hostOf } from '../upstream/unreachable.ts';
import { loadContents, loadHistory } from './history.ts';
import { anchorStored } from './placement.ts';
import { credentialOf } from './port.ts';
import { canSendFull, mayResend } from './resend.ts';
import type { DialOutcome, LostConnection, SessionSocket } from './socket.ts';
import type { Turn, TurnEnding } from './turn.ts';

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
  !evidence.credentialIsClients && refusesCredential(answer.status) ? instead(answer) : answer;

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
        const provided = outcome.headers['x-codex-turn-state'];
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
