import { type IncomingMessage, STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { BridgeError } from '../errors.ts';
import { discard, retryHeaders } from './envelope.ts';

/** How long an answer may take to leave, milliseconds. */
const FLUSH_MS = 12_000;

/**
 * Answers a request that has left HTTP's own machinery, or never reached it, and ends its connection, after what was still
 * arriving has been read and discarded.
 *
 * @param headers further ones, as lines
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
  // A peer that has said everything may still be reading.
  discard(socket, () => void sent.then(() => socket.destroy()));
}

/**
 * Answers an upgrade with 426: it is the one refusal that makes Codex fall back to HTTP at once and silently.
 * Attach it to the server's `upgrade` event.
 */
export function refuseUpgrade(_req: IncomingMessage, socket: Duplex): void {
  answerSocket(socket, new BridgeError('bridge_websocket_unsupported'), ['upgrade: HTTP/1.1']);
}
