import type { Peers } from '../session/forwarding.ts';
import type { SessionStore } from '../store/port.ts';
import { createFailureDetector } from './failure-detector.ts';
import type { Forwarder } from './forward/sender.ts';

/**
 * Number of cached addresses. Ids are never reused, so a cached address stays valid; an unknown one is looked up each
 * time.
 */
const REMEMBERED = 1_000;

/**
 * Creates the access to the other workers of the store.
 *
 * @param from.me returns this worker's id
 * @param from.mayDeclareDead see `createFailureDetector`
 * @param from.random returns a uniform random number in [0, 1)
 */
export function createPeers(from: {
  store: SessionStore;
  forwarder: Forwarder;
  me(): string;
  mayDeclareDead(): boolean;
  random(): number;
}): Peers {
  const { store, forwarder, me, mayDeclareDead, random } = from;
  const known = new Map<string, string | null>();

  async function address(workerId: string): Promise<string | null> {
    const found = known.get(workerId);
    if (found !== undefined) return found;
    const row = (await store.workers()).find(({ id }) => id === workerId);
    if (!row) return null;
    if (known.size >= REMEMBERED) known.clear();
    if (row.internalUrl !== null) known.set(workerId, row.internalUrl);
    return row.internalUrl;
  }

  return {
    forward: ({ workerId, url, ...claims }, request, sink, waiting) =>
      forwarder.forward({ workerId, url }, claims, request, sink, waiting),
    async serving() {
      const others = (await store.workers()).flatMap(({ id, state, internalUrl, leaseLeftMs }) =>
        id !== me() && state === 'serving' && internalUrl !== null && leaseLeftMs > 0
          ? [{ workerId: id, url: internalUrl }]
          : [],
      );
      return others[Math.floor(random() * others.length)] ?? null;
    },
    address,
    notifyClaimed(workerId, sessionId, epoch) {
      void address(workerId)
        .then((url) =>
          url === null ? undefined : forwarder.claimed({ workerId, url }, { sessionId, epoch, news: 'claimed' }),
        )
        .catch(() => {});
    },
    ...createFailureDetector(store, mayDeclareDead),
  };
}
