import pg, { type Pool, type PoolClient } from 'pg';
import type { Connections } from './executor.ts';
import type { MigrationConnection } from './migrate.ts';
import { DatabaseUnusable, type Place } from './unusable.ts';

/**
 * The part of an application's MikroORM 7 that is used: the pool of its `postgresql` driver. It is named by its shape, so that
 * the application may have a copy of MikroORM of its own.
 */
export interface ApplicationOrm {
  readonly em: { getConnection(): { getNativeClient(): Promise<unknown> } };
}

/** Smallest pool of an application: one connection stays with the heartbeats, and the application needs others. */
const SMALLEST_POOL = 3;

const isPool = (value: unknown): value is Pool =>
  typeof value === 'object' && value !== null && 'connect' in value && 'totalCount' in value && 'options' in value;

/**
 * Returns the pool of an application's MikroORM.
 *
 * @returns the pool, where it leads for messages, and its address without credentials; null for one on this machine
 * @throws `DatabaseUnusable` when it has no pool that can be used
 */
export async function poolOf(orm: ApplicationOrm): Promise<{ pool: Pool; place: Place; location: string | null }> {
  const refuse = (reason: string, cause?: unknown) => new DatabaseUnusable(`the option orm: ${reason}`, false, cause);
  let pool: unknown;
  try {
    pool = await orm.em.getConnection().getNativeClient();
  } catch (error) {
    throw refuse(
      'its connection pool cannot be reached: it must be a MikroORM 7 of @mikro-orm/postgresql that makes its own pool',
      error,
    );
  }
  if (!isPool(pool)) throw refuse('it must be a MikroORM 7 of @mikro-orm/postgresql');
  const { max } = pool.options;
  if (max < SMALLEST_POOL) {
    throw refuse(`its pool has ${max} connections, and at least ${SMALLEST_POOL} are needed: raise pool.max`);
  }
  // Reads the options by the driver's own rules. It is not connected.
  const { host, port, user = '', database = '' } = new pg.Client(pool.options);
  const isSocket = host.startsWith('/');
  const at = isSocket ? `socket ${host}` : `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const text = `PostgreSQL of the application's MikroORM at ${at}, database "${database}"`;
  const location = isSocket ? null : `postgres://${at}/`;
  return { pool, place: { host, port, user, database, directTls: false, text }, location };
}

/** Takes a connection of a pool for a migration. It goes back to the pool only after a complete transaction. */
export async function migrationOn(pool: Pool): Promise<MigrationConnection> {
  const client = await pool.connect();
  return { client, end: async (clean) => client.release(!clean) };
}

/**
 * Takes one connection of a pool for good, so that a pool that the application has emptied delays no heartbeat. A connection
 * that breaks is replaced at the next use. Uses wait for each other.
 *
 * @returns the connection, and a function that gives it back once it is not in use
 */
export function reserveConnection(pool: Pool): Connections & { end(): Promise<void> } {
  let held: { client: PoolClient; giveBack(destroy: boolean): void } | null = null;
  let ended = false;
  let inUse = 0;
  let earlier: Promise<void> = Promise.resolve();

  async function take() {
    if (held) return held;
    const client = await pool.connect();
    const release = client.release.bind(client);
    const onError = () => one.giveBack(true);
    const one = {
      client,
      giveBack(destroy: boolean) {
        if (held !== one) return;
        held = null;
        client.off('error', onError);
        release(destroy);
      },
    };
    client.on('error', onError);
    held = one;
    return one;
  }

  return {
    async connect() {
      const before = earlier;
      const over = Promise.withResolvers<void>();
      earlier = over.promise;
      inUse += 1;
      const leave = () => {
        inUse -= 1;
        over.resolve();
      };
      await before;
      try {
        const one = await take();
        one.client.release = (destroy) => {
          if (destroy || ended) one.giveBack(Boolean(destroy));
          leave();
        };
        return one.client;
      } catch (error) {
        leave();
        throw error;
      }
    },
    async end() {
      ended = true;
      if (inUse === 0) held?.giveBack(false);
    },
  };
}
