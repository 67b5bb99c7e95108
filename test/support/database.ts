import { randomBytes } from 'node:crypto';
import pg from 'pg';

/** A new empty database on the server of the test run. */
export interface FreshDatabase {
  url: string;
  drop(): Promise<void>;
}

async function admin(statement: string): Promise<void> {
  const client = new pg.Client({ connectionString: process.env.TEST_DATABASE_URL });
  await client.connect();
  try {
    await client.query(statement);
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

/** Creates the database; `drop` terminates remaining connections. */
export async function freshDatabase(): Promise<FreshDatabase> {
  const name = `t_${randomBytes(8).toString('hex')}`;
  await admin(`create database ${name}`);
  await admin(findingTables(name));
  const url = new URL(process.env.TEST_DATABASE_URL!);
  url.pathname = `/${name}`;
  return { url: url.href, drop: () => admin(`drop database if exists ${name} with (force)`) };
}
