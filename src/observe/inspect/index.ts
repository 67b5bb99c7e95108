import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Router } from 'express';
import { type WebSocket, WebSocketServer } from 'ws';
import { BridgeError } from '../../errors.ts';
import { type AccessRule, isSameOrigin } from '../../http/access.ts';
import { answerSocket } from '../../http/server.ts';
import type { Clock, Ids } from '../../system.ts';
import { guarded, reportFault } from '../../system.ts';
import { createInspectionHub, createSelection, type InspectionHub, type InspectionHubOptions } from './hub.ts';
import { createTickets, inspectPage } from './page.ts';
import { createSources } from './sources.ts';

export interface InspectionOptions extends Omit<InspectionHubOptions, 'clock'> {
  clock: Clock;
  ids: Ids;
  /** Access check for requests without a valid ticket. Throws the error that the viewer receives. */
  allow: AccessRule;
  /** Secret that signs tickets. Workers behind one address need the same. */
  ticketKey: string;
  /** Viewer that `/inspect/stately` frames, as an http(s) URL. */
  inspectorUrl: string;
  /** Maximum number of bytes buffered for one viewer; beyond it the viewer is disconnected. */
  bufferBytes: number;
  /** Maximum number of simultaneous viewers. */
  viewers: number;
  /** Maximum number of sampled sessions shown to one viewer at the same time. */
  sessions: number;
  onCutOff?(): void;
}

/** The inspector's server side: tickets, the WebSockets of viewers and of other programs, and the framed viewer. */
export interface Inspection extends Pick<InspectionHub, 'viewers'> {
  readonly router: Router;
  /**
   * Handles the server's `upgrade` event: accepts or refuses a viewer. Returns false, without touching the socket, when the
   * request is for another path; the caller must then answer it.
   */
  handleUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  /** Closes the connections of all viewers. */
  close(): void;
}

const PATH = '/inspect/socket';
/** Path for programs that report machines of their own. */
const SOURCE_PATH = '/inspect/source';
/** Largest message of such a program, in bytes. */
const MOST_REPORTED = 1_048_576;
/** Ping interval, in milliseconds. A viewer that has not answered a ping by the next one is disconnected. */
const PING_EVERY = 30_000;

/** Creates the inspector: the hub that follows the actors, its page, and the WebSocket that feeds viewers. */
export function createInspection(options: InspectionOptions): Inspection {
  const { clock, bufferBytes } = options;
  const hub = createInspectionHub(options);
  const tickets = createTickets({ clock, ids: options.ids, key: options.ticketKey });
  /** Viewers that did not name sessions: they are shown the machines of other programs too. */
  const open = new Set<(message: string) => void>();
  const sources = createSources((message) => {
    for (const send of open) send(message);
  });
  // Messages of viewers are ignored, so a small payload limit is enough.
  const server = new WebSocketServer({ noServer: true, maxPayload: 1_024, perMessageDeflate: false });
  const sourceServer = new WebSocketServer({ noServer: true, maxPayload: MOST_REPORTED, perMessageDeflate: false });
  // Replace the library's own refusals, which have no error envelope.
  for (const each of [server, sourceServer]) {
    each.on('wsClientError', (error, socket, req) => {
      const code = req.method === 'GET' ? 'bridge_malformed_request' : 'bridge_method_not_allowed';
      answerSocket(socket, new BridgeError(code, { detail: `${error.message}.` }), ['sec-websocket-version: 13']);
    });
  }

  /** Pings a connection, and ends it when it does not answer or fails. Calls `gone` once at its end. */
  function guard(ws: WebSocket, gone: () => void): void {
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
        gone();
      }),
    );
    stopPings = clock.after(PING_EVERY, ping);
  }

  function watch(ws: WebSocket, wish: URLSearchParams): void {
    let leave = () => {};
    guard(ws, () => leave());
    const send = (message: string) => {
      if (ws.readyState !== ws.OPEN) return;
      if (ws.bufferedAmount + message.length > bufferBytes) {
        ws.terminate();
        leave();
        options.onCutOff?.();
        return;
      }
      ws.send(message);
    };
    const selection = createSelection(wish, options.sessions);
    const part = hub.join({ selection, send });
    leave = () => {
      open.delete(send);
      part();
    };
    if (!selection.exact) {
      open.add(send);
      for (const message of sources.actors()) send(message);
    }
    if (ws.readyState !== ws.OPEN) leave();
  }

  function listen(ws: WebSocket): void {
    const source = sources.add();
    guard(ws, source.remove);
    ws.on(
      'message',
      guarded('inspector', (data) => source.take(String(data))),
    );
  }

  /** Throws a {@link BridgeError} when the request may not connect. */
  function admit(req: IncomingMessage, wish: URLSearchParams, isSource: boolean): void {
    if (!tickets.redeem(wish.get('ticket'))) options.allow(req);
    if (!isSameOrigin(req.headers)) throw new BridgeError('bridge_unauthorized');
    if ((isSource ? sources.size : hub.viewers) >= options.viewers) throw new BridgeError('bridge_overloaded');
  }

  return {
    get viewers() {
      return hub.viewers;
    },
    router: inspectPage({ allow: options.allow, tickets, inspectorUrl: options.inspectorUrl }),
    handleUpgrade(req, socket, head) {
      // Split the target by hand: a path that starts with `//` does not parse as a relative URL.
      const [path, query = ''] = (req.url ?? '').split('?', 2);
      if (path !== PATH && path !== SOURCE_PATH) return false;
      const isSource = path === SOURCE_PATH;
      const wish = new URLSearchParams(query);
      try {
        admit(req, wish, isSource);
      } catch (error) {
        if (!(error instanceof BridgeError)) reportFault(error, 'inspector');
        const known = error instanceof BridgeError ? error : new BridgeError('bridge_internal', { cause: error });
        answerSocket(socket, known);
        return true;
      }
      (isSource ? sourceServer : server).handleUpgrade(req, socket, head, (ws) =>
        guarded(
          'inspector',
          () => (isSource ? listen(ws) : watch(ws, wish)),
          () => ws.terminate(),
        )(),
      );
      return true;
    },
    close() {
      const clients = () => [...server.clients, ...sourceServer.clients];
      for (const ws of clients()) ws.close(1001, 'the worker is stopping');
      server.close();
      sourceServer.close();
      clock.after(1_000, () => {
        for (const ws of clients()) ws.terminate();
      });
    },
  };
}
