import { connect, createServer, type Socket } from 'node:net';

/** A TCP path that can be interrupted and restored. */
export interface Path {
  readonly port: number;
  /**
   * `open` forwards; `refuse` closes open connections and refuses new ones; `blackhole` accepts and forwards nothing.
   */
  set(state: 'open' | 'refuse' | 'blackhole'): void;
  close(): Promise<void>;
}

/** @param target destination, read at each connection, so that its listener may start later */
export async function openPath(target: { host: string; port: number }): Promise<Path> {
  let state: 'open' | 'refuse' | 'blackhole' = 'open';
  const pairs = new Set<{ near: Socket; far: Socket | null }>();
  const server = createServer((near) => {
    if (state === 'refuse') return void near.resetAndDestroy();
    const far = state === 'open' ? connect(target.port, target.host) : null;
    const pair = { near, far };
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      near.destroy();
      far?.destroy();
    };
    near.on('data', (chunk) => {
      if (state !== 'open' || !far) return;
      if (!far.write(chunk)) {
        near.pause();
        far.once('drain', () => near.resume());
      }
    });
    far?.on('data', (chunk) => {
      if (state !== 'open') return;
      if (!near.write(chunk)) {
        far.pause();
        near.once('drain', () => far.resume());
      }
    });
    for (const socket of [near, far]) {
      socket?.on('error', end);
      socket?.on('close', end);
    }
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const cut = () => {
    for (const { near, far } of pairs) {
      near.resetAndDestroy();
      far?.resetAndDestroy();
    }
  };
  return {
    port: (server.address() as { port: number }).port,
    set(wanted) {
      state = wanted;
      if (wanted === 'refuse') cut();
      // Bytes lost while the path was down cannot be recovered: a restored path starts with new connections.
      if (wanted === 'open') cut();
    },
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        cut();
      }),
  };
}
