import type { Clock } from '../../clock.ts';
import type { SessionStore } from '../../store/port.ts';
import type { Metrics, StoreRead } from './index.ts';

/** Metrics recorded for calls of the store. */
export type StoreMetrics = Pick<Metrics, 'storeAnswered' | 'storeRead' | 'takeover' | 'heartbeatConfirmed'>;

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
      metrics.storeAnswered(call, answer.verdict, clock.now() - sentAt);
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
        metrics.storeRead(call, clock.now() - sentAt, failed);
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
    session: read('read', (id) => store.session(id)),
    turn: read('read', (id) => store.turn(id)),
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
