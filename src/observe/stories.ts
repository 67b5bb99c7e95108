import express, { type Router } from 'express';
import { BridgeError } from '../errors.ts';
import type { AccessRule } from '../http/access.ts';
import type { SessionSummary, StoreAdmin, TurnDetail, WorkerRegistry } from '../store/port.ts';
import { answerSentence, explain, explainRequest, replay } from './explain.ts';
import type { FailedRequest } from './failures.ts';
import { type FlightRecord, recordOf } from './trace.ts';

interface StoriesOptions {
  store: Pick<StoreAdmin, 'listSessions' | 'story' | 'idsBeginning' | 'turnDetails' | 'turnsOf'> &
    Pick<WorkerRegistry, 'workers'>;
  /** Returns this worker's record of a session. */
  remembered(sessionId: string): FlightRecord | null;
  /**
   * Finds requests that ended on any worker, by the beginning of their id or that of their turn or session, each with that
   * worker's record of the session.
   */
  ended(beginning: string): Promise<readonly EndedRequest[]>;
  allow: AccessRule;
}

interface EndedRequest {
  failed: FailedRequest;
  record: FlightRecord | null;
}

/** Maximum number of a session's turns that a story may mention. */
const TURNS = 50;
/** Shortest beginning of an id that is looked up, in characters, and most ids that an answer lists. */
const SHORTEST_BEGINNING = 4;
const MOST_NAMED = 5;

/** Returns the newer of this worker's record and the record stored when a turn ended badly. */
function newest(remembered: FlightRecord | null, kept: FlightRecord | null): FlightRecord | null {
  if (!remembered || !kept) return remembered ?? kept;
  return (remembered.events.at(-1)?.t ?? 0) >= (kept.events.at(-1)?.t ?? 0) ? remembered : kept;
}

/** What an id, or its beginning, names. */
interface Named {
  /** The whole id. */
  id: string;
  session: SessionSummary | null;
  /** The request with that id, or the last one of that turn or session that a worker remembers. */
  request: EndedRequest | null;
}

/** Says what the client of the named turn got, from its row. */
function turnSentence(turns: readonly TurnDetail[], id: string): string[] {
  const turn = turns.find((each) => each.id === id || each.responseId === id);
  if (!turn) return [];
  const { state, facts, responseId } = turn;
  const answer = answerSentence({
    terminal: state,
    outcome: facts?.outcome ?? null,
    fault: facts?.fault ?? null,
    upstreamStatus: facts?.upstreamStatus ?? null,
    heldMs: facts?.heldMs ?? null,
    responseId,
  });
  return [`Turn ${turn.id.slice(0, 8)} is recorded as ${state}. ${answer}`];
}

/**
 * Creates the route `GET /admin/stories/:id`, where the id is that of a session, response, turn or request, or its
 * beginning. It answers with sentences that describe what happened and what the client got, and with the record they are
 * based on.
 */
export function storiesRouter({ store, remembered, ended, allow }: StoriesOptions): Router {
  const router = express.Router();
  const sessionNamed = async (search: string) => (await store.listSessions({ limit: 1, search })).rows[0] ?? null;

  /** @throws {BridgeError} `bridge_not_found`, or `bridge_invalid_request` when several ids begin like this */
  async function named(given: string): Promise<Named> {
    const session = await sessionNamed(given);
    const requests = given.length < SHORTEST_BEGINNING ? [] : await ended(given);
    const exact = requests.find(({ failed }) => [failed.request, failed.turn, failed.session].includes(given));
    if (session || exact) {
      const sessionId = exact?.failed.session ?? null;
      return {
        id: given,
        session: session ?? (sessionId === null ? null : await sessionNamed(sessionId)),
        request: exact ?? null,
      };
    }
    const ids = given.length < SHORTEST_BEGINNING ? [] : await store.idsBeginning(given, MOST_NAMED);
    const found = new Map<string, Omit<Named, 'session'> & { sessionId: string | null }>();
    for (const { id, sessionId } of ids) found.set(id, { id, sessionId, request: null });
    for (const request of requests) {
      const { failed } = request;
      const id = [failed.request, failed.turn, failed.session].find((each) => each?.startsWith(given))!;
      if (!found.get(id)?.request) found.set(id, { id, sessionId: failed.session, request });
    }
    const [one, ...others] = found.values();
    if (!one) {
      throw new BridgeError('bridge_not_found', {
        detail: 'There is no such session or response. No worker has a record of a failed request with that id.',
      });
    }
    if (others.length > 0) {
      const shown = [...found.keys()].slice(0, MOST_NAMED).join(', ');
      throw new BridgeError('bridge_invalid_request', {
        param: 'id',
        detail: `Several ids begin with ${given}: ${shown}. Give more of it.`,
      });
    }
    return {
      id: one.id,
      session: one.sessionId === null ? null : await sessionNamed(one.sessionId),
      request: one.request,
    };
  }

  router.get('/admin/stories/:id', async (req, res) => {
    allow(req);
    const { id, session, request } = await named(String(req.params.id));
    const sessionId = session?.id ?? request?.failed.session ?? id;
    const known = newest(remembered(sessionId), session && recordOf(await store.story(sessionId)));
    // A request that failed before its session was created has no row, and no row contains a request id.
    const isRequest = request !== null && request.failed.request === id;
    const lost = known === null || session === null || isRequest ? request : null;
    const record = known ?? lost?.record ?? null;
    const details = session ? await store.turnDetails(sessionId, TURNS) : [];
    const told = [...(lost ? explainRequest(lost.failed) : []), ...(isRequest ? [] : turnSentence(details, id))];
    if (!record && told.length === 0) {
      throw new BridgeError('bridge_not_found', {
        detail: 'There is no record of that session on this worker or in the database.',
      });
    }
    const [turns, workers] = await Promise.all([session ? store.turnsOf(sessionId, TURNS) : [], store.workers()]);
    const now = { session, turns, workers };
    res.set('cache-control', 'no-store').json({
      id,
      // Both end with the reason for the client's answer.
      // The first of them are about the request or the turn itself, the rest about its session.
      own: new Set(told).size,
      story: [...new Set([...told, ...(record ? explain(record, now) : [])])],
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
