import type { SessionEvent } from '../../machines/session.ts';
import { elementTexts, membersOf, memberText, parseExact, type Written } from '../json.ts';
import { rewriteForClient } from '../transcript/shown.ts';
import type { Item } from '../transcript/types.ts';
import { upstreamAnswerOf } from '../upstream/errors.ts';
import { parseFrame } from '../upstream/frames.ts';
import type { ParsedFrame, UpstreamError } from '../upstream/port.ts';
import { refusesAnchor } from '../upstream/refusal.ts';
import type { SessionSocket } from './socket.ts';
import type { Turn, TurnEnding } from './turn.ts';

export interface FrameReaderOptions {
  socket: SessionSocket;
  now(): number;
  send(event: SessionEvent): void;
  /** The upstream showed a sign of progress: the silence deadline starts again. */
  touchSilence(): void;
  /** The provider's own turn state, kept for the same client turn. */
  learnTurnState(turn: Turn, value: string): void;
  /** The socket's loss may be made good by sending the turn once more. */
  mayResend(turn: Turn): boolean;
  /** The provider refused the anchor that we chose: strike it off and prepare a full send. */
  anchorRefused(turn: Turn, relayed: TurnEnding): void;
}

const isObject = (value: unknown) => typeof value === 'object' && value !== null;

const written = (json: string): Written<Item> => ({ value: parseExact(json) as Item, json });

/**
 * Reads the frames of one socket into the turn that is on the wire.
 *
 * A frame is a turn's only if it follows that turn's own `response.created`; what precedes it, and what names another
 * response, is a late frame of an earlier turn and reaches nobody. Telemetry is never progress.
 */
export function createFrameReader(options: FrameReaderOptions): (text: string, turn: Turn | null) => void {
  const { socket, send } = options;
  let lastEnded: string | null = null;

  const show = (turn: Turn, frame: ParsedFrame, text: string, telemetry: boolean) => {
    const anchor = turn.evidence.anchor;
    const hideEncrypted = turn.hideEncrypted;
    const json =
      telemetry || !frame.data
        ? text
        : rewriteForClient(text, frame.data, { previousResponseId: anchor, hideEncrypted });
    return { type: frame.type, json };
  };

  const created = (turn: Turn, frame: ParsedFrame, text: string) => {
    if (turn.responseId !== null) return;
    turn.responseId = frame.responseId;
    if (turn.times.firstEvent === null) turn.times.firstEvent = options.now();
    turn.note({ type: 'acknowledge' });
    options.touchSilence();
    send({ type: 'upstream.progress' });
    turn.showCreated();
    turn.heldCreated = show(turn, frame, text, false);
  };

  const event = (turn: Turn, frame: ParsedFrame, text: string) => {
    if (turn.responseId === null) return;
    if (frame.responseId !== null && frame.responseId !== turn.responseId) return;
    if (!turn.sawOutput) {
      turn.sawOutput = true;
      turn.note({ type: 'stream' });
    }
    options.touchSilence();
    if (frame.type === 'response.output_item.done') {
      const json = memberText(text, 'item');
      if (isObject(frame.data?.item) && json !== null) turn.streamed.push(written(json));
    }
    turn.showCreated();
    const { type, json } = show(turn, frame, text, false);
    if (turn.evidence.passThrough === 'background' && frame.data?.response) turn.standing = json;
    turn.stream.push(type, json, false);
    if (frame.type === 'response.incomplete') {
      // Steered: the successor follows with a `response.created` of its own and without a create of ours.
      turn.responseId = null;
      turn.steered = turn.streamed.length;
      turn.note({ type: 'steer' });
    }
  };

  const terminal = (turn: Turn, frame: ParsedFrame, text: string) => {
    if (turn.responseId === null && (frame.end !== 'failed' || frame.responseId === lastEnded)) return;
    if (turn.responseId !== null && frame.responseId !== null && frame.responseId !== turn.responseId) return;
    turn.showCreated();
    turn.responseId ??= frame.responseId;
    const response = frame.data?.response as { output?: unknown; usage?: unknown } | undefined;
    if (Array.isArray(response?.output)) {
      const place = membersOf(text, membersOf(text).get('response')?.start).get('output');
      const listed = elementTexts(text, place?.start).map(written);
      turn.listed = [...turn.streamed.slice(0, turn.steered), ...listed];
    }
    lastEnded = turn.responseId;
    turn.usage = response?.usage ?? null;
    const end = frame.end ?? 'failed';
    const { type, json } = show(turn, frame, text, false);
    turn.ending = {
      state: end,
      terminal: { type: type as 'response.completed', json },
      fault: null,
      answer: null,
      error: frame.error,
    };
    socket.anchor = end === 'failed' ? null : turn.responseId;
    send({ type: 'upstream.ended', keepSocket: end !== 'failed' && socket.kind === 'websocket' });
  };

  const failed = (turn: Turn, error: UpstreamError) => {
    const unanswered = turn.responseId === null;
    socket.anchor = null;
    if (error.code === 'websocket_connection_limit_reached' && options.mayResend(turn)) {
      const { generation } = socket;
      socket.close(1000, 'connection limit');
      send({ type: 'socket.lost', generation, resendable: true });
      return;
    }
    const ending: TurnEnding = { state: 'failed', terminal: null, fault: null, answer: upstreamAnswerOf(error), error };
    const ownAnchor = turn.wire?.form === 'delta' && turn.parent !== null;
    if (unanswered && refusesAnchor(error) && ownAnchor) {
      options.anchorRefused(turn, ending);
      return;
    }
    turn.showCreated();
    turn.ending = ending;
    const plainRefusal = unanswered && error.status >= 400 && error.status < 500;
    send({ type: 'upstream.ended', keepSocket: plainRefusal && socket.kind === 'websocket' });
  };

  return (text, turn) => {
    const frame = parseFrame(text);
    if (!turn || turn.ending) {
      if (frame.kind === 'error') {
        // Without a turn an error concerns the connection: it must not carry another one.
        const { generation } = socket;
        socket.close(1000, 'error frame without a turn');
        send({ type: 'socket.lost', generation, resendable: false });
      }
      return;
    }
    switch (frame.kind) {
      case 'malformed':
        return;
      case 'telemetry':
        turn.stream.push(frame.type, text, true);
        return;
      case 'turn_state':
        if (frame.turnState) options.learnTurnState(turn, frame.turnState);
        return;
      case 'created':
        return created(turn, frame, text);
      case 'event':
        return event(turn, frame, text);
      case 'terminal':
        return terminal(turn, frame, text);
      case 'error':
        return failed(turn, frame.error!);
    }
  };
}
