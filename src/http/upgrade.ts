import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { BridgeError } from '../errors.ts';
import { discard, retryHeaders } from './envelope.ts';

/** Time within which an answer must have been flushed, in milliseconds; then the socket is destroyed. */
const FLUSH_MS = 12_000;

/**
 * Writes an error answer directly to a socket that is not, or no longer, handled by Node's HTTP server. Reads and
 * discards what still arrives, then closes the connection.
 *
 * @param headers additional header lines
 */
export function answerSocket(socket: Duplex, error: BridgeError, headers: readonly string[] = []): void {
  socket.on('error', () => socket.destroy());
  if (!socket.writable) return void socket.destroy();
  const body = JSON.stringify(error.envelope());
  const retry = Object.entries(retryHeaders(error)).map(([name, value]) => `${name}: ${value}`);
  const lines = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status]}`,
    'content-type: application/json; charset=utf-8',
    `content-length: ${Buffer.byteLength(body)}`,
    ...retry,
    ...headers,
    'connection: close',
    '',
    body,
  ];
  const kill = setTimeout(() => socket.destroy(), FLUSH_MS);
  kill.unref();
  socket.once('close', () => clearTimeout(kill));
  const sent = new Promise<void>((flushed) => void socket.end(lines.join('\r\n'), () => flushed()));
  // The peer may have ended its side and still be reading the answer.
  discard(socket, () => void sent.then(() => socket.destroy()));
}

/**
 * Answers an upgrade with 426, the only refusal that makes Codex fall back to HTTP immediately and silently. Attach it
 * to the server's `upgrade` event.
 */
export function refuseUpgrade(_req: IncomingMessage, socket: Duplex): void {
  answerSocket(socket, new BridgeError('bridge_websocket_unsupported'), ['upgrade: HTTP/1.1']);
}
