import { createHash } from 'node:crypto';
import { detailColumns } from '../../store/entities.ts';
import {
  type EndedQuery,
  type EndedTurn,
  type ForkedTurn,
  type FoundId,
  type KeyRef,
  type OperatorVerdict,
  type OwnedSessions,
  type Purged,
  type PurgeKind,
  type PurgeStep,
  RESPONSE_KIND,
  type SessionPage,
  type SessionQuery,
  type SessionRow,
  type SessionSummary,
  SHORTEST_PREFIX,
  type TurnDetail,
  type TurnRow,
} from '../../store/port.ts';
import { judgeOperate } from '../../store/rules.ts';
import {
  copied,
  forgetIndex,
  freeKeys,
  indexTurn,
  keyOf,
  type MemoryDatabase,
  type SessionRecord,
  scoped,
  sessionRow,
  type TurnRecord,
  turnRow,
} from './database.ts';

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');
const HOUR = 3_600_000;
const endedFields = [
  ...(['id', 'sessionId', 'scope', 'authorWorkerId', 'shape', 'state'] as const),
  ...(['responseId', 'usage', 'error', 'facts'] as const),
];
/** Formats whole milliseconds. Lists are ordered by the same truncated value, so that a cursor matches its row. */
const iso = (ms: number) => new Date(Math.floor(ms)).toISOString();

/**
 * Creates the operations of operators and the janitor over maps.
 *
 * @param now returns the store's clock in milliseconds
 */
export function createAdmin(db: MemoryDatabase, now: () => number) {
  const sessionOf = (id: string) => [...db.sessions.values()].find((session) => session.id === id) ?? null;
  const ofSession = (session: SessionRecord) => {
    return ({ scope, sessionId }: { scope: string; sessionId: string }) =>
      scope === session.scope && sessionId === session.id;
  };
  const turnsOf = (session: SessionRecord | null) =>
    session === null ? [] : [...db.turns.values()].filter(ofSession(session));

  const keyHashes = (session: SessionRecord): KeyRef[] =>
    [...db.keys]
      .filter(([, owner]) => owner === keyOf(session))
      .map(([name]) => {
        const [, kind, hash] = JSON.parse(name) as [string, KeyRef['kind'], string];
        return { kind, hash };
      })
      .sort((a, b) => (a.kind + a.hash < b.kind + b.hash ? -1 : 1));

  const isPrefix = (search: string) => search.length >= SHORTEST_PREFIX && /^[0-9a-f-]{1,64}$/.test(search);
  const isNamed = (id: string, search: string) => id === search || (isPrefix(search) && id.startsWith(search));

  const matches = (session: SessionRecord, { state, search, ownerWorkerId, busy }: SessionQuery) =>
    (state === undefined || session.state === state) &&
    (busy === undefined || (session.activeTurnId !== null) === busy) &&
    (ownerWorkerId === undefined || session.ownerWorkerId === ownerWorkerId) &&
    (search === undefined ||
      isNamed(session.id, search) ||
      turnsOf(session).some((turn) => isNamed(turn.id, search) || turn.responseId === search) ||
      keyHashes(session).some(({ hash }) => isNamed(hash, search) || hash === sha256(search)));

  const lastTurnOf = (session: SessionRecord): SessionSummary['lastTurn'] => {
    const last = turnsOf(session).at(-1);
    if (!last) return null;
    const { state, facts } = last;
    return { state, outcome: facts?.outcome ?? null, form: facts?.form ?? null };
  };

  const operate = (sessionId: string, change: (session: SessionRecord) => void): OperatorVerdict => {
    const session = sessionOf(sessionId);
    const verdict = judgeOperate(session);
    if (verdict !== 'ok') return verdict;
    session!.ownerWorkerId = null;
    session!.ownerNonce = null;
    session!.epoch += 1;
    session!.revision += 1;
    session!.updatedAt = now();
    change(session!);
    return verdict;
  };

  const forgetTurn = (turn: TurnRecord) => {
    forgetIndex(db, turn);
    db.turns.delete(keyOf(turn));
    db.items.delete(keyOf(turn));
    if (turn.responseId !== null) db.responses.delete(scoped(turn.scope, turn.responseId));
  };

  const isContinued = ({ scope, id }: TurnRecord) =>
    [...db.turns.values()].some((turn) => turn.scope === scope && turn.parentTurnId === id);
  const isHead = ({ scope, id }: TurnRecord, of: (session: SessionRecord) => boolean) =>
    [...db.sessions.values()].some((session) => session.scope === scope && session.headTurnId === id && of(session));

  /** Purges per kind of row what is older than the given time, in milliseconds of the store's clock. */
  const takers: Record<PurgeKind, (until: number) => Purged['removed']> = {
    sessions(until) {
      const removed = { sessions: 0, turns: 0 };
      for (const session of [...db.sessions.values()]) {
        const owner = db.workers.get(session.ownerWorkerId ?? '');
        const running = owner !== undefined && owner.state !== 'dead' && owner.heartbeatExpiresAt >= until;
        if (session.updatedAt >= until || (session.activeTurnId !== null && running)) continue;
        for (const turn of turnsOf(session).reverse()) {
          if (isContinued(turn) || isHead(turn, ({ id }) => id !== session.id)) continue;
          forgetTurn(turn);
          removed.turns += 1;
        }
        freeKeys(db, session);
        if (turnsOf(session).length === 0) {
          const isOwn = ofSession(session);
          for (const [key, story] of [...db.stories]) if (isOwn(story)) db.stories.delete(key);
          db.sessions.delete(keyOf(session));
          removed.sessions += 1;
        } else if (session.state !== 'closed') {
          const resting = { ownerWorkerId: null, ownerNonce: null, activeTurnId: null, state: 'closed' } as const;
          Object.assign(session, { ...resting, epoch: session.epoch + 1, revision: session.revision + 1 });
        }
      }
      return removed;
    },
    turns(until) {
      const removed = { turns: 0 };
      for (const turn of [...db.turns.values()].reverse()) {
        if (turn.endedAt === null || turn.endedAt >= until || isContinued(turn)) continue;
        if (isHead(turn, ({ id, state }) => id !== turn.sessionId || state !== 'closed')) continue;
        forgetTurn(turn);
        removed.turns += 1;
      }
      return removed;
    },
    workers(until) {
      const removed = { workers: 0 };
      for (const worker of [...db.workers.values()]) {
        const named = [...db.sessions.values()].some(({ ownerWorkerId }) => ownerWorkerId === worker.id);
        if (named || worker.heartbeatExpiresAt >= until) continue;
        db.workers.delete(worker.id);
        removed.workers += 1;
      }
      return removed;
    },
    /** This store keeps items with their turns. */
    shared: () => ({ shared: 0 }),
    objects(until) {
      const removed = { objects: 0 };
      for (const [key, { kind, createdAt }] of [...db.objects]) {
        if (kind === RESPONSE_KIND && createdAt < until && db.objects.delete(key)) removed.objects += 1;
      }
      return removed;
    },
  };

  return {
    listSessions(query: SessionQuery): SessionPage {
      const found = [...db.sessions.values()]
        .filter((session) => matches(session, query))
        .sort((a, b) => Math.floor(b.updatedAt) - Math.floor(a.updatedAt) || (a.id < b.id ? 1 : -1));
      const after = query.before
        ? found.filter(({ updatedAt, id }) => {
            const at = Date.parse(query.before!.updatedAt);
            const shown = Math.floor(updatedAt);
            return shown < at || (shown === at && id < query.before!.id);
          })
        : found;
      const rows = after.slice(0, query.limit).map((session) => ({
        ...sessionRow(session),
        createdAt: iso(session.createdAt),
        updatedAt: iso(session.updatedAt),
        turnCount: turnsOf(session).length,
        lastTurn: lastTurnOf(session),
      }));
      return { rows, more: after.length > query.limit, total: found.length };
    },

    sessionById(id: string): SessionRow | null {
      const session = sessionOf(id);
      return session && sessionRow(session);
    },

    turnsOf: (sessionId: string, limit: number): readonly TurnRow[] =>
      turnsOf(sessionOf(sessionId)).reverse().slice(0, limit).map(turnRow),

    turnDetails(sessionId: string, limit: number): readonly TurnDetail[] {
      return turnsOf(sessionOf(sessionId))
        .reverse()
        .slice(0, limit)
        .map((turn) => {
          const items = db.items.get(keyOf(turn));
          return {
            ...turnRow(turn),
            ...copied<Pick<TurnDetail, (typeof detailColumns)[number]>>(turn, detailColumns),
            facts: turn.facts,
            startedAt: iso(turn.startedAt),
            endedAt: turn.endedAt === null ? null : iso(turn.endedAt),
            inputBytes: items ? Buffer.byteLength(items.input) : null,
            outputBytes: items ? Buffer.byteLength(items.output) : null,
          };
        });
    },

    keysOf(sessionId: string): readonly KeyRef[] {
      const session = sessionOf(sessionId);
      return session === null ? [] : keyHashes(session);
    },

    ownedSessions(): readonly OwnedSessions[] {
      const owned = Map.groupBy(db.sessions.values(), ({ ownerWorkerId }) => ownerWorkerId);
      return [...owned].flatMap(([workerId, sessions]) =>
        workerId === null
          ? []
          : [
              {
                workerId,
                sessions: sessions.length,
                busy: sessions.filter((each) => each.activeTurnId !== null).length,
              },
            ],
      );
    },

    idsBeginning(beginning: string, limit: number): readonly FoundId[] {
      const turns = [...db.turns.values()];
      const kinds: FoundId[][] = [
        [...db.sessions.values()].map(({ id }) => ({ id, sessionId: id })),
        turns.map(({ id, sessionId }) => ({ id, sessionId })),
        turns.flatMap(({ responseId, sessionId }) => (responseId === null ? [] : [{ id: responseId, sessionId }])),
      ];
      return kinds.flatMap((kind) => kind.filter(({ id }) => id.startsWith(beginning)).slice(0, limit));
    },
    turnsEnded({ withinMs, olderMs, before, limit, authors, failed }: EndedQuery): readonly EndedTurn[] {
      const within = ({ endedAt, id }: TurnRecord) => {
        if (endedAt === null || now() - endedAt > withinMs || (olderMs !== undefined && now() - endedAt <= olderMs)) {
          return false;
        }
        if (!before) return true;
        const [at, last] = [Math.floor(endedAt), Date.parse(before.endedAt)];
        return at < last || (at === last && id < before.id);
      };
      const newest = [...db.turns.values()]
        .filter((turn) => within(turn) && (!authors || authors.includes(turn.authorWorkerId)))
        .sort((a, b) => Math.floor(b.endedAt!) - Math.floor(a.endedAt!) || (a.id < b.id ? 1 : -1));
      return newest
        .filter(({ state }) => !failed || state === 'failed' || state === 'lost')
        .slice(0, limit)
        .map((turn) => ({
          ...copied<Omit<EndedTurn, 'model' | 'startedAt' | 'endedAt' | 'ageMs'>>(turn, endedFields),
          model: db.sessions.get(scoped(turn.scope, turn.sessionId))?.model ?? null,
          startedAt: iso(turn.startedAt),
          endedAt: iso(turn.endedAt!),
          ageMs: now() - turn.endedAt!,
        }));
    },

    forksOf(sessionId: string, limit: number): readonly ForkedTurn[] {
      const session = sessionOf(sessionId);
      const mine = new Set(turnsOf(session).map(({ id }) => id));
      return [...db.turns.values()]
        .filter(
          (turn) => turn.scope === session?.scope && turn.sessionId !== sessionId && mine.has(turn.parentTurnId ?? ''),
        )
        .reverse()
        .slice(0, limit)
        .map(({ id, parentTurnId, state, sessionId: other }) => ({
          turnId: id,
          sessionId: other,
          parentTurnId: parentTurnId!,
          state,
        }));
    },

    operatorRelease: (sessionId: string) =>
      operate(sessionId, (session) => {
        session.state = 'stale';
      }),

    operatorClose: (sessionId: string) =>
      operate(sessionId, (session) => {
        session.state = 'closed';
        freeKeys(db, session);
      }),

    dropAnchor: (sessionId: string) =>
      operate(sessionId, (session) => {
        session.state = 'stale';
        const head = db.turns.get(scoped(session.scope, session.headTurnId ?? ''));
        if (head) head.storedUpstream = false;
      }),

    /** One step purges everything that qualifies: this store has no concurrent callers that would wait for it. */
    purge({ kind, olderThanHours }: PurgeStep): Purged {
      return { removed: takers[kind](now() - olderThanHours * HOUR), after: [], more: false };
    },

    keepStory(sessionId: string, turnId: string, record: unknown): void {
      const session = sessionOf(sessionId);
      if (session === null) return;
      const { scope } = session;
      const key = scoped(scope, turnId);
      if (!db.stories.has(key)) db.stories.set(key, { scope, sessionId, record });
    },

    story(sessionId: string): unknown {
      return [...db.stories.values()].findLast((story) => story.sessionId === sessionId)?.record ?? null;
    },

    eraseResponse(scope: string, responseId: string): boolean {
      const turn = db.turns.get(scoped(scope, db.responses.get(scoped(scope, responseId)) ?? ''));
      if (!turn) return false;
      turn.replay = 'never';
      turn.forms = null;
      forgetIndex(db, turn);
      turn.itemIds = [];
      indexTurn(db, turn);
      db.items.delete(keyOf(turn));
      return true;
    },
  };
}
