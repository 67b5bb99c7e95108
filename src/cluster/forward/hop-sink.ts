import type { ServerResponse } from 'node:http';
import type { Clock } from '../../clock.ts';
import { watchConnection } from '../../http/connection.ts';
import type { ClientSink } from '../../session/port.ts';
import { encodeLine, failLine, headLine, type Line } from './lines.ts';

/** The client of a forwarded request, from the point of view of the serving worker. */
export interface HopSink extends ClientSink {
  /** Answers that this worker does not own the session and started nothing. The sender then resolves the request again. */
  notOwner(): void;
}

export interface HopSinkOptions {
  res: ServerResponse;
  clock: Clock;
  /** True if the client requested a stream. A non-streaming client sees nothing before its answer is complete. */
  streaming: boolean;
  /** Interval between pings, in milliseconds. */
  pingMs: number;
  /**
   * Time for which the sender may stop reading, in milliseconds. The sender's own client has less time, so this only
   * disconnects a sender that is gone.
   */
  patienceMs: number;
}

/**
 * Creates a sink that writes an `accepted` line at once and then each call as one line. The sender applies these lines
 * to the real client.
 */
export function createHopSink({ res, clock, streaming, pingMs, patienceMs }: HopSinkOptions): HopSink {
  const connection = watchConnection(res);
  let ended: 'terminal' | 'not_owner' | null = null;
  let shown = false;
  let stalled = false;
  let stopPing = () => {};
  let stopPatience = () => {};
  const drained: (() => void)[] = [];

  const write = (line: Line): boolean => {
    if (!connection.open) return true;
    if (res.write(encodeLine(line))) return true;
    if (!stalled) {
      stalled = true;
      stopPatience = clock.after(patienceMs, () => res.destroy());
    }
    return false;
  };
  const end = (how: 'terminal' | 'not_owner', line: () => Line) => {
    if (ended) return;
    ended = how;
    stopPing();
    if (!connection.open) return;
    write(line());
    res.end();
  };
  const ping = () => {
    stopPing = clock.after(pingMs, () => {
      if (ended || !connection.open) return;
      // Unread data is itself a sign of life for the sender.
      if (!stalled) write({ t: 'ping' });
      ping();
    });
  };
  const release = () => {
    stopPing();
    stopPatience();
  };

  res.on('drain', () => {
    stalled = false;
    stopPatience();
    for (const listener of drained) listener();
  });
  connection.onGone(release);
  connection.onDelivered(release);
  res.writeHead(200, { 'content-type': 'application/x-ndjson' });
  write({ t: 'accepted' });
  ping();

  return {
    head: (head) => void (ended ?? write(headLine(head))),
    event(type, json, telemetry) {
      if (ended || !connection.open) return true;
      shown ||= streaming && !telemetry;
      return write({ t: 'event', type, telemetry, json });
    },
    open: () => void (ended ?? write({ t: 'open' })),
    end: (type, json) => {
      shown ||= !ended && streaming && connection.open;
      end('terminal', () => ({ t: 'end', type, json }));
    },
    fail: (error) => end('terminal', () => failLine(error)),
    relay: ({ status, headers, body }) =>
      end('terminal', () => ({ t: 'relay', status, headers, body: body.toString('base64') })),
    cut: () => end('terminal', () => ({ t: 'cut' })),
    notOwner: () => end('not_owner', () => ({ t: 'not_owner' })),
    get attached() {
      return connection.open;
    },
    get shown() {
      return shown;
    },
    get committed() {
      return ended !== null;
    },
    onGone: connection.onGone,
    onDelivered: (listener) => connection.onDelivered(() => ended === 'terminal' && listener()),
    onDrain: (listener) => void drained.push(listener),
  };
}
