import type { SessionStore } from '../../store/port.ts';
import type { Clock } from '../../system.ts';
import { kindOfStatus } from '../../upstream/errors.ts';
import {
  type ConnectionHandlers,
  type DialResult,
  type UpstreamConnection,
  type UpstreamTransport,
  UpstreamUnreachable,
} from '../../upstream/port.ts';
import type { Metrics, StoreRead } from './index.ts';

/** Metrics recorded for calls of the store. */
interface StoreMetrics extends Pick<Metrics, 'storeAnswered' | 'storeRead' | 'takeover' | 'heartbeatConfirmed'> {
  /** Receives the duration of every call, in milliseconds. */
  onCall?(ms: number): void;
}

/**
 * Wraps the store so that every call is timed and every verdict counted. A successful claim counts as a takeover; a
 * confirmed heartbeat resets the heartbeat age. Results and errors are passed through unchanged.
 */
export function observeStore(store: SessionStore, metrics: StoreMetrics, clock: Pick<Clock, 'now'>): SessionStore {
  const answered =
    <A extends unknown[], V extends { verdict: string }>(
      call: string,
      perform: (...args: A) => Promise<V>,
      seen?: (answer: V, sentAt: number) => void,
    ) =>
    async (...args: A): Promise<V> => {
      const sentAt = clock.now();
      const answer = await perform(...args);
      const ms = clock.now() - sentAt;
      metrics.storeAnswered(call, answer.verdict, ms);
      metrics.onCall?.(ms);
      seen?.(answer, sentAt);
      return answer;
    };
  const read =
    <A extends unknown[], R>(call: StoreRead, perform: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      const sentAt = clock.now();
      let failed = true;
      try {
        const result = await perform(...args);
        failed = false;
        return result;
      } finally {
        const ms = clock.now() - sentAt;
        metrics.storeRead(call, ms, failed);
        metrics.onCall?.(ms);
      }
    };
  const confirmed = ({ verdict }: { verdict: string }, sentAt: number) => {
    if (verdict === 'ok') metrics.heartbeatConfirmed(sentAt);
  };

  return {
    // Methods not wrapped below stay available, bound to the store itself.
    ...passThrough(store),
    create: answered('create', (call) => store.create(call)),
    start: answered('start', (call) => store.start(call)),
    settle: answered('settle', (call) => store.settle(call)),
    claim: answered(
      'claim',
      (call) => store.claim(call),
      (answer) => {
        if (answer.verdict === 'row') metrics.takeover(answer.lostTurnId !== null);
      },
    ),
    release: answered('release', (call) => store.release(call)),
    close: answered('close', (call) => store.close(call)),
    register: answered('register', (worker) => store.register(worker), confirmed),
    heartbeat: answered('heartbeat', (...beat) => store.heartbeat(...beat), confirmed),
    declareExpired: answered('declareExpired', (id) => store.declareExpired(id)),
    declareDead: answered('declareDead', (id) => store.declareDead(id)),
    lookup: read('lookup', (query) => store.lookup(query)),
    lineage: read('lineage', (scope, turnId) => store.lineage(scope, turnId)),
    session: read('read', (scope, id) => store.session(scope, id)),
    sessionById: read('read', (id) => store.sessionById(id)),
    turn: read('read', (scope, id) => store.turn(scope, id)),
    repeated: read('read', (scope, requestFp, withinMs) => store.repeated(scope, requestFp, withinMs)),
    turnsOf: read('read', (id, limit) => store.turnsOf(id, limit)),
    sessions: read('read', (limit) => store.sessions(limit)),
    workers: read('read', () => store.workers()),
    shutdown: () => store.shutdown(),
  };
}

function passThrough(store: SessionStore): SessionStore {
  const methods = Object.entries(store).map(([name, value]) => [
    name,
    typeof value === 'function' ? value.bind(store) : value,
  ]);
  return Object.fromEntries(methods) as SessionStore;
}

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
    kind: connection.kind,
    get open() {
      return connection.open;
    },
    attach: (reader: ConnectionHandlers) =>
      connection.attach({
        frame: (text) => reader.frame(text),
        ...(reader.refused && { refused: (answer) => reader.refused!(answer) }),
        closed(info) {
          if (info.unreachable) metrics.upstreamFailed(info.unreachable.kind);
          reader.closed(info);
        },
      }),
    send: (frame) => connection.send(frame),
    pause: () => connection.pause(),
    resume: () => connection.resume(),
    close: (code, reason) => connection.close(code, reason),
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
