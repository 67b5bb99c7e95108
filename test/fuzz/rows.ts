import { packItem, unpackItems } from '../../src/store/items.ts';
import { type At, isGood, judge, send, takesTurn } from './judge.ts';
import { type Random, randomOf } from './random.ts';
import { type Edit, edited, editOf, mutate, odd, render, type Tree } from './tree.ts';
import { ADMIN_TOKEN } from './world.ts';

/** One column whose value another release, or damage, has changed. */
interface Change {
  table: 'bridge_session' | 'turn' | 'turn_items' | 'shared_item' | 'session_story';
  column: string;
  /** The new value; for packed columns the text before packing. */
  value?: Tree;
  /** Mutates the existing value, as JSON if it is JSON. */
  seed?: number;
  edits?: Partial<Edit>[];
  /** True if the bytes are changed after packing. */
  packed?: boolean;
}

interface Input {
  changes?: Change[];
  /** Form of the next request of the conversation. */
  way?: 'full' | 'anchor' | 'key';
  store?: boolean;
}

const columns: [Change['table'], string][] = [
  ['bridge_session', 'snapshot'],
  ['bridge_session', 'snapshot'],
  ['bridge_session', 'snapshot'],
  ['bridge_session', 'machine_version'],
  ['bridge_session', 'state'],
  ['bridge_session', 'head_turn_id'],
  ['bridge_session', 'lost_turn_id'],
  ['bridge_session', 'upstream_id'],
  ['bridge_session', 'model'],
  ['bridge_session', 'epoch'],
  ['bridge_session', 'revision'],
  ['turn', 'forms'],
  ['turn', 'forms'],
  ['turn', 'transcript_fp'],
  ['turn', 'client_fp'],
  ['turn', 'replay'],
  ['turn', 'state'],
  ['turn', 'shape'],
  ['turn', 'usage'],
  ['turn', 'error'],
  ['turn', 'facts'],
  ['turn', 'response_id'],
  ['turn', 'parent_turn_id'],
  ['turn', 'context_fp'],
  ['turn', 'credential_fp'],
  ['turn_items', 'input'],
  ['turn_items', 'output'],
  ['turn_items', 'shared'],
  ['shared_item', 'data'],
  ['session_story', 'record'],
  ['session_story', 'record'],
];
const json = new Set(['snapshot', 'usage', 'error', 'facts', 'shared', 'forms', 'record']);
const packedColumns = new Set(['input', 'output', 'data']);
const numbers = new Set(['machine_version', 'epoch', 'revision']);
const plainValues: [string, readonly Tree[]][] = [
  [
    'state',
    // A closed session loses its keys in the same statement, so a changed column alone never produces that state.
    ['connecting', 'live', 'reconnecting', 'stale', 'completed', 'incomplete', 'failed', 'cancelled', 'lost'],
  ],
  ['replay', ['exact', 'anchor_only', 'never']],
  ['shape', ['fresh', 'full', 'delta']],
];

export const rows = {
  name: 'rows' as const,

  make(r: Random): Tree {
    const change = (): Change => {
      const [table, column] = r.pick(columns);
      const values = plainValues.find(([name]) => name === column)?.[1];
      if (values) return { table, column, value: r.pick(values) };
      if (numbers.has(column)) return { table, column, value: r.pick([0, 1, 2, 99, -1, 2_000_000_000]) };
      if (json.has(column) || packedColumns.has(column)) {
        return r.weighted<() => Change>([
          [4, () => ({ table, column, seed: r.int(1e9) })],
          [2, () => ({ table, column, value: odd(r) })],
          [2, () => ({ table, column, edits: [editOf(r)], packed: r.chance(0.5) })],
          [1, () => ({ table, column, value: null })],
        ])();
      }
      return { table, column, value: r.pick<Tree>([null, '', 'x', '__proto__', 'x'.repeat(5000)]) };
    };
    const input: Input = {
      changes: Array.from({ length: 1 + r.int(3) }, change),
      way: r.pick(['full', 'full', 'anchor', 'key']),
      store: r.chance(0.5),
    };
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const { changes = [], way = 'full', store = false } = given as Input;
    const { world } = at;
    const ask = { role: 'user', content: 'First.' };
    const base = { model: 'm', stream: true, store };
    const first = await send(at, { body: Buffer.from(JSON.stringify({ ...base, input: [ask] })) });
    if (!isGood(first)) return;
    const session = first!.headers['x-holdfast-session'] ?? '';
    const response = first!.events.at(-1)!.data.response as { id: string; output: object[] };
    // The owner releases the session, so that the next request reads the stored row.
    const released = await send(at, {
      path: `/admin/sessions/${session}/release`,
      ...asOperator,
      body: Buffer.from('{}'),
    });
    if (released?.status !== 200) return;
    if (changes.some(({ table }) => table === 'session_story')) await keepStory(at, session);
    for (const change of changes) await apply(at, session, change);
    const next = { role: 'user', content: 'Second.' };
    const body = {
      ...base,
      ...(way === 'anchor'
        ? { previous_response_id: response.id, input: [next] }
        : { input: way === 'key' ? [next] : [ask, ...response.output, next] }),
    };
    const second = await send(at, { body: Buffer.from(JSON.stringify(body)) });
    if (second)
      judge(at, second, {
        what: `after ${changes.map(({ table, column }) => `${table}.${column}`).join(', ')}`.slice(0, 80),
      });
    for (const path of ['/admin/sessions', '/admin/stories']) {
      const looked = await send(at, { method: 'GET', path: `${path}/${session}`, ...asOperator });
      if (looked) judge(at, looked, { what: `GET ${path}/:id` });
    }
    if (world.crash === null) await takesTurn(at, 'altered rows');
  },
};

const asOperator = { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } };

/** Stores the record of the session that its worker has, as after a bad end, with later times, so that it is the one shown. */
async function keepStory(at: At, session: string): Promise<void> {
  const answer = await send(at, { method: 'GET', path: `/admin/stories/${session}`, ...asOperator });
  const { record } = JSON.parse(answer?.text || '{}') as { record?: { events: { t: number }[] } };
  if (!record) return;
  for (const event of record.events) event.t += 3_600_000;
  await at.world.database.query(
    `insert into session_story (scope, turn_id, session_id, record)
       select scope, id, id, $2 from bridge_session where id = $1`,
    [session, JSON.stringify(record)],
  );
}

/** Writes one change. A value that the database itself refuses is not a case. */
async function apply(at: At, session: string, { table, column, value, seed, edits, packed }: Change): Promise<void> {
  if (!columns.some(([t, c]) => t === table && c === column)) return;
  const { database } = at.world;
  const where =
    table === 'bridge_session'
      ? 'id = $1'
      : table === 'turn' || table === 'session_story'
        ? 'session_id = $1'
        : table === 'turn_items'
          ? 'turn_id in (select id from turn where session_id = $1)'
          : 'hash in (select hash from turn_shared_item where turn_id in (select id from turn where session_id = $1))';
  const found = await database
    // JSON as text: an earlier change of the case may have nested it too deeply to be written again.
    .query(`select ${column}${json.has(column) ? '::text' : ''} as value from ${table} where ${where} limit 1`, [
      session,
    ])
    .catch(() => null);
  if (!found?.rows[0]) return;
  const old: unknown = found.rows[0].value;
  let text: string;
  if (seed !== undefined || edits !== undefined) {
    // An earlier change of this case may have damaged the packed bytes.
    text = Buffer.isBuffer(old) ? ((await unpackItems(old)) ?? old.toString('latin1')) : String(old);
    if (seed !== undefined) text = render(mutate(randomOf(seed, 'row'), treeOf(text), 1 + (seed % 3)));
    if (edits !== undefined && !packed) text = edited(Buffer.from(text, 'utf8'), edits).toString('utf8');
  } else text = json.has(column) || packedColumns.has(column) ? render(value ?? null) : String(value);
  let put: unknown = value === null ? null : text;
  if (packedColumns.has(column) && put !== null) {
    put = await packItem(text);
    if (packed && edits) put = edited(put as Buffer, edits);
  }
  await database.query(`update ${table} set ${column} = $2 where ${where}`, [session, put]).catch(() => null);
}

function treeOf(text: string): Tree {
  try {
    return JSON.parse(text) as Tree;
  } catch {
    return text;
  }
}
