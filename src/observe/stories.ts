import express, { type Router } from 'express';
import { BridgeError } from '../errors.ts';
import type { StoreAdmin } from '../store/admin-port.ts';
import type { SessionReads, WorkerRegistry } from '../store/port.ts';
import type { AccessRule } from './access.ts';
import { explain, explainFailure } from './explain.ts';
import type { FailedRequest } from './failures.ts';
import type { FlightRecord } from './flight.ts';
import { replay } from './replay.ts';

export interface StoriesOptions {
  store: Pick<StoreAdmin, 'listSessions' | 'story'> & Pick<SessionReads, 'turnsOf'> & Pick<WorkerRegistry, 'workers'>;
  /** What this worker remembers of a session. */
  remembered(sessionId: string): FlightRecord | null;
  /** A request that failed, at whichever worker, by its id or that of its turn or session, and what is remembered of it there. */
  failed(id: string): Promise<{ failed: FailedRequest; record: FlightRecord | null } | null>;
  allow: AccessRule;
}

/** Turns of a session that a story may speak of. */
const TURNS = 50;

/** The newer of what this worker remembers and what was kept when a turn ended badly. */
function newest(remembered: FlightRecord | null, kept: FlightRecord | null): FlightRecord | null {
  if (!remembered || !kept) return remembered ?? kept;
  return (remembered.events.at(-1)?.t ?? 0) >= (kept.events.at(-1)?.t ?? 0) ? remembered : kept;
}

/** `GET /admin/stories/:id`, by session, response, turn or request id: what happened, in sentences, with the record behind them. */
export function storiesRouter({ store, remembered, failed, allow }: StoriesOptions): Router {
  const router = express.Router();
  router.get('/admin/stories/:id', async (req, res) => {
    allow(req);
    const given = String(req.params.id);
    const { rows } = await store.listSessions({ limit: 1, search: given });
    const session = rows[0] ?? null;
    const id = session?.id ?? given;
    const known = newest(remembered(id), session && ((await store.story(id)) as FlightRecord | null));
    // What failed before its session was created has no row; and no row names a request.
    const lost = known === null || session === null ? await failed(given) : null;
    const record = known ?? lost?.record ?? null;
    if (!session && !record && !lost) {
      throw new BridgeError('bridge_not_found', {
        detail: 'There is no such session or response. No worker remembers a request of that id that failed.',
      });
    }
    if (!record && !lost) {
      throw new BridgeError('bridge_not_found', { detail: 'Nothing is remembered of that session here.' });
    }
    const failure = lost ? explainFailure(lost.failed) : [];
    const [turns, workers] = await Promise.all([session ? store.turnsOf(id, TURNS) : [], store.workers()]);
    const now = { session, turns, workers };
    res.set('cache-control', 'no-store').json({
      story: [...failure, ...(record ? explain(record, now) : [])],
      endsIn: record && endOf(record),
      record,
      failed: lost?.failed ?? null,
    });
  });
  return router;
}

/** The state in which replaying the record through the machine ends; null for a record of another machine. */
function endOf(record: FlightRecord): unknown {
  try {
    return replay(record).value;
  } catch {
    return null;
  }
}
