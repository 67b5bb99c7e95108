import type { InferEntity } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/postgresql';
import { type SqlBool, sql } from 'kysely';
import { isFields } from '../../json.ts';
import { columnsOf, detailColumns, Turn, type TurnMetrics, type TurnRow } from '../entities.ts';
import { joinItems, type Places, type SharedPlaces, unpackItems, usableItemIds } from '../items.ts';
import {
  type EndedQuery,
  type EndedTurn,
  type ForkedTurn,
  type LineTurn,
  MOST_EXAMINED,
  type ReferencedItem,
  type Repeated,
  type TurnDetail,
  type TurnItems,
} from '../port.ts';
import type { Executor } from './executor.ts';
import { answered, isoText, RowRepository, text } from './orm.ts';
import { lineage, lineForms, oneTurn, references, repeated, sharedItems, turnJson } from './statements.ts';

interface LineageRow {
  turn: string;
  input: Buffer | null;
  output: Buffer | null;
  /** Value as stored; another release, or damage, may have left any other. */
  shared: unknown;
}

const row = sql<TurnRow>`${sql.raw(turnJson('t'))}`.as('row');
const details = columnsOf(Turn)
  .filter(({ property }) => (detailColumns as readonly string[]).includes(property))
  .map(({ property, name }) => sql.ref(`t.${name}`).as(property));

/** Turns: their lines, items and facts. They are written by the fence only. */
export class TurnRepository extends RowRepository<InferEntity<typeof Turn>, TurnRow> {
  constructor(em: EntityManager, executor: Executor) {
    super(em, Turn, executor);
  }

  async turn(scope: string, id: string): Promise<TurnRow | null> {
    const [found] = await this.read<{ row: TurnRow }>(oneTurn, [text(scope), text(id)]);
    return found?.row ?? null;
  }

  async turnsOf(sessionId: string, limit: number): Promise<readonly TurnRow[]> {
    const turns = this.#newestOf(sessionId, limit).select(row);
    return (await answered(turns.execute())).map((found) => found.row);
  }

  /** Selects the newest turns of a session, which is found by its id alone. */
  #newestOf(sessionId: string, limit: number) {
    return this.query
      .selectFrom('bridge_session as s')
      .innerJoinLateral(
        (eb) =>
          eb
            .selectFrom('any_turn as t')
            .selectAll('t')
            .whereRef('t.scope', '=', 's.scope')
            .whereRef('t.session_id', '=', 's.id')
            .orderBy('t.started_at', 'desc')
            .orderBy('t.id')
            .limit(limit)
            .as('t'),
        (join) => join.onTrue(),
      )
      .where('s.id', '=', text(sessionId))
      .orderBy('t.started_at', 'desc')
      .orderBy('t.id');
  }

  async repeated(scope: string, requestFp: string, withinMs: number): Promise<readonly Repeated[]> {
    const rows = await this.read<{ answer: string }>(repeated, [text(scope), requestFp, withinMs]);
    return rows.map(({ answer }) => JSON.parse(answer) as Repeated);
  }

  async references(scope: string, itemIds: readonly string[]): Promise<readonly ReferencedItem[]> {
    const wanted = usableItemIds(itemIds.map(text));
    return wanted.length === 0 ? [] : this.read<ReferencedItem>(references, [text(scope), wanted]);
  }

  async line(scope: string, turnId: string): Promise<readonly LineTurn[]> {
    return rootFirst(await this.read<LineTurn>(lineForms, [text(scope), text(turnId)]), text(turnId));
  }

  async lineage(scope: string, turnId: string): Promise<readonly TurnItems[]> {
    const rows = await this.read<LineageRow>(lineage, [text(scope), text(turnId)]);
    const data = await this.#sharedData(scope, rows);
    const line = rows.map((row) => {
      const turn = JSON.parse(row.turn) as TurnRow;
      return { id: turn.id, parentTurnId: turn.parentTurnId, turn, row };
    });
    return Promise.all(
      rootFirst(line, text(turnId)).map(async ({ turn, row: { input, output, shared } }) => ({
        turn,
        input: await whole(input, placesIn(shared)?.input, data),
        output: await whole(output, placesIn(shared)?.output, data),
      })),
    );
  }

  /** Reads the texts of the large items that these turns share with others. */
  async #sharedData(scope: string, rows: readonly LineageRow[]): Promise<ReadonlyMap<string, string>> {
    const hashes = rows.flatMap(({ shared }) =>
      Object.values(placesIn(shared) ?? NONE).flatMap((places: Places) => Object.values(places)),
    );
    if (hashes.length === 0) return new Map();
    const found = await this.read<{ hash: string; data: Buffer }>(sharedItems, [text(scope), hashes]);
    const texts = await Promise.all(found.map(({ data }) => unpackItems(data)));
    return new Map(
      found.flatMap(({ hash }, index): [string, string][] => {
        const json = texts[index]!;
        return json === null ? [] : [[hash, json]];
      }),
    );
  }

  async turnDetails(sessionId: string, limit: number): Promise<readonly TurnDetail[]> {
    const rows = await answered(
      this.#newestOf(sessionId, limit)
        .leftJoin('turn_items as i', (join) => join.onRef('i.scope', '=', 't.scope').onRef('i.turn_id', '=', 't.id'))
        .select([
          row,
          ...details,
          't.facts',
          isoText('t.started_at').as('startedAt'),
          isoText('t.ended_at').as('endedAt'),
          sql<number | null>`octet_length(i.input)`.as('inputBytes'),
          sql<number | null>`octet_length(i.output)`.as('outputBytes'),
        ])
        .$castTo<Omit<TurnDetail, keyof TurnRow | 'facts'> & { row: TurnRow; facts: unknown }>()
        .execute(),
    );
    return rows.map(({ row, facts, ...rest }) => ({ ...row, ...rest, facts: factsOf(facts) }));
  }

  async turnsEnded({ withinMs, olderMs, before, limit, authors, failed }: EndedQuery): Promise<readonly EndedTurn[]> {
    let ended = this.query
      .selectFrom('turn as e')
      .selectAll('e')
      .where(sql<SqlBool>`e.ended_at >= now() - ${withinMs} * interval '1 millisecond'`)
      .orderBy('e.ended_at', 'desc')
      .orderBy('e.id', 'desc')
      .limit(failed ? MOST_EXAMINED : limit);
    if (before) {
      ended = ended.where(
        sql<SqlBool>`(e.ended_at, e.id) < (${before.endedAt}::timestamptz, ${text(before.id)}) and e.ended_at <= ${before.endedAt}::timestamptz`,
      );
    }
    if (olderMs !== undefined)
      ended = ended.where(sql<SqlBool>`e.ended_at < now() - ${olderMs} * interval '1 millisecond'`);
    if (authors) ended = ended.where('e.author_worker_id', 'in', authors.map(text));
    let page = this.query
      .selectFrom(ended.as('t'))
      .select((of) => [
        ...(['id', 'scope', 'shape', 'state', 'usage', 'error', 'facts'] as const).map((name) => `t.${name}` as const),
        't.session_id as sessionId',
        't.author_worker_id as authorWorkerId',
        't.response_id as responseId',
        // A join could read all sessions.
        of
          .selectFrom('bridge_session as s')
          .select('s.model')
          .whereRef('s.scope', '=', 't.scope')
          .whereRef('s.id', '=', 't.session_id')
          .as('model'),
        isoText('t.started_at').as('startedAt'),
        isoText('t.ended_at').as('endedAt'),
        sql<number>`(extract(epoch from now() - t.ended_at) * 1000)::float8`.as('ageMs'),
      ])
      .orderBy('t.ended_at', 'desc')
      .orderBy('t.id', 'desc')
      .limit(limit);
    if (failed) page = page.where('t.state', 'in', ['failed', 'lost']);
    const rows = await answered(page.$castTo<Omit<EndedTurn, 'facts'> & { facts: unknown }>().execute());
    return rows.map(({ facts, ...row }) => ({ ...row, facts: factsOf(facts) }));
  }

  forksOf(sessionId: string, limit: number): Promise<readonly ForkedTurn[]> {
    return answered(
      this.query
        .selectFrom('bridge_session as s')
        .innerJoin('any_turn as mine', (join) =>
          join.onRef('mine.scope', '=', 's.scope').onRef('mine.session_id', '=', 's.id'),
        )
        .innerJoin('any_turn as t', (join) =>
          join.onRef('t.scope', '=', 's.scope').onRef('t.parent_turn_id', '=', 'mine.id'),
        )
        .select(['t.id as turnId', 't.session_id as sessionId', 'mine.id as parentTurnId', 't.state'])
        .where('s.id', '=', text(sessionId))
        .where('t.session_id', '<>', text(sessionId))
        .orderBy('t.started_at', 'desc')
        .orderBy('t.id')
        .limit(limit)
        .execute(),
    );
  }

  async eraseResponse(scope: string, responseId: string): Promise<boolean> {
    const erase = { name: 'holdfast_erase_response', text: 'select holdfast_erase($1::text, $2::text) as answer' };
    const [row] = await this.read<{ answer: string | null }>(erase, [text(scope), text(responseId)]);
    return row!.answer !== null;
  }
}

/** Longest text among the facts of a turn, in characters. */
const LONGEST_FACT = 200;

/** Facts that are texts; all others are numbers. */
const factTexts: ReadonlySet<string> = new Set(['outcome', 'form', 'fault'] satisfies (keyof TurnMetrics)[]);

/** Returns stored facts. Those to which another release, or damage, has given a different kind of value are left out. */
export function factsOf(value: unknown): TurnMetrics | null {
  if (!isFields(value)) return null;
  const kept = Object.entries(value).filter(
    ([name, fact]) =>
      fact === null ||
      (factTexts.has(name) ? typeof fact === 'string' && fact.length <= LONGEST_FACT : Number.isFinite(fact)),
  );
  return Object.fromEntries(kept) as unknown as TurnMetrics;
}

const arePlaces = (value: unknown): value is Places =>
  isFields(value) && Object.values(value).every((hash) => typeof hash === 'string');

const NONE: SharedPlaces = { input: {}, output: {} };

/** Parses the places of extracted items. Null when they cannot be determined. */
function placesIn(shared: unknown): SharedPlaces | null {
  if (shared === null) return NONE;
  if (!isFields(shared)) return null;
  const { input, output } = shared;
  return arePlaces(input) && arePlaces(output) ? { input, output } : null;
}

/**
 * Restores a turn's items with the shared ones in place. Null when one of them is missing or damaged: a partial list is not
 * used.
 */
async function whole(
  packed: Buffer | null,
  places: Places | undefined,
  data: ReadonlyMap<string, string>,
): Promise<string | null> {
  const json = packed && places ? await unpackItems(packed) : null;
  if (json === null || !places || Object.keys(places).length === 0) return json;
  return joinItems(json, places, data);
}

/**
 * Sorts the turns of a line.
 *
 * @param turns the turn and its ancestors, each once
 * @param turnId the turn at the end of the line
 * @returns the same turns, root first; empty when `turnId` is not among them
 */
function rootFirst<T extends { id: string; parentTurnId: string | null }>(turns: readonly T[], turnId: string): T[] {
  const left = new Map(turns.map((turn) => [turn.id, turn]));
  const ordered: T[] = [];
  for (let turn = left.get(turnId); turn; turn = left.get(turn.parentTurnId ?? '')) {
    left.delete(turn.id);
    ordered.push(turn);
  }
  return ordered.reverse();
}
