import { MOST_CANDIDATES, type SessionStore, StoreUnavailable } from '../../../src/store/port.ts';
import { type Command, ITEM_IDS, PLACES, type Universe } from './commands.ts';

/** The stores use different clocks, so only the presence of remaining lease time can be compared. */
const lease = (ms: number) => (ms > 1_000 ? 'left' : 'run out');

/** Clock readings, and fields that depend on how a store encodes data. */
const clocked: ReadonlySet<string> = new Set([
  ...['startedAt', 'endedAt', 'createdAt', 'updatedAt', 'leaseUntilMs'],
  ...['inputBytes', 'outputBytes'],
]);

/** Returns an answer without the parts in which two correct stores may differ. */
export function comparable(value: unknown): unknown {
  if (value instanceof Map) return comparable(Object.fromEntries([...value].sort(([a], [b]) => (a < b ? -1 : 1))));
  if (value instanceof Set) return [...value].sort();
  if (Array.isArray(value)) return value.map(comparable);
  if (typeof value !== 'object' || value === null) return value === undefined ? null : value;
  const entries = Object.entries(value)
    .filter(([name]) => !clocked.has(name))
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, member]) => [name, name === 'leaseLeftMs' ? lease(member as number) : comparable(member)]);
  const shown = Object.fromEntries(entries) as Record<string, unknown>;
  if (shown.verdict === 'rejected') return { verdict: 'rejected' };
  return shown;
}

/** Makes the call. A store that does not answer is an error of the test. */
export async function perform(store: SessionStore, { name, args }: Command): Promise<unknown> {
  const call = store[name] as (...given: readonly unknown[]) => Promise<unknown>;
  const answer = (await call(...structuredClone(args))) as { verdict?: string; reason?: string } | undefined;
  if (answer?.verdict === 'unknown') throw new StoreUnavailable(answer.reason);
  // A sweep deletes all old rows, and the database holds more than one universe.
  return name === 'purge' ? null : comparable(answer);
}

const byTurn = <T extends { turn: { id: string } }>(rows: readonly T[]) =>
  [...rows].sort((a, b) => (a.turn.id < b.turn.id ? -1 : 1));
const byTurnId = <T extends { turnId: string }>(rows: readonly T[]) =>
  [...rows].sort((a, b) => (a.turnId < b.turnId ? -1 : 1));
const byId = <T extends { id: string }>(rows: readonly T[]) => [...rows].sort((a, b) => (a.id < b.id ? -1 : 1));

/**
 * Returns everything about a universe that the port can show. `ordered` includes what depends on the order in which
 * turns were started, which is unknown for concurrent calls.
 */
export async function dump(store: SessionStore, universe: Universe, ordered: boolean): Promise<unknown> {
  const { workers, sessions, turns, keys, responses, scopes } = universe;
  const all = <T, R>(list: readonly T[], read: (each: T) => Promise<R>) => Promise.all(list.map(read));
  const query = { anchor: null, tokenSessionId: null, hardKey: null };
  return comparable({
    workers: byId((await store.workers()).filter(({ id }) => workers.includes(id))),
    sessions: await all(sessions, (id) => store.sessionById(id)),
    details: await all(sessions, async (id) => byId(await store.turnDetails(id, 100))),
    keysOf: await all(sessions, (id) => store.keysOf(id)),
    stories: ordered ? await all(sessions, (id) => store.story(id)) : null,
    newest: ordered ? await all(sessions, async (id) => (await store.turnsOf(id, 3)).map((turn) => turn.id)) : null,
    scoped: await all(scopes, async (scope) => ({
      lineages: await all(turns, (id) => store.lineage(scope, id)),
      anchored: await all(responses, (anchor) => store.lookup({ ...query, scope, anchor })),
      keyed: await all(keys, (hash) => store.lookup({ ...query, scope, hardKey: { kind: 'thread', hash } })),
      named: await all(sessions, (tokenSessionId) => store.lookup({ ...query, scope, tokenSessionId })),
      lines: await all(turns, (id) => store.line(scope, id)),
      placed: await all([...PLACES, PLACES], async (places) => {
        const found = await store.lookup({ ...query, scope, places: [places].flat() });
        if (ordered) return found;
        // If more turns match than are returned, the newest ones are unknown too.
        const all = found.candidates.length < MOST_CANDIDATES;
        return all ? { ...found, candidates: byTurn(found.candidates) } : 'many';
      }),
      references: ordered
        ? await store.references(scope, ITEM_IDS)
        : await all(ITEM_IDS, async (id) => byTurnId(await store.references(scope, [id]))),
    })),
  });
}

/** Yields every order of the first `count` numbers, the identity first. */
export function* orders(count: number): Generator<readonly number[]> {
  if (count === 0) return yield [];
  for (const shorter of orders(count - 1)) {
    for (let at = shorter.length; at >= 0; at -= 1) yield [...shorter.slice(0, at), count - 1, ...shorter.slice(at)];
  }
}
