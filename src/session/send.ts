import type { SessionEvent } from '../../machines/session.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import type { Abilities } from '../upstream/abilities.ts';
import { planFor } from './placement.ts';
import type { AnswerHead } from './port.ts';
import type { SessionSocket } from './socket.ts';
import type { Turn } from './turn.ts';
import { composeFrame } from './wire.ts';

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
