import type { InferEntity } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/postgresql';
import { type RawBuilder, type SelectQueryBuilder, type SqlBool, sql } from 'kysely';
import {
  BridgeSession,
  columnsOf,
  endColumns,
  Meta,
  type SessionRow,
  SessionStory,
  startColumns,
  Turn,
  type TurnRow,
} from '../entities.ts';
import { holdsShared, packItem, packItems, type SharedPlaces, splitItems, usableItemIds } from '../items.ts';
import type {
  Answer,
  ClaimCall,
  ClaimVerdict,
  CloseCall,
  CloseVerdict,
  CreateCall,
  CreateVerdict,
  FoundId,
  KeyRef,
  Lookup,
  LookupResult,
  ReleaseCall,
  ReleaseVerdict,
  SavedState,
  SettleCall,
  SettleVerdict,
  StartCall,
  StartVerdict,
  TurnResult,
  TurnStart,
  WorkerRow,
} from '../port.ts';
import {
  MOST_COUNTED,
  MOST_PREFIXED,
  type OperatorVerdict,
  type OwnedSessions,
  type SessionPage,
  type SessionQuery,
  type SessionSummary,
  SHORTEST_PREFIX,
} from '../port.ts';
import type { Executor } from './executor.ts';
import {
  answered,
  callFunction,
  functionCall,
  isoText,
  json,
  optionalText,
  type QueryTables,
  RowRepository,
  storable,
  text,
} from './orm.ts';
import { idsBeginning, lookup, sessionJson } from './statements.ts';
import { factsOf } from './turn-repository.ts';

interface LookupAnswer {
  anchorTurn: TurnRow | null;
  /** Id of the session with the hard key, if there is one. */
  keyed: string | null;
  candidates: readonly TurnRow[];
  /** Every open session named by anchor, token, key or candidates, each once. */
  sessions: readonly SessionRow[];
  named: readonly string[];
  heads: readonly TurnRow[];
  owners: readonly WorkerRow[];
}

const byId = <Row extends { id: string }>(rows: readonly Row[]) => new Map(rows.map((row) => [row.id, row]));

/** Returns a turn's columns, in the order of the parameters of `create` and `start`. */
const turnParameters = (turn: TurnStart): unknown[] => startColumns.map((column) => storable(turn[column]));
const savedColumns = (saved: SavedState): unknown[] => [saved.state, json(saved.snapshot), saved.machineVersion];

type Sessions = SelectQueryBuilder<QueryTables & { s: QueryTables['bridge_session'] }, 's', object>;

/**
 * Sessions: the fence, the look-up of a request's evidence, and what operators see of them.
 *
 * A fence call is one function, one statement, one commit, on the connection of the ORM. It is never a flush: see
 * `entities.ts`.
 */
export class SessionRepository extends RowRepository<InferEntity<typeof BridgeSession>, SessionRow> {
  #pepper: string | null = null;

  constructor(em: EntityManager, executor: Executor) {
    super(em, BridgeSession, executor);
  }

  createSession(c: CreateCall): Promise<Answer<CreateVerdict>> {
    return callFunction(this.executor, 'holdfast_create', () => [
      text(c.scope),
      c.sessionId,
      c.me,
      c.nonce,
      text(c.upstreamId),
      optionalText(c.model),
      c.headTurnId,
      c.keys.map(({ kind }) => kind),
      c.keys.map(({ hash }) => hash),
      ...turnParameters(c.turn),
      ...savedColumns(c.saved),
    ]);
  }

  startTurn(c: StartCall): Promise<Answer<StartVerdict>> {
    return callFunction(this.executor, 'holdfast_start', () => [
      text(c.scope),
      c.sessionId,
      c.me,
      c.nonce,
      c.epoch,
      c.expectedHead,
      ...turnParameters(c.turn),
      ...savedColumns(c.saved),
    ]);
  }

  settleTurn(c: SettleCall): Promise<Answer<SettleVerdict>> {
    return callFunction(this.executor, 'holdfast_settle', () => settleParameters(c));
  }

  claim(c: ClaimCall): Promise<Answer<ClaimVerdict>> {
    return callFunction(this.executor, 'holdfast_claim', () => [
      text(c.scope),
      c.sessionId,
      c.me,
      c.nonce,
      c.epochRead,
      c.revisionRead,
    ]);
  }

  release(c: ReleaseCall): Promise<Answer<ReleaseVerdict>> {
    return callFunction(this.executor, 'holdfast_release', () => [
      text(c.scope),
      c.sessionId,
      c.me,
      c.nonce,
      c.epoch,
      ...savedColumns(c.saved),
    ]);
  }

  close(c: CloseCall): Promise<Answer<CloseVerdict>> {
    return callFunction(this.executor, 'holdfast_close', () => [
      text(c.scope),
      c.sessionId,
      c.me,
      c.nonce,
      c.epoch,
      json(c.saved.snapshot),
      c.saved.machineVersion,
    ]);
  }

  /** Removes the owner of an idle session, or does more: see the function. */
  async operate(sessionId: string, action: 'release' | 'close' | 'drop-anchor'): Promise<OperatorVerdict> {
    const [row] = await this.read<{ answer: OperatorVerdict }>(functionCall('holdfast_operate', 2), [
      text(sessionId),
      action,
    ]);
    return row!.answer;
  }

  async lookup(query: Lookup): Promise<LookupResult> {
    const token = optionalText(query.tokenSessionId);
    const [row] = await this.read<{ answer: string }>(lookup, [
      text(query.scope),
      optionalText(query.anchor),
      token,
      query.hardKey?.kind ?? null,
      query.hardKey?.hash ?? null,
      [...new Set(query.places)],
      query.besides ?? [],
    ]);
    const answer = JSON.parse(row!.answer) as LookupAnswer;
    const { anchorTurn, keyed, candidates, named, heads, owners } = answer;
    const sessions = byId(answer.sessions);
    const open = (id: string | null) => (id === null ? null : (sessions.get(id) ?? null));
    const withSession = (turn: TurnRow) => ({ turn, session: open(turn.sessionId) });
    return {
      anchor: anchorTurn && withSession(anchorTurn),
      token: open(token),
      keyed: open(keyed),
      candidates: candidates.map(withSession),
      named: new Set(named),
      heads: byId(heads),
      owners: byId(owners),
    };
  }

  async session(scope: string, id: string): Promise<SessionRow | null> {
    return (await this.rows({ scope: text(scope), id: text(id) }))[0] ?? null;
  }

  async sessionById(id: string): Promise<SessionRow | null> {
    return (await this.rows({ id: text(id) }))[0] ?? null;
  }

  sessions(limit: number): Promise<readonly SessionRow[]> {
    return this.rows({}, { orderBy: { createdAt: 'desc' }, limit });
  }

  async keysOf(sessionId: string): Promise<readonly KeyRef[]> {
    return answered(
      this.query
        .selectFrom('bridge_session as s')
        .innerJoin('session_key as k', (join) =>
          join.onRef('k.scope', '=', 's.scope').onRef('k.session_id', '=', 's.id'),
        )
        .select(['k.kind', 'k.hash'])
        .where('s.id', '=', text(sessionId))
        .orderBy('k.kind')
        .orderBy('k.hash')
        .execute(),
    );
  }

  /**
   * Returns one page of sessions, most recently changed first, and their number.
   *
   * The order starts with the hour of the change because an index covers that: only the sessions of one hour are sorted. The
   * count is capped, since only the display uses it.
   */
  async listSessions(query: SessionQuery): Promise<SessionPage> {
    const { limit, before } = query;
    const matching = this.#matching(query);
    const counted = this.query
      .selectFrom(matching.select(sql`1`.as('one')).limit(MOST_COUNTED).as('counted'))
      .select(({ fn }) => fn.countAll().as('total'));
    let page = matching
      .leftJoinLateral(
        (eb) =>
          eb
            .selectFrom('any_turn as t')
            .select(['t.state', 't.facts'])
            .whereRef('t.scope', '=', 's.scope')
            .whereRef('t.session_id', '=', 's.id')
            .orderBy('t.started_at', 'desc')
            .limit(1)
            .as('last'),
        (join) => join.onTrue(),
      )
      .select(({ selectFrom, fn }) => [
        sql<SessionRow>`${sql.raw(sessionJson('s'))}`.as('row'),
        isoText('s.created_at').as('createdAt'),
        isoText('s.updated_at').as('updatedAt'),
        'last.state as lastState',
        'last.facts as lastFacts',
        selectFrom(
          selectFrom('any_turn as t')
            .select(sql`1`.as('one'))
            .whereRef('t.scope', '=', 's.scope')
            .whereRef('t.session_id', '=', 's.id')
            .limit(MOST_COUNTED)
            .as('counted'),
        )
          .select(fn.countAll().as('count'))
          .as('turnCount'),
      ])
      .orderBy('s.changed_hour', 'desc')
      .orderBy('s.updated_at', 'desc')
      .orderBy('s.id', 'desc')
      .limit(limit + 1);
    if (before) {
      const at = before.updatedAt;
      page = page.where(
        sql<SqlBool>`(s.changed_hour, s.updated_at, s.id) < (
          date_trunc('hour', ${at}::timestamptz at time zone 'UTC'), ${at}::timestamptz, ${text(before.id)})`,
      );
    }
    const [found, [count]] = await answered(Promise.all([page.execute(), counted.execute()]));
    const rows = found.slice(0, limit).map(({ row, lastState, lastFacts, turnCount, ...times }): SessionSummary => {
      const facts = factsOf(lastFacts);
      const lastTurn = lastState && { state: lastState, outcome: facts?.outcome ?? null, form: facts?.form ?? null };
      return { ...row, ...times, turnCount: Number(turnCount), lastTurn };
    });
    return { rows, more: found.length > limit, total: Number(count!.total) };
  }

  /** Selects the sessions of a query. A condition is left out when it is not asked for, so that an index can serve the rest. */
  #matching({ state, search, ownerWorkerId, busy }: SessionQuery): Sessions {
    let sessions: Sessions =
      search === undefined ? this.query.selectFrom('bridge_session as s') : this.#searched(text(search));
    if (state !== undefined) sessions = sessions.where('s.state', '=', state);
    if (ownerWorkerId !== undefined) sessions = sessions.where('s.owner_worker_id', '=', text(ownerWorkerId));
    if (busy === false) sessions = sessions.where('s.active_turn_id', 'is', null);
    if (busy === true) {
      sessions = sessions.innerJoin('active_turn as a', (join) =>
        join.onRef('a.scope', '=', 's.scope').onRef('a.id', '=', 's.active_turn_id').onRef('a.session_id', '=', 's.id'),
      ) as unknown as Sessions;
    }
    return sessions;
  }

  /** Selects the sessions that a search names. They are read one by one; `limit` enforces it, as in `lookup`. */
  #searched(search: string): Sessions {
    return this.query.selectFrom(this.#named(search).as('named')).innerJoinLateral(
      (eb) =>
        eb
          .selectFrom('bridge_session as b')
          .selectAll('b')
          .whereRef('b.scope', '=', 'named.scope')
          .whereRef('b.id', '=', 'named.id')
          .limit(1)
          .as('s'),
      (join) => join.onTrue(),
    ) as unknown as Sessions;
  }

  /** Selects the sessions named by an id of any kind or its prefix, or by a key or its hash. */
  #named(search: string) {
    const exact = this.#exactly(search);
    if (search.length < SHORTEST_PREFIX || !/^[0-9a-f-]{1,64}$/.test(search)) return exact;
    // In every collation, what begins with these characters lies between the prefix and the prefix with a later letter.
    const end = `${search}g`;
    const begins = (column: string) =>
      sql<SqlBool>`${sql.ref(column)} >= ${search} and ${sql.ref(column)} < ${end} and starts_with(${sql.ref(column)}, ${search})`;
    const sessions = this.query.selectFrom('bridge_session as p').select(['p.scope', 'p.id']).where(begins('p.id'));
    const turns = this.#ofTurns(MOST_PREFIXED, begins('t.id'));
    const keys = this.query
      .selectFrom('session_key as k')
      .select(['k.scope', 'k.session_id as id'])
      .where(begins('k.hash'));
    const some = ['some.scope', 'some.id'] as const;
    return exact
      .union(this.query.selectFrom(sessions.limit(MOST_PREFIXED).as('some')).select(some))
      .union(this.query.selectFrom(turns.limit(MOST_PREFIXED).as('some')).select(some))
      .union(this.query.selectFrom(keys.limit(MOST_PREFIXED).as('some')).select(some));
  }

  /** Selects the sessions named by a whole id of any kind, or by a key or its hash. */
  #exactly(search: string) {
    const isResponse = sql<SqlBool>`holdfast_key(t.response_id) = holdfast_key(${search}) and t.response_id = ${search}`;
    return this.query
      .selectFrom('bridge_session as p')
      .select(['p.scope', 'p.id'])
      .where('p.id', '=', search)
      .union(this.#ofTurns(1, sql<SqlBool>`t.id = ${search}`, isResponse))
      .union(
        this.query
          .selectFrom('session_key as k')
          .select(['k.scope', 'k.session_id as id'])
          .where('k.hash', 'in', [search, sql<string>`encode(sha256(convert_to(${search}, 'UTF8')), 'hex')`]),
      );
  }

  /**
   * Selects the sessions of turns and of their responses. Ended turns are searched scope by scope.
   *
   * @param most greatest number of turns of one scope, and of running ones
   */
  #ofTurns(most: number, isTurn: RawBuilder<SqlBool>, isResponse = sql<SqlBool>`false`) {
    const ended = (condition: RawBuilder<SqlBool>) =>
      sql`(select t.session_id as id from turn t where t.scope = every_scope.scope and ${condition} limit ${most})`;
    const found = sql<{ scope: string; id: string }>`(
      select every_scope.scope, t.id
        from every_scope cross join lateral (${ended(isTurn)} union all ${ended(isResponse)}) t
       union all
      (select t.scope, t.session_id from active_turn t where ${isTurn} limit ${most}))`;
    return this.query.selectFrom(found.as('found')).select(['found.scope', 'found.id']);
  }

  idsBeginning(beginning: string, limit: number): Promise<readonly FoundId[]> {
    return this.read<FoundId>(idsBeginning, [text(beginning), limit]);
  }

  async ownedSessions(): Promise<readonly OwnedSessions[]> {
    const owned = this.query
      .selectFrom('bridge_session as s')
      .select(({ fn }) => ['s.owner_worker_id as id', fn.countAll().as('sessions')])
      .where('s.owner_worker_id', 'is not', null)
      .groupBy('s.owner_worker_id');
    const busy = owned.innerJoin('active_turn as a', (join) =>
      join.onRef('a.scope', '=', 's.scope').onRef('a.session_id', '=', 's.id').onRef('a.id', '=', 's.active_turn_id'),
    );
    const [all, running] = await answered(Promise.all([owned.execute(), busy.execute()]));
    const busyAt = new Map(running.map(({ id, sessions }) => [id, Number(sessions)]));
    return all.map(({ id, sessions }) => ({
      workerId: id!,
      sessions: Number(sessions),
      busy: busyAt.get(id) ?? 0,
    }));
  }

  async keepStory(sessionId: string, turnId: string, record: unknown): Promise<void> {
    await answered(
      this.query
        .insertInto('session_story')
        .columns(['scope', 'turn_id', 'session_id', 'record'])
        .expression((eb) =>
          eb
            .selectFrom('bridge_session as s')
            .select([
              's.scope',
              sql<string>`${text(turnId)}::text`.as('turn_id'),
              's.id as session_id',
              sql`${JSON.stringify(record)}::json`.as('record'),
            ])
            .where('s.id', '=', text(sessionId)),
        )
        .onConflict((conflict) => conflict.columns(['scope', 'turn_id']).doNothing())
        .execute(),
    );
  }

  async story(sessionId: string): Promise<unknown> {
    const found = await answered(
      this.em.findOne(
        SessionStory,
        { sessionId: text(sessionId) },
        { orderBy: { createdAt: 'desc' }, disableIdentityMap: true },
      ),
    );
    return found?.record ?? null;
  }

  async pepper(): Promise<string> {
    if (this.#pepper === null) {
      const row = await answered(this.em.findOne(Meta, { name: 'pepper' }, { disableIdentityMap: true }));
      if (!row) throw new Error('the database has lost its pepper (holdfast_meta)');
      this.#pepper = row.value;
    }
    return this.#pepper;
  }
}

/** Returns the parameters of a settle: at once for a turn of short items, since its client waits for the settle. */
function settleParameters(c: SettleCall): unknown[] | Promise<unknown[]> {
  const { items } = c.result;
  const scope = text(c.scope);
  if (items === null) return [scope, settleCall(c, null), null, null, null, null];
  if (holdsShared(items.input) || holdsShared(items.output)) return splitParameters(c, items);
  const [input, output] = [packItems(items.input), packItems(items.output)];
  if (input instanceof Buffer && output instanceof Buffer)
    return [scope, settleCall(c, null), input, output, null, null];
  return Promise.all([scope, settleCall(c, null), input, output, null, null]);
}

/** Returns the parameters for a turn with large items, which are stored separately. */
async function splitParameters(c: SettleCall, items: NonNullable<TurnResult['items']>): Promise<unknown[]> {
  const input = await splitItems(items.input);
  const output = await splitItems(items.output);
  const shared = new Map([...(input?.shared ?? []), ...(output?.shared ?? [])]);
  return Promise.all([
    text(c.scope),
    settleCall(c, { input: input?.places ?? {}, output: output?.places ?? {} }),
    packItems(input?.items ?? items.input),
    packItems(output?.items ?? items.output),
    [...shared.keys()],
    Promise.all([...shared.values()].map(packItem)),
  ]);
}

const ended = columnsOf(Turn).filter(({ property }) => (endColumns as readonly string[]).includes(property));

/**
 * Builds the function's JSON argument. JSON written by a provider is passed as text, so that the database need not decode
 * its escapes.
 */
function settleCall({ result, saved, ...c }: SettleCall, places: SharedPlaces | null): string {
  const itemIds = usableItemIds(result.itemIds.map(text));
  const call: Record<string, unknown> = {
    session: c.sessionId,
    me: c.me,
    nonce: c.nonce,
    epoch: c.epoch,
    turn: c.turnId,
    ended: result.state,
    shared: json(places),
    item_ids: itemIds.length === 0 ? null : itemIds,
    anchor_lost: result.anchorLost ?? false,
    state: saved.state,
    snapshot: json(saved.snapshot),
    machine_version: saved.machineVersion,
  };
  for (const { property, name, type } of ended) {
    const value = result[property as keyof TurnResult];
    call[name] = type === 'json' ? json(value) : storable(value);
  }
  return JSON.stringify(call);
}
