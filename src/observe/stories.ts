import express, { type Router } from 'express';
import { BridgeError } from '../errors.ts';
import type { AccessRule } from '../http/access.ts';
import type { SessionReads, StoreAdmin, WorkerRegistry } from '../store/port.ts';
import { explain, explainFailure, replay } from './explain.ts';
import type { FailedRequest } from './failures.ts';
import type { FlightRecord } from './trace.ts';

interface StoriesOptions {
  store: Pick<StoreAdmin, 'listSessions' | 'story'> & Pick<SessionReads, 'turnsOf'> & Pick<WorkerRegistry, 'workers'>;
  /** Returns this worker's record of a session. */
  remembered(sessionId: string): FlightRecord | null;
  /**
   * Finds a failed request on any worker, by its id or that of its turn or session, together with that worker's record
   * of the session.
   */
  failed(id: string): Promise<{ failed: FailedRequest; record: FlightRecord | null } | null>;
  allow: AccessRule;
}

/** Maximum number of a session's turns that a story may mention. */
const TURNS = 50;

/** Returns the newer of this worker's record and the record stored when a turn ended badly. */
function newest(remembered: FlightRecord | null, kept: FlightRecord | null): FlightRecord | null {
  if (!remembered || !kept) return remembered ?? kept;
  return (remembered.events.at(-1)?.t ?? 0) >= (kept.events.at(-1)?.t ?? 0) ? remembered : kept;
}

/**
 * Creates the route `GET /admin/stories/:id`, where the id is that of a session, response, turn or request. It answers
 * with sentences that describe what happened, and with the record they are based on.
 */
export function storiesRouter({ store, remembered, failed, allow }: StoriesOptions): Router {
  const router = express.Router();
  router.get('/admin/stories/:id', async (req, res) => {
    allow(req);
    const given = String(req.params.id);
    const { rows } = await store.listSessions({ limit: 1, search: given });
    const session = rows[0] ?? null;
    const id = session?.id ?? given;
    const known = newest(remembered(id), session && ((await store.story(id)) as FlightRecord | null));
    // A request that failed before its session was created has no row, and no row contains a request id.
    const lost = known === null || session === null ? await failed(given) : null;
    const record = known ?? lost?.record ?? null;
    if (!session && !record && !lost) {
      throw new BridgeError('bridge_not_found', {
        detail: 'There is no such session or response. No worker has a record of a failed request with that id.',
      });
    }
    if (!record && !lost) {
      throw new BridgeError('bridge_not_found', {
        detail: 'There is no record of that session on this worker or in the database.',
      });
    }
    const failure = lost ? explainFailure(lost.failed) : [];
    const [turns, workers] = await Promise.all([session ? store.turnsOf(id, TURNS) : [], store.workers()]);
    const now = { session, turns, workers };
    res.set('cache-control', 'no-store').json({
      // Both end with the reason for the client's answer.
      story: [...new Set([...failure, ...(record ? explain(record, now) : [])])],
      endsIn: record && endOf(record),
      record,
      failed: lost?.failed ?? null,
    });
  });
  return router;
}

/** Returns the state in which replay of the record ends, or null for a record of another version of the machine. */
function endOf(record: FlightRecord): unknown {
  try {
    return replay(record).value;
  } catch {
    return null;
  }
}
