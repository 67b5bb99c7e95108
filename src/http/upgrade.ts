import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { BridgeError } from '../errors.ts';

/**
 * Answers an upgrade with 426: it is the one refusal that makes Codex fall back to HTTP at once and silently.
 * Attach it to the server's `upgrade` event.
 */
export function refuseUpgrade(_req: IncomingMessage, socket: Duplex): void {
  const error = new BridgeError('bridge_websocket_unsupported');
  const body = JSON.stringify(error.envelope());
  socket.on('error', () => socket.destroy());
  socket.end(
    [
      `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
      'Content-Type: application/json; charset=utf-8',
      `Content-Length: ${Buffer.byteLength(body)}`,
      'Upgrade: HTTP/1.1',
      'X-Should-Retry: false',
      'Connection: close',
      '',
      body,
    ].join('\r\n'),
  );
}
