import { systemClock } from '../clock.ts';

export interface PulseTimes {
  /** Between two pings to a peer that says nothing, milliseconds; 0 sends none. */
  pingMs: number;
  /** How long a ping may stay unanswered, milliseconds. */
  pongMs: number;
}

export interface PulseOptions {
  times: PulseTimes;
  /** Bytes read from the peer so far: whatever comes is a sign of life, down to half of a frame. */
  bytesRead(): number;
  /** Whether anything is read at all; while it is not, silence says nothing about the peer. */
  reading(): boolean;
  ping(): void;
  dead(): void;
}

/** Watches over one open WebSocket, with at most one timer. */
export interface Pulse {
  /** A frame of about that many bytes was handed to the socket. */
  sent(bytes: number): void;
  /** A pong came. */
  pong(): void;
  /** Reading goes on after it was held back: what the peer has sent meanwhile is still to be read. */
  resumed(): void;
  stop(): void;
}

/**
 * In a row, outside the moment after a frame. A pong is required by RFC 6455, but a peer that is busy sends it late, and
 * with a turn half done a false alarm costs its answer: then three unanswered pings are asked of it.
 */
const MISSES = 3;

/** The slowest way out that is expected, bytes a millisecond: a ping waits behind the frame it goes with. */
const SLOWEST_UPLOAD = 64;

/**
 * Finds out that the other side of a socket is gone although no FIN and no RST ever came: a middlebox that forgot the
 * connection, a machine that lost power.
 *
 * Every frame takes a ping along, except the first of a connection. If neither a pong nor anything else arrives in time,
 * the socket is dead: nothing of that turn was shown, and it can be sent again. In all other silence, idle or in a turn,
 * three pings in a row must stay unanswered.
 *
 * Only a peer that has answered a ping before is judged. One that never does, as some gateways, is left to the turn's own
 * deadlines. It runs on real time: a peer's answers take that, whatever clock the deadlines of a test run on.
 */
export function createPulse({ times, bytesRead, reading, ping, dead }: PulseOptions): Pulse {
  const { pingMs, pongMs } = times;
  let answers = false;
  let frames = 0;
  let seen = bytesRead();
  let missed = 0;
  let asked = false;
  let allowed = MISSES;
  let stopped = pingMs === 0;
  let cancel = () => {};

  const arm = (ms: number, look: () => void) => {
    cancel();
    cancel = systemClock.after(ms, look);
  };
  /** Whether anything came since the last look. */
  const heard = () => {
    const now = bytesRead();
    const more = now !== seen;
    seen = now;
    return more;
  };
  const ask = (extraMs = 0) => {
    heard();
    asked = true;
    ping();
    arm(pongMs + extraMs, look);
  };
  const rest = () => {
    asked = false;
    missed = 0;
    allowed = MISSES;
    arm(pingMs, look);
  };
  function look(): void {
    if (stopped) return;
    if (heard() || !reading()) return rest();
    if (!asked) return ask();
    missed += 1;
    if (!answers) return rest();
    if (missed < allowed) return ask();
    stopped = true;
    dead();
  }

  if (!stopped) rest();
  return {
    sent(bytes) {
      frames += 1;
      if (stopped) return;
      missed = 0;
      allowed = frames > 1 ? 1 : MISSES;
      ask(bytes / SLOWEST_UPLOAD);
    },
    pong() {
      answers = true;
    },
    resumed() {
      if (!stopped && asked) arm(pongMs, look);
    },
    stop() {
      stopped = true;
      cancel();
    },
  };
}
