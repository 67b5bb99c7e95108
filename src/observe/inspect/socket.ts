import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import type { Clock } from '../../clock.ts';
import { BridgeError } from '../../errors.ts';
import { guarded, reportFault } from '../../faults.ts';
import { answerSocket } from '../../http/upgrade.ts';
import { type AccessRule, isSameOrigin } from '../access.ts';
import type { InspectionHub } from './hub.ts';
import { createSelection } from './selection.ts';
import type { Tickets } from './tickets.ts';

export interface InspectSocketOptions {
  hub: InspectionHub;
  tickets: Tickets;
  /** Asked when there is no ticket. Throws the error the viewer shall see. */
  allow: AccessRule;
  clock: Clock;
  /** Bytes that may wait for one viewer; one that lets more pile up is cut off. */
  bufferBytes: number;
  /** Viewers at the same time. */
  viewers: number;
  /** Sessions of a sample shown to one viewer at the same time. */
  sessions: number;
  onCutOff?(): void;
}

/** The WebSocket of the inspector. */
export interface InspectSocket {
  /** Takes an upgrade of its path, or answers it with a refusal. False, and untouched, when it is for another path. */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  /** Closes every viewer's connection. */
  close(): void;
}

const PATH = '/inspect/socket';
/** Milliseconds between two pings; who did not answer one by the next is gone. */
const PING_EVERY = 30_000;

export function createInspectSocket(options: InspectSocketOptions): InspectSocket {
  const { hub, clock, bufferBytes } = options;
  // Nothing a viewer says is of interest.
  const server = new WebSocketServer({ noServer: true, maxPayload: 1_024, perMessageDeflate: false });
  // The library's own refusals have no envelope.
  server.on('wsClientError', (error, socket, req) => {
    const code = req.method === 'GET' ? 'bridge_malformed_request' : 'bridge_method_not_allowed';
    answerSocket(socket, new BridgeError(code, { detail: `${error.message}.` }), ['sec-websocket-version: 13']);
  });

  function watch(ws: WebSocket, wish: URLSearchParams): void {
    let leave = () => {};
    let answered = true;
    let stopPings = () => {};
    const ping = () => {
      if (!answered) return ws.terminate();
      answered = false;
      ws.ping();
      stopPings = clock.after(PING_EVERY, ping);
    };
    ws.on('pong', () => {
      answered = true;
    });
    ws.on('error', () => ws.terminate());
    ws.on(
      'close',
      guarded('inspector', () => {
        stopPings();
        leave();
      }),
    );
    stopPings = clock.after(PING_EVERY, ping);
    leave = hub.join({
      selection: createSelection(wish, options.sessions),
      send(message) {
        if (ws.readyState !== ws.OPEN) return;
        if (ws.bufferedAmount + message.length > bufferBytes) {
          ws.terminate();
          leave();
          options.onCutOff?.();
          return;
        }
        ws.send(message);
      },
    });
    if (ws.readyState !== ws.OPEN) leave();
  }

  /** Throws the error of a request that may not watch. */
  function admit(req: IncomingMessage, wish: URLSearchParams): void {
    if (!options.tickets.redeem(wish.get('ticket'))) options.allow(req);
    if (!isSameOrigin(req.headers)) throw new BridgeError('bridge_unauthorized');
    if (hub.viewers >= options.viewers) throw new BridgeError('bridge_overloaded');
  }

  return {
    handleUpgrade(req, socket, head) {
      // A target is not parsed as a URL before it is known to be a path: `//` is none.
      const [path, query = ''] = (req.url ?? '').split('?', 2);
      if (path !== PATH) return false;
      const wish = new URLSearchParams(query);
      try {
        admit(req, wish);
      } catch (error) {
        if (!(error instanceof BridgeError)) reportFault(error, 'inspector');
        const known = error instanceof BridgeError ? error : new BridgeError('bridge_internal', { cause: error });
        answerSocket(socket, known);
        return true;
      }
      server.handleUpgrade(req, socket, head, (ws) =>
        guarded(
          'inspector',
          () => watch(ws, wish),
          () => ws.terminate(),
        )(),
      );
      return true;
    },
    close() {
      for (const ws of server.clients) ws.close(1001, 'the worker is stopping');
      server.close();
      clock.after(1_000, () => {
        for (const ws of server.clients) ws.terminate();
      });
    },
  };
}
