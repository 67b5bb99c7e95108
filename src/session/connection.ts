import { TURN_STATE_HEADER } from '../headers.ts';
import { StoreUnavailable } from '../store/port.ts';
import type { Doubt } from '../upstream/abilities.ts';
import { classifyRefusal, hostOf, normaliseError, refusesAnchor, refusesAnchors } from '../upstream/errors.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import type { FailureKind, UpstreamAnswer, UpstreamError, UpstreamTarget } from '../upstream/port.ts';
import { credentialRefusalAnswer, refusesCredential } from '../upstream/redact.ts';
import type { DialOutcome, LostConnection, SessionCore } from './core.ts';
import { anchorStored, canSendFull, forgetFrame, frameOf, loadContents, loadHistory, mayResend } from './planning.ts';
import { credentialOf, isHidden } from './port.ts';
import type { Turn, TurnEnding } from './turn.ts';

/** WebSocket close code 1009: the message is too big. */
const TOO_LARGE = 1009;
/** WebSocket close code 1006: the connection ended without a close frame. */
const NO_CLOSE_FRAME = 1006;
/** Code with which gateways close a WebSocket that they accepted and cannot pass on. */
const INTERNAL_ERROR = 1011;

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

/** Sends this turn over HTTP from now on, including any later send of it. */
function leaveWebSocket(turn: Turn, cause: string): void {
  turn.evidence = { ...turn.evidence, passThrough: 'no_websocket' };
  turn.outcome = 'passed_through';
  turn.cause = cause;
}

/** Ends the turn: nothing was sent, and a retry would not change the result. */
function giveUp(turn: Turn, ending: Partial<TurnEnding>): void {
  turn.ending = { state: 'failed', terminal: null, fault: null, answer: null, error: null, ...ending };
}

/** Logs that a connection could not be established. */
function logFailure({ env, id }: SessionCore, { request: { requestId } }: Turn, cause: string): void {
  env.log.warn({ request: requestId, session: id, cause }, 'a connection to the upstream failed');
}

/** Opens a connection of the current generation and reports the result to the machine as an event. Never rejects. */
export async function dial(session: SessionCore): Promise<void> {
  const turn = session.turns.current;
  if (!turn) return;
  const { generation } = session.actor.context;
  try {
    await attempt(session, turn, generation);
  } catch (error) {
    // The store may answer at the next attempt; any other failure would occur again.
    if (error instanceof StoreUnavailable) return session.send({ type: 'socket.failed', generation });
    if (session.actor.context.generation === generation && session.turns.current === turn) {
      session.failed('preparing a socket', error);
    }
  }
}

async function attempt(session: SessionCore, turn: Turn, generation: number): Promise<void> {
  recall(session, turn);
  const [outcome, history] = await Promise.all([connect(session, turn, generation), historyFor(session, turn)]);
  if (history === 'missing') {
    session.socket.close(1000, 'not needed');
    return session.send({ type: 'history.missing', generation });
  }
  switch (outcome.kind) {
    case 'opened': {
      session.signals.opened(outcome.headers);
      const provided = outcome.headers[TURN_STATE_HEADER];
      if (provided) session.learnTurnState(turn, provided);
      return session.send({ type: 'socket.opened', generation });
    }
    case 'refused': {
      if (classifyRefusal(outcome.answer) === 'retry') break;
      const { status } = outcome.answer;
      // Below 400 the answer is neither an error nor a stream of this API, so a client could not read it.
      if (status >= 400) giveUp(turn, { answer: relayable(turn, outcome.answer) });
      else {
        turn.cause ??= `answered with ${status} at ${hostOf(session.target.baseUrl)}`;
        giveUp(turn, { fault: 'bridge_upstream_unreachable' });
      }
      return session.send({ type: 'socket.refused', generation });
    }
    case 'failed':
      if (!outcome.unreachable?.final && !outcome.unreachable?.byProxy) break;
      giveUp(turn, { fault: 'bridge_upstream_unreachable' });
      return session.send({ type: 'socket.refused', generation });
    case 'superseded':
      return;
  }
  session.send({ type: 'socket.failed', generation });
}

/** Applies what earlier turns found out about this upstream. */
function recall(session: SessionCore, turn: Turn): void {
  const { target } = session;
  const { abilities } = session.env;
  const peer = session.upstreamOf(turn);
  if (turn.parent?.replay === 'exact' && !abilities.takesAnchors(peer)) turn.anchorRefused = true;
  if (turn.evidence.passThrough !== null) return;
  if (abilities.withoutWebSocket(peer)) leaveWebSocket(turn, 'no WebSocket there');
  else if (abilities.isTooLarge(target.id, turn.frameBytes)) leaveWebSocket(turn, 'the frame is too large');
}

/**
 * Opens a connection. In `auto` mode a failed WebSocket attempt falls back to HTTP after a short timeout, so the turn
 * still gets an answer.
 */
async function connect(session: SessionCore, turn: Turn, generation: number): Promise<DialOutcome> {
  const { target } = session;
  const { abilities, config } = session.env;
  const { connect: connectMs, upgrade } = config.deadlines;
  if (turn.evidence.passThrough !== null) return open(session, turn, generation, 'http', connectMs);
  const { fallsBack } = abilities;
  // With a fallback, the rest of the deadline is reserved for HTTP. Without one, the attempt ends before the deadline
  // does, so that its cause is known.
  const timeoutMs = fallsBack ? Math.min(upgrade, connectMs / 2) : Math.floor(connectMs * 0.9);
  const outcome = await open(session, turn, generation, 'websocket', timeoutMs);
  if (outcome.kind !== 'refused' && outcome.kind !== 'failed') return outcome;
  const cause = causeOf(outcome, target);
  logFailure(session, turn, cause);
  const doubt = fallsBack ? doubtOf(outcome) : null;
  if (doubt === null) {
    turn.cause = cause;
    return outcome;
  }
  abilities.suspect(session.upstreamOf(turn), doubt);
  leaveWebSocket(turn, cause);
  return open(session, turn, generation, 'http', connectMs);
}

function open(
  session: SessionCore,
  turn: Turn,
  generation: number,
  how: 'websocket' | 'http',
  timeoutMs: number,
): Promise<DialOutcome> {
  const { target } = session;
  const { abilities } = session.env;
  const { caller } = turn.request;
  const peer = session.upstreamOf(turn);
  const headers = upstreamHeaders({
    client: turn.request.headers,
    credential: credentialOf(caller),
    transport: how,
    also: target.forwardHeaders,
  });
  // A conversation that begins at a known turn can continue it where a shared socket still holds it.
  const continues = session.turns.head?.responseId ?? null;
  const isWanted = () => session.socket.generation === generation;
  const wish = { scope: session.scope, most: target.lanes ?? 0, continues, isWanted };
  const sharing = wish.most > 0 && how === 'websocket' ? wish : undefined;
  const request = { target, headers, hidden: isHidden(caller), timeoutMs, sharing };
  return session.socket.dial(generation, how, request, (sign) => {
    if (how === 'http') return sign.kind === 'spoke' ? abilities.confirm(peer) : abilities.acquit(peer);
    if (sign.kind === 'spoke') abilities.works(peer);
    else if (sign.kind === 'ended' && sign.code !== TOO_LARGE) {
      abilities.dropped(peer, sign.code === NO_CLOSE_FRAME || sign.code === INTERNAL_ERROR || !sign.asked);
    }
  });
}

/**
 * Loads what a full send of this turn needs in addition to its own body: contents of referenced items and the history.
 */
async function historyFor({ env: { store } }: SessionCore, turn: Turn): Promise<'ready' | 'missing'> {
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

const frameNow = ({ socket, turnState }: SessionCore, turn: Turn, lent: string | null) =>
  frameOf(turn, socket.anchor ?? lent, turnState.for(turn.evidence.clientTurnId));

/**
 * Composes the frame of a turn whose start is being stored, so that it can leave as soon as that is answered. Never throws: what
 * fails here fails again, and is reported, when the frame is to be sent.
 */
export function prepareTurn(session: SessionCore, turn: Turn): void {
  try {
    if (session.socket.open) frameNow(session, turn, session.socket.lent);
  } catch {
    // See above.
  }
}

/** Hands the frame of a committed turn to the socket, or sends the machine an event with the reason why it did not. */
export function sendTurn(session: SessionCore, turn: Turn): void {
  const { socket, actor, env, target } = session;
  const { abilities, clock, config } = env;
  // Last check before bytes leave: the lease may have lapsed since the store's answer. And if the client was already
  // answered with "nothing was sent", that must remain true.
  if (!session.maySend || turn.stream.finished) return session.send({ type: 'frame.not_sent', cause: 'lease' });
  if (actor.context.creates > 1) turn.rewind();
  const { passThrough } = turn.evidence;
  if (socket.kind === 'websocket' && (passThrough === 'background' || passThrough === 'conversation')) {
    return moveToHttp(session, turn);
  }
  const rebuilt = turn.continuation?.kind !== 'anchored' || turn.history !== null;
  if (rebuilt && !abilities.takesAnchors(session.upstreamOf(turn))) turn.anchorRefused = true;
  if (socket.crowded && !turn.moved && canSendFull(turn)) {
    turn.moved = true;
    session.socket.close(1000, 'the socket is crowded');
    return session.send({ type: 'frame.not_sent', cause: 'socket' });
  }
  const { lent } = socket;
  const made = frameNow(session, turn, lent);
  turn.wire = made.wire;
  if (made.frame === null) {
    giveUp(turn, { fault: 'bridge_session_expired' });
    return session.send({ type: 'upstream.ended', keepSocket: false });
  }
  const { frame } = made;
  turn.frameBytes = made.bytes;
  const tooLarge = turn.frameBytes > config.limits.frameBytes || abilities.isTooLarge(target.id, turn.frameBytes);
  if (socket.kind === 'websocket' && tooLarge) return moveToHttp(session, turn);
  turn.stream.head({
    outcome: turn.outcome,
    sessionId: session.id,
    token: session.token(turn),
    headers: session.signals.forTurn(turn),
  });
  const borrows =
    turn.wire.form === 'delta' && turn.wire.previousResponseId === lent && !anchorStored(turn) ? lent : null;
  if (!socket.send(frame, turn, borrows)) return session.send({ type: 'frame.not_sent', cause: 'socket' });
  forgetFrame(turn);
  turn.times.sent = clock.now();
  turn.note({ type: 'send' });
  holdStatus(session, turn);
}

/**
 * Closes a socket that cannot carry this turn and moves the turn to HTTP. The machine dials the exchange, because the
 * context that the socket held may have to be loaded first.
 */
function moveToHttp(session: SessionCore, turn: Turn): void {
  if (turn.evidence.passThrough === null) turn.evidence = { ...turn.evidence, passThrough: 'oversize' };
  turn.outcome = 'passed_through';
  session.socket.close(1000, 'the turn goes over HTTP');
  session.send({ type: 'frame.not_sent', cause: 'socket' });
}

/**
 * Releases the client's status after `statusHold` even without an event, so that a slow model does not look like a slow
 * bridge.
 */
function holdStatus(session: SessionCore, turn: Turn): void {
  const { clock, config } = session.env;
  session.cancelStatusHold?.();
  session.cancelStatusHold = clock.after(config.deadlines.statusHold, () => {
    try {
      turn.showCreated();
      turn.stream.sink.open();
    } catch (error) {
      session.failed("a client's status", error);
    }
  });
}

/** Handles the loss of the connection of that generation. */
export function connectionLost(session: SessionCore, generation: number, { code, unreachable }: LostConnection): void {
  const { target } = session;
  const { abilities } = session.env;
  const turn = session.turnOnWire;
  if (turn?.leaveInBackground()) return session.send({ type: 'upstream.ended', keepSocket: false });
  if (turn && unreachable) {
    turn.cause = unreachable.text;
    logFailure(session, turn, unreachable.text);
    giveUp(turn, { fault: 'bridge_upstream_unreachable' });
    return session.send({ type: 'upstream.ended', keepSocket: false });
  }
  let untaken = turn?.untaken ?? false;
  if (turn && code === TOO_LARGE && turn.responseId === null && turn.evidence.passThrough === null) {
    untaken = true;
    if (abilities.fallsBack) abilities.tooLarge(target.id, turn.frameBytes);
  }
  if (turn) turn.untaken = false;
  const resendable = turn !== null && mayResend(turn, untaken) && canSendFull(turn);
  session.send({ type: 'socket.lost', generation, resendable });
}

/** Handles a refusal of an HTTP exchange. Its connection ends right afterwards. */
export function exchangeRefused(session: SessionCore, turn: Turn, answer: UpstreamAnswer): void {
  const error = normaliseError(answer);
  const ownAnchor = turn.wire?.form === 'delta' && turn.parent?.replay === 'exact';
  if (ownAnchor && refusesAnchor(error) && session.actor.context.creates < 2) {
    rememberRefusedAnchor(session, turn, error);
    turn.untaken = true;
    return;
  }
  giveUp(turn, { answer });
  session.send({ type: 'upstream.ended', keepSocket: false });
}

/** Drops an anchor that the provider refused. If the provider refuses every anchor, no later turn sends one. */
function rememberRefusedAnchor(session: SessionCore, turn: Turn, error: UpstreamError | null): void {
  if (error && refusesAnchors(error)) session.env.abilities.refusesAnchors(session.upstreamOf(turn));
  turn.anchorRefused = true;
}

/**
 * Drops an anchor that the provider refused and sends the whole context once, if it is known exactly. Otherwise the turn
 * ends with `relayed`. Never rejects.
 */
export async function resendWithoutAnchor(session: SessionCore, turn: Turn, relayed: TurnEnding): Promise<void> {
  try {
    rememberRefusedAnchor(session, turn, relayed.error);
    const history = await historyFor(session, turn).catch(() => 'missing' as const);
    if (turn.ending || session.turns.current !== turn) return;
    if (history === 'ready' && session.actor.context.creates < 2) {
      return session.send({ type: 'upstream.anchor_refused' });
    }
    turn.ending = relayed;
    session.send({ type: 'upstream.ended', keepSocket: true });
  } catch (error) {
    if (!turn.ending && session.turns.current === turn) session.failed('preparing a socket', error);
  }
}

/**
 * Like `resendWithoutAnchor`, for a response that had already begun: its connection is closed.
 *
 * @returns false if the turn cannot be sent again; it then ends with the provider's error
 */
export function resendOnNewConnection(session: SessionCore, turn: Turn, error: UpstreamError | null): boolean {
  const { socket } = session;
  if (session.actor.context.creates > 1 || !mayResend(turn, true) || !canSendFull(turn)) return false;
  rememberRefusedAnchor(session, turn, error);
  const { generation } = socket;
  socket.close(1000, 'the anchor was refused');
  session.send({ type: 'socket.lost', generation, resendable: true });
  return true;
}

/**
 * Handles an answer to an anchored frame that does not continue the anchor: the upstream ignores anchors, and generates without
 * the conversation. The turn is sent again in full, or ends with the code on which clients send everything.
 */
export function anchorIgnored(session: SessionCore, turn: Turn): void {
  const { env, id } = session;
  env.abilities.refusesAnchors(session.upstreamOf(turn));
  env.log.warn(
    { request: turn.request.requestId, session: id },
    'the upstream ignores previous_response_id: it gets whole conversations from now on',
  );
  if (turn.parent !== null && resendOnNewConnection(session, turn, null)) return;
  giveUp(turn, { fault: 'bridge_session_expired' });
  session.send({ type: 'upstream.ended', keepSocket: false });
}

/** Handles a turn whose first event did not arrive in time. */
export function firstEventOverdue(session: SessionCore, turn: Turn): void {
  const { socket, env } = session;
  // Some gateways accept an upgrade and then forward nothing. This turn may be running upstream, so only later turns use
  // HTTP.
  if (socket.kind === 'websocket' && socket.unheard) env.abilities.suspect(session.upstreamOf(turn), 'doubtful');
}
