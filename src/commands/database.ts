import pg from 'pg';
import type { Config } from '../config.ts';
import { DataDirInUse } from '../exclusive-socket.ts';
import { dataDirState, startEmbeddedPostgres } from '../store/embedded/index.ts';
import { placeOf, unusable } from '../store/postgres/unusable.ts';

/** Timeout of the connection to a database, in milliseconds. */
const CONNECT_MS = 10_000;

/**
 * Calls a function with the address of the configured database. An embedded one that rests is started for the call; that of
 * a running Holdfast is used as it runs.
 *
 * @throws `DataDirInUse` when a Holdfast holds the data directory and its database does not answer, or the error of the
 *   start
 */
export async function withDatabase<T>(
  config: Pick<Config, 'databaseUrl' | 'dataDir'>,
  use: (url: string) => Promise<T>,
): Promise<T> {
  if (config.databaseUrl !== null) return use(config.databaseUrl);
  const state = await dataDirState(config.dataDir);
  if (state.url !== null) return use(state.url);
  if (state.inUse) {
    throw new DataDirInUse(
      `A Holdfast uses ${config.dataDir}, and its database does not answer: try again in a moment.`,
    );
  }
  const server = await startEmbeddedPostgres({ dataDir: config.dataDir });
  try {
    return await use(server.url);
  } finally {
    await server.stop();
  }
}

/**
 * Calls a function with one connection to a database.
 *
 * @throws `DatabaseUnusable` that names the cause, also for an error of the function
 */
export async function withClient<T>(url: string, use: (client: pg.Client) => Promise<T>): Promise<T> {
  const place = placeOf(url);
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: CONNECT_MS,
    application_name: 'holdfast command',
  });
  client.on('error', () => {});
  try {
    await client.connect();
    return await use(client);
  } catch (error) {
    throw unusable(error, place);
  } finally {
    await client.end().catch(() => {});
  }
}
