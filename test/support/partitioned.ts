import pg from 'pg';

const PARTITIONS = 4;

/** A table with tenants' rows, and what `like ... including all` does not copy. */
interface Table {
  name: string;
  keys: readonly string[];
}

/**
 * Replaces every table of tenants' rows in a database without rows by one with the same columns, keys and indexes that is
 * partitioned by the hash of the scope. PostgreSQL accepts no unique key without the scope then, and it stands in for a
 * database that keeps each scope on one of several servers. Partition `n` of a table is named after it, with `_pn`.
 *
 * @param url the database, with the tables of this release
 */
export async function partitionByScope(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const { rows: tables } = await client.query<Table>(
      `select c.relname::text as name,
              array(select format('alter table %I add constraint %I %s', c.relname, conname, pg_get_constraintdef(oid))
                      from pg_constraint where conrelid = c.oid and contype = 'f') as keys
         from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'scope'
        where c.relkind = 'r' and c.relnamespace = 'holdfast'::regnamespace`,
    );
    const { rows: views } = await client.query<{ text: string }>(
      `select format('create view %I as %s', viewname, definition) as text from pg_views where schemaname = 'holdfast'`,
    );
    const statements = tables.flatMap(({ name }) => [
      `alter table ${name} rename to plain`,
      `create table ${name} (like plain including all) partition by hash (scope)`,
      'drop table plain cascade',
      ...Array.from(
        { length: PARTITIONS },
        (_, nth) =>
          `create table ${name}_p${nth} partition of ${name} for values with (modulus ${PARTITIONS}, remainder ${nth})`,
      ),
    ]);
    for (const statement of [...statements, ...tables.flatMap(({ keys }) => keys), ...views.map(({ text }) => text)]) {
      await client.query(statement);
    }
  } finally {
    await client.end();
  }
}
