import type { SessionEvent } from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import { planFor } from './placement.ts';
import type { AnswerHead } from './port.ts';
import type { SessionSocket } from './socket.ts';
import type { Turn } from './turn.ts';
import { composeFrame } from './wire.ts';

export interface SenderOptions {
  socket: SessionSocket;
  clock: Clock;
  config: Pick<Config, 'deadlines' | 'limits'>;
  sessionId: string;
  /** Whether this worker may still send under the identity that owns the session. */
  maySend(): boolean;
  creates(): number;
  /** Turn-state token of this epoch; the session's row is durable by now. */
  token(turn: Turn): string;
  turnState(turn: Turn): string | null;
  /** What the provider has said by now that the answer's headers shall say. */
  headers(turn: Turn): AnswerHead['headers'];
  send(event: SessionEvent): void;
}

/** Puts a committed turn on the wire. */
export interface Sender {
  /** Hands the turn's frame to the socket, or tells the machine why it did not. */
  send(turn: Turn): void;
  /** Stops waiting to release the client's status. */
  release(): void;
}

const utf8 = new TextEncoder();

/** Bytes of a frame; characters bound them from below, so most frames are never encoded twice. */
function exceeds(frame: string, limit: number): boolean {
  if (frame.length > limit) return true;
  return frame.length * 3 > limit && utf8.encode(frame).length > limit;
}

export function createSender(options: SenderOptions): Sender {
  const { socket, clock, config, send } = options;
  let cancelHold = () => {};

  /** After a while the client gets its status without an event: a slow model is not a slow bridge. */
  const holdStatus = (turn: Turn) => {
    cancelHold();
    cancelHold = clock.after(config.deadlines.statusHold, () => {
      turn.showCreated();
      turn.stream.sink.open();
    });
  };

  return {
    send(turn) {
      // The last look before bytes leave: between the verdict and now the lease may have lapsed.
      // A client that was told meanwhile that nothing was sent must have been told the truth.
      if (!options.maySend() || turn.stream.finished) return send({ type: 'frame.not_sent', cause: 'lease' });
      if (options.creates() > 1) turn.rewind();
      turn.wire = planFor(turn, socket.anchor);
      if (turn.wire.form === 'impossible') {
        turn.ending = { state: 'failed', terminal: null, fault: 'bridge_session_expired', answer: null, error: null };
        return send({ type: 'upstream.ended', keepSocket: false });
      }
      turn.stream.head({
        outcome: turn.outcome,
        sessionId: options.sessionId,
        token: options.token(turn),
        headers: options.headers(turn),
      });
      const frame = composeFrame(turn, options.turnState(turn));
      if (socket.kind === 'websocket' && exceeds(frame, config.limits.frameBytes)) {
        turn.fail(new BridgeError('bridge_frame_too_large'));
        return send({ type: 'upstream.ended', keepSocket: true });
      }
      turn.frameBytes = Buffer.byteLength(frame);
      if (!socket.send(frame)) return send({ type: 'frame.not_sent', cause: 'socket' });
      turn.times.sent = clock.now();
      turn.note({ type: 'send' });
      holdStatus(turn);
    },
    release: () => cancelHold(),
  };
}
