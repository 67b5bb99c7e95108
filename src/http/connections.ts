import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { isIPv6, type Socket } from 'node:net';
import type { Config } from '../config.ts';

/** Connections of one network that no authenticated request holds; each set the oldest first. */
interface Strangers {
  /** None of their requests was ever authenticated. */
  unknown: Set<Socket>;
  /** An authenticated request has ended on them. */
  idle: Set<Socket>;
}

/**
 * What stands for one peer: an IPv4 address, or the first 64 bits of an IPv6 address, of which one host may use any
 * number.
 *
 * @param address as `Socket.remoteAddress` has it
 */
export function networkOf(address: string): string {
  const mapped = /^::ffff:([\d.]+)$/i.exec(address)?.[1];
  if (mapped !== undefined || !isIPv6(address)) return mapped ?? address;
  const [head = '', tail] = address.replace(/%.*$/, '').split('::');
  const [first, last] = [head, tail ?? ''].map((part) => (part === '' ? [] : part.split(':'))) as [string[], string[]];
  const gap = tail === undefined ? 0 : 8 - first.length - last.length;
  const groups = [...first, ...new Array<string>(gap).fill('0'), ...last];
  return `${groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':')}::/64`;
}

export interface ConnectionGuard {
  /** Bounds a server's connections from now on, together with those of every other server it watches. */
  watch(server: Server): void;
  readonly open: number;
}

export interface ConnectionGuardOptions {
  limits: Pick<Config['limits'], 'connections' | 'peerConnections'>;
  /** Several tenants may come: then none may hold more connections than are free for the others. */
  several: boolean;
  /** A connection was closed because its network, or this worker, had too many. */
  onClosed?(reason: 'peer' | 'worker'): void;
}

/** What keeps a request from holding its connection: its tenant holds too many, or all together do. */
export type Unheld = 'scope' | 'worker';

/** One place in so many is for connections that no authenticated request holds: health, metrics, admin, newcomers. */
const RESERVED = 16;

const holders = new WeakMap<Socket, (res: ServerResponse, scope: string) => Unheld | null>();

/**
 * The sender of this request is known. Until its answer ends, its connection is not closed to make room for others.
 *
 * @returns null, or what keeps the request from it; null on a server that is not guarded
 */
export function holdConnection(req: IncomingMessage, res: ServerResponse, scope: string): Unheld | null {
  return holders.get(req.socket)?.(res, scope) ?? null;
}

/**
 * Keeps connections within their bounds without turning newcomers away: one that comes when all places are taken has
 * the oldest connection closed that no authenticated request holds, of the network with most of these. A part of the
 * places can never be held, so that there is always one to close.
 */
export function createConnectionGuard({ limits, several, onClosed }: ConnectionGuardOptions): ConnectionGuard {
  const reserve = Math.max(1, Math.floor(limits.connections / RESERVED));
  const holdable = Math.max(1, limits.connections - reserve);
  const peers = new Map<string, Strangers>();
  const heldBy = new Map<string, number>();
  let held = 0;
  let open = 0;

  const size = ({ unknown, idle }: Strangers) => unknown.size + idle.size;
  const strangersOf = (address: string): Strangers => {
    const known = peers.get(address) ?? { unknown: new Set(), idle: new Set() };
    peers.set(address, known);
    return known;
  };
  const remove = (address: string, socket: Socket) => {
    const strangers = peers.get(address);
    if (!strangers) return;
    strangers.unknown.delete(socket);
    strangers.idle.delete(socket);
    if (size(strangers) === 0) peers.delete(address);
  };
  const largest = (): string | null => {
    let found: string | null = null;
    let most = 0;
    for (const [address, strangers] of peers) if (size(strangers) > most) [found, most] = [address, size(strangers)];
    return found;
  };
  const closeOldest = (address: string, reason: 'peer' | 'worker') => {
    const { unknown, idle } = strangersOf(address);
    const [socket] = unknown.size > 0 ? unknown : idle;
    if (!socket) return;
    remove(address, socket);
    open -= 1;
    closed.add(socket);
    socket.destroy();
    onClosed?.(reason);
  };
  /** Closed here and counted so, though the system has not said it yet. */
  const closed = new WeakSet<Socket>();

  function arrive(socket: Socket): void {
    const address = networkOf(socket.remoteAddress ?? '');
    let requests = 0;
    let scope = '';
    open += 1;
    strangersOf(address).unknown.add(socket);

    const release = () => {
      requests -= 1;
      if (requests > 0) return;
      held -= 1;
      const left = (heldBy.get(scope) ?? 1) - 1;
      if (left === 0) heldBy.delete(scope);
      else heldBy.set(scope, left);
      if (!socket.destroyed) strangersOf(address).idle.add(socket);
    };
    holders.set(socket, (res, asking) => {
      if (res.closed) return null;
      if (requests === 0) {
        const own = heldBy.get(asking) ?? 0;
        if (held >= holdable) return 'worker';
        if (several && own > 0 && own >= holdable - held) return 'scope';
        held += 1;
        heldBy.set(asking, own + 1);
        scope = asking;
        remove(address, socket);
      }
      requests += 1;
      res.once('close', release);
      return null;
    });
    socket.once('close', () => {
      remove(address, socket);
      if (!closed.has(socket)) open -= 1;
    });
    if (size(strangersOf(address)) > limits.peerConnections) closeOldest(address, 'peer');
    const crowded = open > limits.connections ? largest() : null;
    if (crowded !== null) closeOldest(crowded, 'worker');
  }

  return {
    watch(server) {
      // What has been closed here counts at the server until the system says so.
      server.maxConnections = limits.connections + reserve;
      server.on('connection', arrive);
    },
    get open() {
      return open;
    },
  };
}
