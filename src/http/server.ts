import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Duplex } from 'node:stream';
import { refuseUpgrade } from './upgrade.ts';

export interface Listening {
  server: Server;
  /** e.g. `http://127.0.0.1:8787`. */
  url: string;
  port: number;
  /** Stops accepting; idle connections are closed, busy ones may end until `graceMs` is over. */
  close(graceMs: number): Promise<void>;
}

/** Serves an app. Rejects with the system's error when the address cannot be used. */
export async function listen(
  app: RequestListener,
  { host, port }: { host: string; port: number },
  onUpgrade: (req: IncomingMessage, socket: Duplex, head: Buffer) => void = refuseUpgrade,
): Promise<Listening> {
  const server = createServer(
    {
      // A long answer is no slow request: only the time until the request was read is bounded.
      requestTimeout: 120_000,
      headersTimeout: 30_000,
      // Longer than the 60 s that common balancers keep idle connections, so that they close first.
      keepAliveTimeout: 75_000,
      noDelay: true,
    },
    app,
  );
  server.on('upgrade', onUpgrade);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => {
      server.off('error', reject);
      resolve();
    });
  });
  const bound = server.address() as AddressInfo;
  const shown = bound.family === 'IPv6' ? `[${bound.address}]` : bound.address;
  return {
    server,
    url: `http://${shown}:${bound.port}`,
    port: bound.port,
    close: (graceMs) =>
      new Promise((resolve) => {
        const force = setTimeout(() => server.closeAllConnections(), graceMs);
        server.close(() => {
          clearTimeout(force);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}
