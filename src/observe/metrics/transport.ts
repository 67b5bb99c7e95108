import type { Clock } from '../../clock.ts';
import {
  type ConnectionHandlers,
  type DialResult,
  type UpstreamConnection,
  type UpstreamTransport,
  UpstreamUnreachable,
} from '../../upstream/port.ts';
import { kindOfStatus } from '../../upstream/unreachable.ts';
import type { Metrics } from './index.ts';

/** Transport whose handshakes are timed and counted by result, and whose open connections are counted. */
export interface ObservedTransport {
  transport: UpstreamTransport;
  /** Connections made through it that are open now. */
  readonly open: number;
}

/**
 * Wraps a transport. A connection counts as open from its handshake until it is found closed, at the latest when the
 * count is read.
 */
export function observeTransport(
  inner: UpstreamTransport,
  metrics: Pick<Metrics, 'upstreamConnect' | 'upstreamFailed'>,
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
    // Bounds the set even if the count is never read: at most 64 plus twice the number that was open at the last sweep.
    if (connections.size > 64 + 2 * swept) swept = sweep();
  };
  const noteFailure = (result: DialResult) => {
    if (result.kind === 'failed') metrics.upstreamFailed(result.unreachable?.kind ?? 'other');
    else if (result.kind === 'refused') metrics.upstreamFailed(kindOfStatus(result.answer.status));
  };
  /**
   * Counts the failure of an exchange when it closes: an exchange is open before it has a connection, so only its end
   * shows that there was none.
   */
  const noticing = (connection: UpstreamConnection): UpstreamConnection => ({
    ...connection,
    get open() {
      return connection.open;
    },
    attach: (handlers: ConnectionHandlers) =>
      connection.attach({
        ...handlers,
        closed(info) {
          if (info.unreachable) metrics.upstreamFailed(info.unreachable.kind);
          handlers.closed(info);
        },
      }),
  });
  const results = { open: 'opened', refused: 'refused', failed: 'failed' } as const;
  return {
    transport: {
      async dial(request) {
        const startedAt = clock.now();
        const result = await inner.dial(request);
        metrics.upstreamConnect(results[result.kind], clock.now() - startedAt);
        noteFailure(result);
        if (result.kind === 'open') keep(result.connection);
        return result;
      },
      exchange(request) {
        const connection = inner.exchange(request);
        keep(connection);
        return noticing(connection);
      },
      async call(request) {
        try {
          return await inner.call(request);
        } catch (error) {
          if (error instanceof UpstreamUnreachable && !request.signal?.aborted) metrics.upstreamFailed(error.kind);
          throw error;
        }
      },
      shutdown: () => inner.shutdown(),
    },
    get open() {
      return (swept = sweep());
    },
  };
}
