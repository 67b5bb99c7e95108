import { type Answer, type SessionStore, StoreUnavailable } from '../../store/port.ts';
import type { Clock } from '../../system.ts';
import { createAdmin } from './admin.ts';
import { createMemoryDatabase, type MemoryDatabase } from './database.ts';
import { createFence } from './fence.ts';
import { createObjects } from './objects.ts';
import { createReads } from './reads.ts';
import { createWorkers } from './workers.ts';

export { createMemoryDatabase, type MemoryDatabase } from './database.ts';

export interface MemoryStoreOptions {
  /** Clock by which leases expire. */
  clock: Clock;
  /** Database shared by the stores of several workers; default a new one. */
  database?: MemoryDatabase;
}

/**
 * Creates the in-memory store for tests and simulations. Its verdicts are those of the PostgreSQL store. A call takes
 * effect synchronously; only its answer is asynchronous.
 */
export function createMemoryStore({
  clock,
  database = createMemoryDatabase('0'.repeat(64)),
}: MemoryStoreOptions): SessionStore {
  const now = () => clock.now();
  const fence = createFence(database, now);
  const workers = createWorkers(database, now);
  const reads = createReads(database, now);
  const admin = createAdmin(database, now);
  const objects = createObjects(database, now);
  let down = false;

  /** Runs a call. An error of the store itself, such as a taken response id, rejects the call. */
  const call = async <V>(perform: () => V): Promise<Answer<V>> => {
    if (down) return { verdict: 'unknown', reason: 'the store is shut down' };
    try {
      return perform();
    } catch (error) {
      return { verdict: 'rejected', reason: error instanceof Error ? error.message : String(error) };
    }
  };
  const read = async <T>(perform: () => T): Promise<T> => {
    if (down) throw new StoreUnavailable('the store is shut down');
    return perform();
  };

  return {
    create: (c) => call(() => fence.create(c)),
    start: (c) => call(() => fence.start(c)),
    settle: (c) => call(() => fence.settle(c)),
    claim: (c) => call(() => fence.claim(c)),
    release: (c) => call(() => fence.release(c)),
    close: (c) => call(() => fence.close(c)),
    register: (worker) => call(() => workers.register(worker)),
    heartbeat: (id, state, leaseMs, registration) => call(() => workers.heartbeat(id, state, leaseMs, registration)),
    declareExpired: (id) => call(() => workers.declareExpired(id)),
    declareDead: (id) => call(() => workers.declareDead(id)),
    workers: () => read(() => reads.workers()),
    lookup: (query) => read(() => reads.lookup(query)),
    session: (scope, id) => read(() => reads.session(scope, id)),
    turn: (scope, id) => read(() => reads.turn(scope, id)),
    lineage: (scope, turnId) => read(() => reads.lineage(scope, turnId)),
    line: (scope, turnId) => read(() => reads.line(scope, turnId)),
    references: (scope, itemIds) => read(() => reads.references(scope, itemIds)),
    repeated: (scope, requestFp, withinMs) => read(() => reads.repeated(scope, requestFp, withinMs)),
    sessions: (limit) => read(() => reads.sessions(limit)),
    sessionById: (id) => read(() => admin.sessionById(id)),
    turnsOf: (sessionId, limit) => read(() => admin.turnsOf(sessionId, limit)),
    listSessions: (query) => read(() => admin.listSessions(query)),
    turnDetails: (sessionId, limit) => read(() => admin.turnDetails(sessionId, limit)),
    keysOf: (sessionId) => read(() => admin.keysOf(sessionId)),
    ownedSessions: () => read(() => admin.ownedSessions()),
    idsBeginning: (beginning, limit) => read(() => admin.idsBeginning(beginning, limit)),
    turnsEnded: (query) => read(() => admin.turnsEnded(query)),
    forksOf: (sessionId, limit) => read(() => admin.forksOf(sessionId, limit)),
    operatorRelease: (sessionId) => read(() => admin.operatorRelease(sessionId)),
    operatorClose: (sessionId) => read(() => admin.operatorClose(sessionId)),
    dropAnchor: (sessionId) => read(() => admin.dropAnchor(sessionId)),
    purge: (options) => read(() => admin.purge(options)),
    keepStory: (sessionId, turnId, record) => read(() => admin.keepStory(sessionId, turnId, record)),
    story: (sessionId) => read(() => admin.story(sessionId)),
    eraseResponse: (scope, responseId) => read(() => admin.eraseResponse(scope, responseId)),
    keepObjects: (scope, kind, ids) => read(() => objects.keepObjects(scope, kind, ids)),
    ownObjects: (scope, ids) => read(() => objects.ownObjects(scope, ids)),
    listObjects: (query) => read(() => objects.listObjects(query)),
    dropObject: (scope, id) => read(() => objects.dropObject(scope, id)),
    pepper: () => read(() => database.pepper),
    async shutdown() {
      down = true;
    },
  };
}
