import express, { type Request, type RequestHandler, type Response, type Router } from 'express';
import { BridgeError } from '../errors.ts';
import { type AccessRule, isSameOrigin } from '../http/access.ts';
import type { Log } from '../log.ts';
import type { ModelPrice } from '../observe/activity.ts';
import { boundedCopy, recordOf } from '../observe/trace.ts';
import type { OperatorVerdict, SessionStateName, SessionSummary, TurnDetail, WorkerRow } from '../store/port.ts';
import type { Clock } from '../system.ts';
import { type AdminPort, askAll, askFailures, askOwners, type OperatorAction } from './fleet.ts';
import { createOverview, failuresOfRows, filterOf, turnsBehind, windowOf } from './overview.ts';
import { sessionOutline, timelineOf, whyAndExit, whyAndExitUnstored } from './views.ts';

/**
 * Removes the nonce, which proves ownership to the fence and must not be disclosed. The snapshot is bounded, because an earlier
 * release or damage may have left any JSON there.
 */
const shownSession = ({ ownerNonce: _, snapshot, ...row }: SessionSummary) => ({
  ...row,
  snapshot: boundedCopy(snapshot),
});

/**
 * Returns the fields of a worker's row that operators see.
 *
 * @param me id of the worker that answers
 */
const shownWorker = (row: WorkerRow | undefined, me: string) =>
  row
    ? { id: row.id, state: row.state, leaseLeftMs: row.leaseLeftMs, version: row.version, here: row.id === me }
    : null;

/** Reduces an error to its identifiers. Providers may repeat user content in their messages. */
function shownError(error: unknown) {
  if (typeof error !== 'object' || error === null) return null;
  const { code, type, status } = error as Record<string, unknown>;
  const name = (value: unknown) => (typeof value === 'string' && /^[\w.:-]{1,80}$/.test(value) ? value : null);
  return { code: name(code), type: name(type), status: typeof status === 'number' ? status : null };
}

/** Keeps only numbers, by name: providers may put anything into `usage`. */
function shownUsage(usage: unknown, depth = 2): Record<string, unknown> | null {
  if (typeof usage !== 'object' || usage === null || Array.isArray(usage)) return null;
  const fields = Object.entries(usage).flatMap(([name, value]): [string, unknown][] => {
    if (!/^\w{1,60}$/.test(name)) return [];
    if (typeof value === 'number') return [[name, value]];
    const below = depth > 1 ? shownUsage(value, depth - 1) : null;
    return below ? [[name, below]] : [];
  });
  return Object.fromEntries(fields);
}

/** Returns a turn without its credential fingerprint, with `error` and `usage` reduced to safe fields. */
const shownTurn = ({ credentialFp: _, error, usage, ...turn }: TurnDetail) => ({
  ...turn,
  error: shownError(error),
  usage: shownUsage(usage),
});

interface AdminApiOptions {
  port: AdminPort;
  allow: AccessRule;
  clock: Pick<Clock, 'now' | 'wall' | 'after'>;
  logger: Log<'warn'>;
  /** Prices per million tokens by model. */
  prices: ReadonlyMap<string, ModelPrice>;
}

const states = new Set<string>(['connecting', 'live', 'reconnecting', 'stale', 'closed']);
const DEFAULT_PAGE = 50;
const LONGEST_PAGE = 500;
/** Time for which a close waits until a running turn has ended, and interval of the checks, in milliseconds. */
const CLOSE_WITHIN_MS = 2_000;
const LOOK_EVERY_MS = 25;
/** Maximum number of a session's turns in a response. */
const MOST_TURNS = 200;
/** Maximum number of failed requests in a response. */
const MOST_FAILURES = 200;
/** Maximum number of sessions in a response that forked from the requested one. */
const MOST_FORKS = 50;

function cursorOf(text: unknown): { updatedAt: string; id: string } | undefined {
  if (text === undefined) return undefined;
  const [updatedAt, id] = Buffer.from(String(text), 'base64url').toString('utf8').split('\n', 2);
  if (!updatedAt || !id || Number.isNaN(Date.parse(updatedAt))) {
    throw new BridgeError('bridge_invalid_request', { param: 'cursor', detail: 'cursor: not one of this API.' });
  }
  return { updatedAt, id };
}

function limitOf(text: unknown): number {
  const limit = text === undefined ? DEFAULT_PAGE : Number(text);
  if (!Number.isInteger(limit) || limit < 1 || limit > LONGEST_PAGE) {
    throw new BridgeError('bridge_invalid_request', { param: 'limit', detail: `limit: 1 to ${LONGEST_PAGE}.` });
  }
  return limit;
}

function stateOf(text: unknown): SessionStateName | undefined {
  if (text === undefined || text === '') return undefined;
  if (!states.has(String(text))) throw new BridgeError('bridge_invalid_request', { param: 'state' });
  return text as SessionStateName;
}

const textOf = (text: unknown) => (typeof text === 'string' && text.trim() !== '' ? text.trim() : undefined);

/**
 * Creates the operators' API. Requests and responses are JSON, errors use the error envelope, and every action is
 * logged.
 */
export function createAdminApi({ port, allow, clock, logger, prices }: AdminApiOptions): Router {
  const router = express.Router();
  const { store } = port;
  const overview = createOverview({ port, clock, prices });

  const guard: RequestHandler = (req, res, next) => {
    allow(req);
    res.set('cache-control', 'no-store');
    next();
  };
  /**
   * CSRF check: without permission by CORS, a page of another origin can send neither this content type nor this
   * origin.
   */
  const sameOrigin: RequestHandler = (req, _res, next) => {
    if (!isSameOrigin(req.headers) || !/^application\/json\b/i.test(req.headers['content-type'] ?? '')) {
      throw new BridgeError('bridge_forbidden_origin');
    }
    next();
  };

  router.get('/admin/workers', guard, async (_req, res) => {
    const [workers, owned] = await Promise.all([store.workers(), store.ownedSessions()]);
    const counts = new Map(owned.map(({ workerId, ...count }) => [workerId, count]));
    res.json({
      workers: workers.map((row) => ({
        ...shownWorker(row, port.workerId),
        ...(counts.get(row.id) ?? { sessions: 0, busy: 0 }),
      })),
    });
  });

  router.get('/admin/machines/session', guard, (_req, res) => {
    res.json(sessionOutline());
  });

  router.get('/admin/overview', guard, async (req, res) => {
    res.json(await overview(windowOf(req.query.window)));
  });

  router.get('/admin/turns', guard, async (req, res) => {
    const now = clock.wall();
    res.json(await turnsBehind(port, filterOf(req.query, now), cursorOf(req.query.cursor), now));
  });

  router.get('/admin/failures', guard, async (req, res) => {
    const most = Math.min(MOST_FAILURES, limitOf(req.query.limit));
    const filter = filterOf(req.query, clock.wall());
    const [recorded, stored] = await Promise.all([
      store.workers().then((workers) => askFailures(port, workers, filter, most)),
      failuresOfRows(port, filter, clock.wall()),
    ]);
    const known = new Set(recorded.map(({ turn }) => turn));
    const all = [...recorded, ...stored.filter(({ turn }) => !known.has(turn))];
    res.json({ failures: all.sort((one, other) => other.t - one.t).slice(0, most) });
  });

  router.get('/admin/sessions', guard, async (req, res) => {
    const { limit, cursor, state, q, owner, busy } = req.query;
    const [page, workers] = await Promise.all([
      store.listSessions({
        limit: limitOf(limit),
        before: cursorOf(cursor),
        state: stateOf(state),
        search: textOf(q),
        ownerWorkerId: textOf(owner),
        busy: busy === '1' ? true : undefined,
      }),
      store.workers(),
    ]);
    const { views } = await askOwners(port, page.rows, workers);
    const owners = new Map(workers.map((row) => [row.id, row]));
    const last = page.rows.at(-1);
    // Sessions without a row have no place in the order of rows: the first page shows them all.
    const shows = cursor === undefined && (state === undefined || state === '' || state === 'connecting');
    const unstored = shows ? await unstoredSessions(workers, textOf(q), textOf(owner)) : [];
    const isEmpty = page.total === 0 && unstored.length === 0 && textOf(q) === undefined;
    res.json({
      unstored,
      /** The last failure, where it may explain why there are no sessions. */
      lastFailure: isEmpty ? ((await askFailures(port, workers, { of: null }, 1))[0] ?? null) : null,
      sessions: page.rows.map((row) => ({
        ...shownSession(row),
        owner: shownWorker(owners.get(row.ownerWorkerId ?? ''), port.workerId),
        actor: views.get(row.id) ?? null,
      })),
      total: page.total,
      cursor: page.more && last ? Buffer.from(`${last.updatedAt}\n${last.id}`).toString('base64url') : null,
    });
  });

  /** Returns the sessions of all workers whose first turn is not stored yet. */
  async function unstoredSessions(workers: readonly WorkerRow[], search?: string, owner?: string) {
    const answers = await askAll(port, workers, { unstored: true });
    const owners = new Map(workers.map((row) => [row.id, row]));
    return answers.flatMap(({ workerId, answer }) =>
      (answer.unstored ?? [])
        .filter(({ id }) => (search === undefined || id.startsWith(search)) && (owner ?? workerId) === workerId)
        .map((session) => ({ ...session, owner: shownWorker(owners.get(workerId), port.workerId) })),
    );
  }

  async function one(id: string) {
    // The search also matches thread ids, and a thread id may look like a session id.
    const found = await store.listSessions({ limit: DEFAULT_PAGE, search: id });
    const row = found.rows.find((each) => each.id === id);
    if (row) return row;
    // The first turn of a session creates its row. If that turn failed, the record of the failed request is all there
    // is.
    const [failed] = await askFailures(port, await store.workers(), { of: id }, 1);
    const why = failed ? ` Its first turn failed: ${failed.cause ?? failed.fault ?? failed.upstreamStatus}.` : '';
    throw new BridgeError('bridge_not_found', { detail: `There is no such session.${why}` });
  }

  /** Returns a session that has no row yet; null when no worker has it. */
  async function unstoredSession(id: string) {
    const workers = await store.workers();
    const found = (await unstoredSessions(workers)).find((each) => each.id === id);
    if (!found) return null;
    const { record } = await askOwners(port, [{ id, ownerWorkerId: found.owner?.id ?? null }], workers, id);
    return {
      unstored: found,
      owner: found.owner,
      timeline: record && timelineOf(record, 'memory'),
      ...whyAndExitUnstored(found),
    };
  }

  router.get('/admin/sessions/:id', guard, async (req, res) => {
    const id = String(req.params.id);
    const unstored = (await store.sessionById(id)) === null ? await unstoredSession(id) : null;
    if (unstored) return void res.json(unstored);
    const row = await one(id);
    const [turns, keys, forks, workers, kept] = await Promise.all([
      store.turnDetails(row.id, MOST_TURNS),
      store.keysOf(row.id),
      store.forksOf(row.id, MOST_FORKS),
      store.workers(),
      store.story(row.id).then(recordOf),
    ]);
    const { views, record } = await askOwners(port, [row], workers, row.id);
    const beginning = turns.at(-1)?.parentTurnId;
    const [head, origin] = await Promise.all([
      turns.find(({ id }) => id === row.headTurnId) ?? (row.headTurnId ? store.turn(row.scope, row.headTurnId) : null),
      beginning && turns.length < MOST_TURNS ? store.turn(row.scope, beginning) : null,
    ]);
    const owner = workers.find(({ id }) => id === row.ownerWorkerId);
    const actor = views.get(row.id) ?? null;
    const headContinuable = head && (head.replay === 'exact' || head.storedUpstream);
    const isNewer = (record?.events.at(-1)?.t ?? 0) >= (kept?.events.at(-1)?.t ?? 0);
    const timeline = record && isNewer ? timelineOf(record, 'memory') : kept && timelineOf(kept, 'story');
    res.json({
      session: shownSession(row),
      owner: shownWorker(owner, port.workerId),
      keys: keys.map(({ kind, hash }) => ({ kind, hash: hash.slice(0, 12) })),
      turns: turns.map(shownTurn),
      /** Turn of another session from which this one was forked. */
      origin: origin && { turnId: origin.id, sessionId: origin.sessionId },
      forks,
      actor,
      timeline: timeline || null,
      ...whyAndExit({ session: row, owner: owner ?? null, headContinuable, actor: actor?.state ?? null }),
    });
  });

  const actions: Record<OperatorAction, (id: string) => Promise<OperatorVerdict>> = {
    release: (id) => store.operatorRelease(id),
    close: (id) => store.operatorClose(id),
    'drop-anchor': (id) => store.dropAnchor(id),
  };
  /**
   * Asks the owner to cancel the running turn and to close the session. Returns whether that has happened within
   * `CLOSE_WITHIN_MS`.
   */
  async function closedByOwner(id: string): Promise<boolean> {
    const row = await store.sessionById(id);
    const owner = (await store.workers()).find((each) => each.id === row?.ownerWorkerId);
    if (!row || !owner) return false;
    if (owner.id === port.workerId) port.tell(id, 'close');
    else port.hint(owner, { sessionId: id, epoch: row.epoch, news: 'close' });
    for (const until = clock.now() + CLOSE_WITHIN_MS; clock.now() < until; ) {
      const now = await store.session(row.scope, id);
      if (!now || now.state === 'closed') return true;
      await new Promise<void>((look) => clock.after(LOOK_EVERY_MS, look));
    }
    return false;
  }

  const act = (action: OperatorAction) => async (req: Request, res: Response) => {
    const id = String(req.params.id);
    const before = await store.sessionById(id);
    let verdict = await actions[action](id);
    let byOwner = false;
    if (verdict === 'busy' && action === 'close') {
      byOwner = await closedByOwner(id);
      // Without an answer of the owner, the turn may have ended all the same: then the session can be closed here.
      if (!byOwner) verdict = await store.operatorClose(id);
      // There was a session, so `missing` means that its owner has closed it since the last look.
      byOwner ||= before !== null && verdict === 'missing';
      if (byOwner) verdict = 'ok';
    }
    if (verdict === 'ok' && !byOwner) {
      port.tell(id, action);
      const owner = (await store.workers()).find((row) => row.id === before?.ownerWorkerId);
      if (before && owner && owner.id !== port.workerId)
        port.hint(owner, { sessionId: id, epoch: before.epoch + 1, news: 'claimed' });
    }
    logger.warn({ audit: action, session: id, from: req.socket.remoteAddress, verdict }, 'an operator acted');
    if (verdict === 'missing') throw new BridgeError('bridge_not_found', { detail: 'There is no such open session.' });
    if (verdict === 'busy') throw new BridgeError('bridge_session_busy');
    res.json({ done: action, session: id });
  };
  for (const action of Object.keys(actions) as OperatorAction[]) {
    router.post(`/admin/sessions/:id/${action}`, guard, sameOrigin, act(action));
  }
  return router;
}
