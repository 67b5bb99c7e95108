import type { SessionEvent } from '../../machines/session.ts';
import type { Config } from '../config.ts';
import type { SessionStore } from '../store/port.ts';
import { upstreamHeaders } from '../upstream/headers.ts';
import type { UpstreamAnswer, UpstreamTarget } from '../upstream/port.ts';
import { classifyRefusal } from '../upstream/refusal.ts';
import { loadHistory } from './history.ts';
import { anchorStored } from './placement.ts';
import { credentialOf } from './port.ts';
import type { SessionSocket } from './socket.ts';
import type { Turn, TurnEnding } from './turn.ts';

export interface DialerOptions {
  store: SessionStore;
  socket: SessionSocket;
  target: UpstreamTarget;
  deadlines: Pick<Config['deadlines'], 'connect'>;
  /** Upstreams that have turned out to speak no WebSocket. */
  httpOnly: { add(targetId: string): void; readonly fallback: boolean };
  /** The turn that wants the socket now. */
  current(): Turn | null;
  generation(): number;
  creates(): number;
  send(event: SessionEvent): void;
  /** The provider's own turn state, from a handshake. */
  learnTurnState(turn: Turn, value: string): void;
  /** A connection was opened, with these headers in the provider's answer. */
  opened(headers: Record<string, string>): void;
  onError(error: unknown): void;
}

/** Earns a session its socket, and gathers what a full send on it would need. */
export interface Dialer {
  /** Opens a connection of the current generation; the machine is told what came of it. */
  dial(): Promise<void>;
  /** The provider refused the anchor: it is struck off, and the whole context is sent once if it is exact. */
  resendWithoutAnchor(turn: Turn, relayed: TurnEnding): Promise<void>;
}

export function createDialer(options: DialerOptions): Dialer {
  const { store, socket, target, httpOnly, send } = options;

  /** What a full send of this turn needs beyond its own body. */
  async function historyFor(turn: Turn): Promise<'ready' | 'missing'> {
    if (turn.continuation?.kind !== 'anchored' || turn.history !== null || turn.parent === null) return 'ready';
    turn.history = await loadHistory(store, turn);
    return turn.history === null && (turn.anchorRefused || !anchorStored(turn)) ? 'missing' : 'ready';
  }

  function refused(turn: Turn, generation: number, answer: UpstreamAnswer): void {
    const meaning = classifyRefusal(answer);
    if (meaning === 'retry') return send({ type: 'socket.failed', generation });
    const fallBack = meaning === 'no_websocket' && httpOnly.fallback;
    if (fallBack) httpOnly.add(target.id);
    else turn.ending = { state: 'failed', terminal: null, fault: null, answer, error: null };
    send({ type: 'socket.refused', generation, relay: !fallBack });
  }

  async function attempt(turn: Turn, generation: number): Promise<void> {
    const how = turn.evidence.passThrough === null ? 'websocket' : 'http';
    const headers = upstreamHeaders({
      client: turn.request.headers,
      credential: credentialOf(turn.request.caller),
      transport: how,
      also: target.forwardHeaders,
    });
    const [outcome, history] = await Promise.all([
      socket.dial(generation, how, { target, headers, timeoutMs: options.deadlines.connect }),
      historyFor(turn),
    ]);
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
        return refused(turn, generation, outcome.answer);
      case 'failed':
        return send({ type: 'socket.failed', generation });
      case 'superseded':
    }
  }

  return {
    async dial() {
      const turn = options.current();
      if (!turn) return;
      const generation = options.generation();
      try {
        await attempt(turn, generation);
      } catch (error) {
        options.onError(error);
        send({ type: 'socket.failed', generation });
      }
    },
    async resendWithoutAnchor(turn, relayed) {
      turn.anchorRefused = true;
      const history = await historyFor(turn).catch(() => 'missing' as const);
      if (turn.ending || options.current() !== turn) return;
      if (history === 'ready' && options.creates() < 2) return send({ type: 'upstream.anchor_refused' });
      turn.ending = relayed;
      send({ type: 'upstream.ended', keepSocket: true });
    },
  };
}
