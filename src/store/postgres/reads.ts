import { unpackItems } from '../items-codec.ts';
import { type SessionReads, type SessionRow, StoreUnavailable, type TurnRow, type WorkerRow } from '../port.ts';
import { joinItems, type Places, type SharedPlaces } from '../shared-items.ts';
import type { Executor, Statement } from './executor.ts';
import { NoAnswer } from './outcome.ts';
import { optionalText, text } from './parameters.ts';
import { lineage, sharedItems } from './sql/lineage.ts';
import { lookup } from './sql/lookup.ts';
import { rowReads } from './sql/rows.ts';

/** Rows of one statement. Throws `StoreUnavailable` when there was no answer. */
export type Read = <Row>(statement: Statement, values: readonly unknown[]) => Promise<Row[]>;

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
  prefixTurn: TurnRow | null;
  sessions: { anchor?: SessionRow; token?: SessionRow; keyed?: SessionRow; prefix?: SessionRow };
  heads: readonly TurnRow[];
  owners: readonly WorkerRow[];
}

interface LineageRow {
  turn: string;
  input: Buffer | null;
  output: Buffer | null;
  shared: SharedPlaces | null;
}

const byId = <Row extends { id: string }>(rows: readonly Row[]) => new Map(rows.map((row) => [row.id, row]));

/** A turn's items with the shared ones put back; null when one is gone, as if all were. */
function whole(json: string, places: Places | undefined, data: ReadonlyMap<string, string>): string | null {
  if (!places || Object.keys(places).length === 0) return json;
  return joinItems(json, places, data);
}

/** Reads over PostgreSQL: one statement each, no locks. */
export function createReads(read: Read): Omit<SessionReads, 'workers'> {
  let knownPepper: string | null = null;

  async function many<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    const rows = await read<{ answer: string }>(statement, values);
    return rows.map(({ answer }) => JSON.parse(answer) as Row);
  }

  /** Texts of the large items that these turns share with others. */
  async function sharedData(scope: string, rows: readonly LineageRow[]): Promise<ReadonlyMap<string, string>> {
    const hashes = rows.flatMap(({ shared }) =>
      shared ? [...Object.values(shared.input), ...Object.values(shared.output)] : [],
    );
    if (hashes.length === 0) return new Map();
    const found = await read<{ hash: string; data: Buffer }>(sharedItems, [text(scope), hashes]);
    return new Map(await Promise.all(found.map(async ({ hash, data }) => [hash, await unpackItems(data)] as const)));
  }

  return {
    async lookup(query) {
      const { prefixes = [] } = query;
      const [answer] = await many<LookupAnswer>(lookup, [
        text(query.scope),
        optionalText(query.anchor),
        optionalText(query.tokenSessionId),
        query.hardKey?.kind ?? null,
        query.hardKey?.hash ?? null,
        prefixes.map(({ transcriptFp }) => transcriptFp),
        prefixes.map(({ itemCount }) => itemCount),
      ]);
      const { anchorTurn, prefixTurn, sessions, heads, owners } = answer!;
      return {
        anchor: anchorTurn && { turn: anchorTurn, session: sessions.anchor ?? null },
        token: sessions.token ?? null,
        keyed: sessions.keyed ?? null,
        prefix: prefixTurn && { turn: prefixTurn, session: sessions.prefix ?? null },
        heads: byId(heads),
        owners: byId(owners),
      };
    },

    session: async (id) => (await many<SessionRow>(rowReads.session, [text(id)]))[0] ?? null,
    turn: async (id) => (await many<TurnRow>(rowReads.turn, [text(id)]))[0] ?? null,
    turnsOf: (sessionId, limit) => many<TurnRow>(rowReads.turnsOf, [text(sessionId), limit]),
    sessions: (limit) => many<SessionRow>(rowReads.sessions, [limit]),

    async lineage(scope, turnId) {
      const rows = await read<LineageRow>(lineage, [text(scope), text(turnId)]);
      const data = await sharedData(scope, rows);
      return Promise.all(
        rows.map(async ({ turn, input, output, shared }) => ({
          turn: JSON.parse(turn) as TurnRow,
          input: input && whole(await unpackItems(input), shared?.input, data),
          output: output && whole(await unpackItems(output), shared?.output, data),
        })),
      );
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
