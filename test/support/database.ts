import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { partitionByScope } from './partitioned.ts';

/** A new empty database on the server of the test run. */
export interface FreshDatabase {
  url: string;
  drop(): Promise<void>;
}

async function admin(...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: process.env.TEST_DATABASE_URL });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

/**
 * Lets statements of tests find the tables without naming their schema.
 *
 * @param name name of the database
 */
export const findingTables = (name: string) => `alter database ${name} set search_path = holdfast, public`;

const drop = (name: string) => admin(`drop database if exists ${name} with (force)`);

function urlOf(name: string): string {
  const url = new URL(process.env.TEST_DATABASE_URL!);
  url.pathname = `/${name}`;
  return url.href;
}

/**
 * Creates a database; `drop` terminates remaining connections.
 *
 * @param empty true for one without tables. By default the tables are there, copied from the template of the run where it
 *   has one: that costs a quarter of creating and migrating an empty database. With `TEST_PARTITIONED` they are partitioned
 *   by scope.
 */
export async function freshDatabase({ empty = false } = {}): Promise<FreshDatabase> {
  const name = `t_${randomBytes(8).toString('hex')}`;
  const template = process.env.TEST_TEMPLATE;
  const from = empty || !template ? '' : ` template ${template}`;
  // The copy by files is the cheaper one for small databases, and without fsync its checkpoints are cheap.
  await admin(`create database ${name}${from} strategy file_copy`, findingTables(name));
  if (!empty && process.env.TEST_PARTITIONED) await partitionByScope(urlOf(name));
  return { url: urlOf(name), drop: () => drop(name) };
}

/**
 * Creates the template of a test run, and names it in the environment.
 *
 * @returns a function that drops it
 */
export async function createTemplate(): Promise<() => Promise<void>> {
  const { url, drop } = await freshDatabase({ empty: true });
  await (await openPostgresStore({ url })).shutdown();
  process.env.TEST_TEMPLATE = new URL(url).pathname.slice(1);
  return drop;
}
