import type { IncomingMessage } from 'node:http';
import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { type WebSocket, WebSocketServer } from 'ws';
import { errorObject, missingApiKey } from './error-shapes.ts';
import { credentialOf, flatHeaders } from './http.ts';
import { signalHeaders } from './signals.ts';
import type { TurnHost } from './turn.ts';
import type { SimulatedConnection, UpgradeRefusal } from './types.ts';
import { serveConnection } from './websocket.ts';

/** Answers an upgrade with a plain HTTP response and ends the connection. */
function refuseUpgrade(socket: Socket, { status, headers = {}, body }: UpgradeRefusal): void {
  const text =
    typeof body === 'string'
      ? body
      : JSON.stringify(body ?? { error: errorObject({ status, message: `Upgrade refused with ${status}.` }) });
  const lines = Object.entries({
    'content-type': 'application/json',
    'content-length': String(Buffer.byteLength(text)),
    connection: 'close',
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(`HTTP/1.1 ${status} ${STATUS_CODES[status] ?? 'Refused'}\r\n${lines.join('')}\r\n${text}`);
}

const PATH = /^\/(?:v1|backend-api\/codex)\/responses$/;

/**
 * Creates the handler of upgrade requests. Scripted and chaos refusals come first, then those due to the options and
 * the credential.
 */
export function createUpgradeHandler(
  host: TurnHost,
  connections: SimulatedConnection[],
): (req: IncomingMessage, socket: Socket, head: Buffer) => void {
  const { options, journal } = host;
  const server = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: options.maxFrameBytes ?? 16 * 1024 * 1024,
    clientTracking: false,
  });
  const extraHeaders = new WeakMap<IncomingMessage, Record<string, string>>();
  server.on('headers', (lines, req) => {
    for (const [name, value] of Object.entries(extraHeaders.get(req) ?? {})) lines.push(`${name}: ${value}`);
  });
  let upgrades = 0;

  function standingRefusal(path: string, credential: string | null): UpgradeRefusal | null {
    const { webSocket = 'on' } = options;
    if (!PATH.test(path)) return { status: 404 };
    if (credential === null) return { status: 401, body: { error: errorObject(missingApiKey) } };
    if (webSocket === 'on') return null;
    return typeof webSocket === 'number' ? { status: webSocket } : webSocket;
  }

  return (req, socket, head) => {
    socket.on('error', () => undefined);
    const headers = flatHeaders(req);
    const upgrade = ++upgrades;
    const entry = (outcome: 'accepted' | 'hung' | 'reset' | number, connection: number | null = null) =>
      journal.record('upgrade', { upgrade, headers, outcome, connection });
    const ruled = host.rules.forUpgrade({ upgrade, headers });
    const fault = ruled?.fault ?? host.chaos()?.forUpgrade(upgrade) ?? null;
    if (fault) journal.record('fault', { rule: ruled?.rule ?? 0, turn: null, connection: null, fault });
    if (fault?.kind === 'hang') return void entry('hung');
    if (fault?.kind === 'reset') {
      entry('reset');
      return void socket.resetAndDestroy();
    }
    if (fault?.kind !== 'hold') return proceed();
    const gone = new AbortController();
    socket.once('close', () => gone.abort());
    void ruled?.gate.wait(gone.signal).then(() => gone.signal.aborted || proceed());

    function proceed(): void {
      const path = new URL(req.url ?? '/', 'http://simulator').pathname;
      const credential = credentialOf(host, headers);
      const refusal = fault?.kind === 'refuse' ? fault : standingRefusal(path, credential);
      if (refusal) {
        entry(refusal.status);
        return refuseUpgrade(socket, refusal);
      }

      const id = connections.length + 1;
      const turnState = options.turnState === 'handshake' || options.turnState === 'both';
      extraHeaders.set(req, {
        ...signalHeaders(),
        ...(turnState ? { 'x-codex-turn-state': `ts-h${id}` } : {}),
        ...(fault?.kind === 'headers' ? fault.headers : {}),
      });
      server.handleUpgrade(req, socket, head, (ws: WebSocket) => {
        entry('accepted', id);
        connections.push(serveConnection(host, ws, socket, { id, headers, credential: credential! }));
        journal.record('opened', { connection: id, headers });
        if (fault?.kind === 'accept_then_close') ws.close(fault.code ?? 1011, fault.reason ?? '');
        if (fault?.kind === 'accept_then_reset') socket.resetAndDestroy();
      });
    }
  };
}
