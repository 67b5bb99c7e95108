import type { ServerResponse } from 'node:http';
import type { Clock } from '../../clock.ts';
import { watchConnection } from '../../http/connection.ts';
import type { ClientSink } from '../../session/port.ts';
import { encodeLine, failLine, headLine, type Line } from './lines.ts';

/** The client of a forwarded request, as the worker that serves it sees it. */
export interface HopSink extends ClientSink {
  /** This worker does not own the session: nothing was started, the sender resolves again. */
  notOwner(): void;
}

export interface HopSinkOptions {
  res: ServerResponse;
  clock: Clock;
  /** The client asked for a stream. What a client without one was sent is not shown before it is whole. */
  streaming: boolean;
  /** Milliseconds between signs of life. */
  pingMs: number;
  /** Milliseconds the sender may go without reading. Its own client has less, so this ends only a sender that is gone. */
  patienceMs: number;
}

/** Says `accepted` at once, then every call on the sink as a line; the sender carries them out on the real client. */
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
      // What waits unread already tells the sender that we live.
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
