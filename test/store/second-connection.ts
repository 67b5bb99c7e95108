import pg from 'pg';
import type { Fence } from '../../src/store/port.ts';
import { storeOver } from '../../src/store/postgres/index.ts';

/**
 * A connection of the test that holds a transaction open, so that a race happens in a fixed order: its uncommitted work
 * is invisible to others, and its row locks make them wait.
 */
export interface SecondConnection {
  /** The real fence functions, inside this connection's transaction. */
  fence: Fence;
  query<Row extends pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>;
  begin(): Promise<void>;
  commit(): Promise<void>;
  rollback(): Promise<void>;
  lockSession(id: string): Promise<void>;
  end(): Promise<void>;
}

export async function secondConnection(url: string): Promise<SecondConnection> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const query = async <Row extends pg.QueryResultRow>(sql: string, values: unknown[] = []) =>
    (await client.query<Row>(sql, values)).rows;
  const run = async <Row>(statement: { text: string }, values: readonly unknown[]) =>
    (await client.query(statement.text, [...values])).rows as Row[];
  return {
    fence: storeOver({ run, stop: () => undefined }),
    query,
    begin: async () => void (await query('begin')),
    commit: async () => void (await query('commit')),
    rollback: async () => void (await query('rollback')),
    lockSession: async (id) => void (await query('select from bridge_session where id = $1 for update', [id])),
    end: () => client.end(),
  };
}

/**
 * Resolves once `count` backends of this database wait for a lock; polls the server.
 *
 * @param late call that is expected to wait: when it is answered nevertheless, nothing is waited for
 */
export async function waiting(observer: SecondConnection, count = 1, late?: Promise<unknown>): Promise<void> {
  let isAnswered = false;
  const answered = () => void (isAnswered = true);
  late?.then(answered, answered);
  while (!isAnswered) {
    const [row] = await observer.query<{ n: string }>(
      `select count(*) as n from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and state = 'active'`,
    );
    if (Number(row!.n) >= count) return;
  }
}
