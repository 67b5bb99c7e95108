import { systemClock } from '../clock.ts';

/** Ping times of a WebSocket. */
export interface PulseTimes {
  /** Interval between two pings to a silent peer, in milliseconds; 0 sends none. */
  pingMs: number;
  /** Time for which a ping may stay unanswered, in milliseconds. */
  pongMs: number;
}

export interface PulseOptions {
  times: PulseTimes;
  /** Returns the number of bytes read from the peer so far. Any byte is a sign of life, even half of a frame. */
  bytesRead(): number;
  /** Returns whether the socket is being read. While it is not, silence says nothing about the peer. */
  reading(): boolean;
  ping(): void;
  dead(): void;
}

/** Failure detector of one open WebSocket, with at most one timer. */
export interface Pulse {
  /** Reports that a frame of about that many bytes was handed to the socket. */
  sent(bytes: number): void;
  /** Reports a pong. */
  pong(): void;
  /** Reports that reading resumed: data that the peer sent before is still to be read. */
  resumed(): void;
  stop(): void;
}

/**
 * Consecutive unanswered pings after which a peer counts as dead, except right after a frame. RFC 6455 requires a pong, but
 * a busy peer sends it late, and in the middle of a turn a false alarm costs the answer.
 */
const MISSES = 3;

/** Slowest expected upload, in bytes per millisecond: a ping waits behind the frame it is sent with. */
const SLOWEST_UPLOAD = 64;

/**
 * Detects that the other side of a socket is gone although no FIN or RST arrived: a middlebox dropped the connection, or a
 * machine lost power.
 *
 * Every frame except the first of a connection is followed by a ping. If neither a pong nor any other data arrives in time,
 * the socket is dead; nothing of that turn was shown to the client, so it can be sent again. At all other times, idle or in
 * a turn, three consecutive pings must stay unanswered.
 *
 * Only a peer that has answered a ping before is judged. For one that never does, such as some gateways, only the turn's
 * own deadlines apply. The timers run on real time, since a peer needs real time to answer, whatever clock drives a test's
 * deadlines.
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
  /** Returns whether any data arrived since the last check. */
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
