import { usableItemIds } from '../item-ids.ts';
import { unpackItems } from '../items-codec.ts';
import {
  type LineTurn,
  type ReferencedItem,
  type Repeated,
  type SessionReads,
  type SessionRow,
  StoreUnavailable,
  type TurnRow,
  type WorkerRow,
} from '../port.ts';
import { joinItems, type Places, type SharedPlaces } from '../shared-items.ts';
import type { Executor, Statement } from './executor.ts';
import { NoAnswer } from './outcome.ts';
import { optionalText, text } from './parameters.ts';
import { lineage, lineForms, rootFirst, sharedItems } from './sql/lineage.ts';
import { lookup, references, repeated } from './sql/lookup.ts';
import { rowReads } from './sql/rows.ts';

/** Executes one statement and returns its rows. Rejects with `StoreUnavailable` when there is no answer. */
export type Read = <Row>(statement: Statement, values: readonly unknown[]) => Promise<Row[]>;

/** Creates reads over an executor. */
export function createRead(executor: Executor): Read {
  return async <Row>(statement: Statement, values: readonly unknown[]) => {
    try {
      return await executor.run<Row>(statement, values);
    } catch (error) {
      if (error instanceof NoAnswer) throw new StoreUnavailable(error.message, { cause: error });
      throw error;
    }
  };
}

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

interface LineageRow {
  turn: string;
  input: Buffer | null;
  output: Buffer | null;
  /** Value as stored; another release, or damage, may have left any other. */
  shared: unknown;
}

const byId = <Row extends { id: string }>(rows: readonly Row[]) => new Map(rows.map((row) => [row.id, row]));

const isObject = (value: unknown): value is Record<string, unknown> => typeof value === 'object' && value !== null;
const arePlaces = (value: unknown): value is Places =>
  isObject(value) && Object.values(value).every((hash) => typeof hash === 'string');

const NONE: SharedPlaces = { input: {}, output: {} };

/** Parses the places of extracted items. Null when they cannot be determined. */
function placesIn(shared: unknown): SharedPlaces | null {
  if (shared === null) return NONE;
  if (!isObject(shared)) return null;
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

/** Creates the reads over PostgreSQL: one statement each, no locks. */
export function createReads(read: Read): Omit<SessionReads, 'workers'> {
  let knownPepper: string | null = null;

  async function many<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    const rows = await read<{ answer: string }>(statement, values);
    return rows.map(({ answer }) => JSON.parse(answer) as Row);
  }

  /** Fetches the texts of the large items that these turns share with others. */
  async function sharedData(scope: string, rows: readonly LineageRow[]): Promise<ReadonlyMap<string, string>> {
    const hashes = rows.flatMap(({ shared }) =>
      Object.values(placesIn(shared) ?? NONE).flatMap((places: Places) => Object.values(places)),
    );
    if (hashes.length === 0) return new Map();
    const found = await read<{ hash: string; data: Buffer }>(sharedItems, [text(scope), hashes]);
    const texts = await Promise.all(found.map(({ data }) => unpackItems(data)));
    return new Map(
      found.flatMap(({ hash }, index): [string, string][] => {
        const json = texts[index]!;
        return json === null ? [] : [[hash, json]];
      }),
    );
  }

  return {
    async lookup(query) {
      const token = optionalText(query.tokenSessionId);
      const [answer] = await many<LookupAnswer>(lookup, [
        text(query.scope),
        optionalText(query.anchor),
        token,
        query.hardKey?.kind ?? null,
        query.hardKey?.hash ?? null,
        [...new Set(query.places)],
        query.besides ?? [],
      ]);
      const { anchorTurn, keyed, candidates, named, heads, owners } = answer!;
      const sessions = byId(answer!.sessions);
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
    },

    session: async (id) => (await many<SessionRow>(rowReads.session, [text(id)]))[0] ?? null,
    turn: async (id) => (await many<TurnRow>(rowReads.turn, [text(id)]))[0] ?? null,
    repeated: (scope, requestFp, withinMs) => many<Repeated>(repeated, [text(scope), requestFp, withinMs]),
    turnsOf: (sessionId, limit) => many<TurnRow>(rowReads.turnsOf, [text(sessionId), limit]),
    sessions: (limit) => many<SessionRow>(rowReads.sessions, [limit]),

    async lineage(scope, turnId) {
      const rows = await read<LineageRow>(lineage, [text(scope), text(turnId)]);
      const data = await sharedData(scope, rows);
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
    },

    line: async (scope, turnId) =>
      rootFirst(await read<LineTurn>(lineForms, [text(scope), text(turnId)]), text(turnId)),

    async references(scope, itemIds) {
      const wanted = usableItemIds(itemIds.map(text));
      return wanted.length === 0 ? [] : read<ReferencedItem>(references, [text(scope), wanted]);
    },

    async pepper() {
      if (knownPepper === null) {
        const [row] = await read<{ answer: string }>(rowReads.pepper, []);
        if (!row) throw new Error('the database has lost its pepper (holdfast_meta)');
        knownPepper = row.answer;
      }
      return knownPepper;
    },
  };
}
