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
  /** Whether this worker may still send under the identity that owns the session. */
  maySend(): boolean;
  creates(): number;
  /** Turn-state token of this epoch; the session's row is durable by now. */
  token(turn: Turn): string;
  turnState(turn: Turn): string | null;
  /** Headers of the answer that the provider has given so far. */
  headers(turn: Turn): AnswerHead['headers'];
  /** Releasing the client's status failed. */
  failed(error: unknown): void;
  send(event: SessionEvent): void;
}

/** Puts a committed turn on the wire. */
export interface Sender {
  /** Hands the turn's frame to the socket, or tells the machine why it did not. */
  send(turn: Turn): void;
  /** Stops waiting to release the client's status. */
  release(): void;
}

export function createSender(options: SenderOptions): Sender {
  const { socket, clock, config, abilities, targetId, send } = options;
  let cancelHold = () => {};

  /** After a while the client gets its status without an event: a slow model is not a slow bridge. */
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
   * A socket that cannot carry this turn is given up for an HTTP exchange. The machine dials it, because what the socket
   * held of the context may have to be loaded first.
   */
  const overHttp = (turn: Turn) => {
    if (turn.evidence.passThrough === null) turn.evidence = { ...turn.evidence, passThrough: 'oversize' };
    turn.outcome = 'passed_through';
    socket.close(1000, 'the turn goes over HTTP');
    send({ type: 'frame.not_sent', cause: 'socket' });
  };

  return {
    send(turn) {
      // The last look before bytes leave: between the verdict and now the lease may have lapsed.
      // A client that was told meanwhile that nothing was sent must have been told the truth.
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
