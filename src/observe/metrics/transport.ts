import type { Clock } from '../../clock.ts';
import type { UpstreamTransport } from '../../upstream/port.ts';
import type { Metrics } from './index.ts';

/** The same transport, with every handshake timed, counted by result, and every open connection counted. */
export interface ObservedTransport {
  transport: UpstreamTransport;
  /** Connections made through it that are open now. */
  readonly open: number;
}

/** A connection counts from its handshake until it is found closed, at the latest when the count is read. */
export function observeTransport(
  inner: UpstreamTransport,
  metrics: Pick<Metrics, 'upstreamConnect'>,
  clock: Pick<Clock, 'now'>,
): ObservedTransport {
  const connections = new Set<{ readonly open: boolean }>();
  const sweep = () => {
    for (const connection of connections) if (!connection.open) connections.delete(connection);
    return connections.size;
  };
  let swept = 0;
  const keep = (connection: { readonly open: boolean }) => {
    connections.add(connection);
    // Even unread, the set never grows past twice what was open at the last look.
    if (connections.size > 64 + 2 * swept) swept = sweep();
  };
  const results = { open: 'opened', refused: 'refused', failed: 'failed' } as const;
  return {
    transport: {
      async dial(request) {
        const startedAt = clock.now();
        const result = await inner.dial(request);
        metrics.upstreamConnect(results[result.kind], clock.now() - startedAt);
        if (result.kind === 'open') keep(result.connection);
        return result;
      },
      exchange(request) {
        const connection = inner.exchange(request);
        keep(connection);
        return connection;
      },
      call: (request) => inner.call(request),
      shutdown: () => inner.shutdown(),
    },
    get open() {
      return (swept = sweep());
    },
  };
}
