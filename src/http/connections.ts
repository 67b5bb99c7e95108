import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { isIPv6, type Socket } from 'node:net';
import type { Config } from '../config.ts';

/**
 * Connections of one network without an authenticated request in progress. Each set is ordered from oldest to newest.
 */
interface Strangers {
  /** Connections that have never carried an authenticated request. */
  unknown: Set<Socket>;
  /** Connections on which an authenticated request has ended. */
  idle: Set<Socket>;
}

/**
 * Returns the key under which the connections of one peer are counted: an IPv4 address, or the first 64 bits of an IPv6
 * address, because one host may use any number of addresses within its /64.
 *
 * @param address as `Socket.remoteAddress` reports it
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
  /** Starts limiting a server's connections. All watched servers share the same limits. */
  watch(server: Server): void;
  readonly open: number;
}

export interface ConnectionGuardOptions {
  limits: Pick<Config['limits'], 'connections' | 'peerConnections'>;
  /** Several tenants are possible. Then no tenant may hold more connections than remain free for the others. */
  several: boolean;
  /** Called when a connection was closed because its network, or this worker, had too many. */
  onClosed?(reason: 'peer' | 'worker'): void;
}

/**
 * Reason why a request cannot hold its connection: its tenant holds too many (`scope`), or all tenants together do
 * (`worker`).
 */
export type Unheld = 'scope' | 'worker';

/**
 * One in this many connections is reserved for those without an authenticated request: health, metrics, admin,
 * newcomers.
 */
const RESERVED = 16;

const holders = new WeakMap<Socket, (res: ServerResponse, scope: string) => Unheld | null>();

/**
 * Marks the connection of an authenticated request as held: until the response ends, it is not closed to make room for
 * others.
 *
 * @returns null when the connection is held or the server is not guarded, otherwise the reason why it cannot be held
 */
export function holdConnection(req: IncomingMessage, res: ServerResponse, scope: string): Unheld | null {
  return holders.get(req.socket)?.(res, scope) ?? null;
}

/**
 * Limits the number of connections without refusing new ones. When all are in use, a new connection evicts the oldest
 * one without an authenticated request, from the network that has the most of these. A reserved part of the connections
 * can never be held, so there is always one to evict.
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
  /** Connections closed here and already subtracted from `open`, although their `close` event has not fired yet. */
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
      // The server still counts evicted connections until their `close` event fires.
      server.maxConnections = limits.connections + reserve;
      server.on('connection', arrive);
    },
    get open() {
      return open;
    },
  };
}
