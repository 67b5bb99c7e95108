import { createHash } from 'node:crypto';
import { unlink } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/**
 * Sockets on which one process listens alone. The kernel refuses connections to one as soon as its process has ended, which
 * a file could not show: the lock of a data directory and the proof of a worker's death both use this.
 */

/** Longest path of a Unix socket that every system accepts. */
const MAX_SOCKET_PATH = 100;

/** Another process holds the data directory. */
export class DataDirInUse extends Error {
  override readonly name = 'DataDirInUse';
}

/**
 * Returns the socket path for a directory: inside it when that is short enough, else derived from a hash. On Windows it is
 * a named pipe.
 */
export function socketPath(dir: string, name: string): string {
  const hash = createHash('sha256').update(join(dir, name)).digest('hex').slice(0, 24);
  if (process.platform === 'win32') return `\\\\.\\pipe\\holdfast-${hash}`;
  const inside = join(dir, `${name}.sock`);
  return inside.length <= MAX_SOCKET_PATH ? inside : join(tmpdir(), `holdfast-${hash}.sock`);
}

/**
 * Connects to a socket path. `refused` proves that no process listens there; any other result proves nothing about a death.
 */
export function probe(path: string): Promise<'answered' | 'refused' | 'unclear'> {
  return new Promise((resolve) => {
    const socket = connect(path);
    const settle = (result: 'answered' | 'refused' | 'unclear') => {
      socket.destroy();
      resolve(result);
    };
    socket.once('connect', () => settle('answered'));
    socket.once('error', (error: NodeJS.ErrnoException) =>
      settle(error.code === 'ECONNREFUSED' ? 'refused' : 'unclear'),
    );
  });
}

/**
 * Listens on a Unix socket until this process ends. The kernel, not a file, shows whether the process still lives. A socket
 * file without a listener is replaced.
 *
 * @throws `DataDirInUse` when another process listens
 */
export async function listenAlone(path: string, inUse: string): Promise<{ close(): Promise<void> }> {
  for (let attempt = 0; attempt < 5; attempt += 1) {
    const server = createServer((socket) => socket.destroy());
    server.unref();
    const error = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
      server.once('error', resolve);
      // Never through a cluster's primary process, which would answer for a dead child.
      server.listen({ path, exclusive: true }, () => resolve(null));
    });
    // A failed accept is reported as an error of the server. The probing side does not count it as proof.
    server.on('error', () => {});
    if (!error) return { close: () => new Promise((resolve) => server.close(() => resolve())) };
    if (error.code !== 'EADDRINUSE') throw error;
    if ((await probe(path)) === 'answered') throw new DataDirInUse(inUse);
    await unlink(path).catch(() => {});
  }
  throw new DataDirInUse(inUse);
}
