import pg from 'pg';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import type { FreshDatabase } from '../support/database.ts';
import type { Subject } from './contract.ts';

/** Opens the PostgreSQL store as the contract uses it; disposing of it drops the database. */
export async function postgresSubject(database: FreshDatabase): Promise<Subject> {
  const another = () => openPostgresStore({ url: database.url, poolSize: 6, statementTimeoutMs: 20_000 });
  const store = await another();
  const admin = new pg.Client({ connectionString: database.url });
  await admin.connect();
  return {
    store,
    another,
    forgetWorker: async (id) => void (await admin.query('delete from worker where id = $1', [id])),
    eraseItems: async (scope, id) =>
      void (await admin.query('delete from turn_items where scope = $1 and turn_id = $2', [scope, id])),
    async age(hours) {
      const older = `make_interval(hours => ${Number(hours)})`;
      await admin.query(
        `update bridge_session set created_at = created_at - ${older}, updated_at = updated_at - ${older}`,
      );
      await admin.query(`update active_turn set started_at = started_at - ${older}`);
      await admin.query(`update turn set started_at = started_at - ${older}, ended_at = ended_at - ${older}`);
      await admin.query(`update provider_object set created_at = created_at - ${older}`);
      await admin.query(`update worker set heartbeat_expires_at = heartbeat_expires_at - ${older}`);
    },
    async dispose() {
      await admin.end();
      await store.shutdown();
      await database.drop();
    },
  };
}
