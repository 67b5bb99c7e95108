import type { SettingsOptions } from '../command-line.ts';
import { readConfig } from '../config.ts';
import { dataDirState } from '../store/embedded/index.ts';
import { migrateDatabase } from '../store/postgres/index.ts';
import { ofDevelopment, type SchemaStatus, schemaStatus } from '../store/postgres/migrate.ts';
import { assertPostgres, placeOf } from '../store/postgres/unusable.ts';
import { givenSettings } from './config.ts';
import { withClient, withDatabase } from './database.ts';
import { CommandFailed, columns, EXIT, type Output, printJson, progress, standardOutput } from './output.ts';

/** Returns the state of the tables. */
async function statusOf(url: string, schema: string | null): Promise<SchemaStatus> {
  const place = placeOf(url);
  await assertPostgres(place);
  return withClient(url, (client) => schemaStatus(client, place, schema));
}

const pendingOf = ({ migrations }: SchemaStatus) =>
  migrations.filter(({ executedAt }) => executedAt === null).map(({ name }) => name);

/**
 * Shows the state of the tables, or executes the pending migrations.
 *
 * @throws `ConfigError`, `DatabaseUnusable`, or `CommandFailed` when there is no database yet
 */
export async function migrate(
  action: 'status' | 'apply',
  options: SettingsOptions,
  output: Output = standardOutput,
): Promise<number> {
  const config = readConfig(givenSettings(options).env);
  if (action === 'status' && config.databaseUrl === null && (await dataDirState(config.dataDir)).major === null) {
    throw new CommandFailed(
      `There is no database in ${config.dataDir} yet: the first start of Holdfast, or \`holdfast migrate apply\`, makes one.`,
    );
  }
  return withDatabase(config, async (url) => {
    const before = await statusOf(url, config.databaseSchema);
    const pending = pendingOf(before);
    if (before.development) throw new CommandFailed(ofDevelopment(before.schema, placeOf(url)));
    if (action === 'apply' && pending.length > 0) {
      const shown = progress(output, `Migrating schema ${before.schema}`, String);
      await migrateDatabase({
        url,
        schema: config.databaseSchema,
        onMigration(name, position, of) {
          output.err(`${name} (${position} of ${of})\n`);
          shown.at(position - 1, of);
        },
      });
      shown.end(`Migrations executed: ${pending.length}.`);
    }
    const after = action === 'apply' ? await statusOf(url, config.databaseSchema) : before;
    if (options.json) {
      printJson(output, { ...after, pending: pendingOf(after), executed: action === 'apply' ? pending : [] });
      return EXIT.done;
    }
    output.out(`PostgreSQL ${after.server}, schema ${after.schema}${after.exists ? '' : ' (without tables yet)'}\n\n`);
    output.out(
      columns(
        ['MIGRATION', 'EXECUTED'],
        after.migrations.map(({ name, executedAt }) => [name, executedAt ?? 'pending']),
      ),
    );
    for (const name of after.newer)
      output.out(`${name} was executed by a newer release, whose tables serve this one too.\n`);
    if (pendingOf(after).length > 0)
      output.out('\nThe next start executes what is pending, as does `holdfast migrate apply`.\n');
    return EXIT.done;
  });
}
