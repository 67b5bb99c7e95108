import { connect, createServer, type Socket } from 'node:net';

export interface Balancer {
  close(): Promise<void>;
}

/**
 * Starts a balancer of TCP connections, round robin: what stands in for nginx where that is not installed. A target that
 * refuses a connection is skipped.
 */
export async function startBalancer(
  listen: { host: string; port: number },
  targets: readonly { host: string; port: number }[],
): Promise<Balancer> {
  let next = 0;
  const sockets = new Set<Socket>();
  const keep = (socket: Socket) => {
    sockets.add(socket);
    return socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  };
  const server = createServer((client) => {
    keep(client);
    const attempt = (left: number) => {
      if (left === 0) return client.destroy();
      const target = keep(connect(targets[next++ % targets.length]!));
      const refused = () => attempt(left - 1);
      target.once('error', refused);
      target.once('connect', () => {
        target.off('error', refused);
        client.pipe(target).pipe(client);
        client.once('close', () => target.destroy());
        target.once('close', () => client.destroy());
      });
    };
    attempt(targets.length);
  });
  await new Promise<void>((listening, failed) => server.once('error', failed).listen(listen, listening));
  return {
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        for (const socket of sockets) socket.destroy();
      }),
  };
}
