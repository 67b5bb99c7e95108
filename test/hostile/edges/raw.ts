import { connect, type Socket } from 'node:net';

/** A connection that writes raw bytes. */
export interface Raw {
  readonly socket: Socket;
  /** Returns everything received so far. */
  text(): string;
  /** Resolves when the other side has ended the connection. */
  readonly over: Promise<string>;
}

/** Opens a connection to a URL's host and writes at once. */
export function raw(url: string, bytes: string | Buffer): Raw {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  socket.on('error', () => {});
  const text = () => Buffer.concat(chunks).toString('latin1');
  const over = new Promise<string>((resolve) => socket.once('close', () => resolve(text())));
  socket.write(bytes);
  return { socket, text, over };
}

/** Returns the first answer to some bytes: its status, and its body if that is JSON. */
export async function answerTo(url: string, bytes: string | Buffer): Promise<{ status: number; code: string | null }> {
  const { socket, text, over } = raw(url, bytes);
  const whole = new Promise<string>((resolve) => {
    socket.on('data', () => {
      const [head, body] = text().split('\r\n\r\n', 2);
      const length = /^content-length: (\d+)/im.exec(head!)?.[1];
      if (/^transfer-encoding: chunked/im.test(head!) && text().endsWith('\r\n0\r\n\r\n')) resolve(text());
      if (body !== undefined && length !== undefined && Buffer.byteLength(body, 'latin1') >= Number(length))
        resolve(text());
    });
  });
  const got = await Promise.race([whole, over]);
  socket.destroy();
  const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(got)?.[1] ?? 0);
  return { status, code: /"bridge_code":"(\w+)"/.exec(got)?.[1] ?? null };
}
