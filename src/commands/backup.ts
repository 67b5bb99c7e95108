import type { CopyOptions } from '../command-line.ts';
import { withSecretFiles } from '../config.ts';
import {
  BackupFailed,
  backUp,
  type CopyHeard,
  type CopyResult,
  type CopyStep,
  restoreFrom,
} from '../store/embedded/backup.ts';
import { embeddedMajor } from '../store/embedded/binaries.ts';
import { dataDirState } from '../store/embedded/index.ts';
import { version } from '../version.ts';
import { givenSettings } from './config.ts';
import { withDatabase } from './database.ts';
import { CommandFailed, type Output, type Progress, printJson, progress, size, standardOutput } from './output.ts';

const dataDirOf = ({ dataDir }: CopyOptions, env: NodeJS.ProcessEnv) =>
  dataDir ?? (env.HOLDFAST_DATA_DIR?.trim() || '.holdfast');

/** Returns whether the settings name a database that is not the embedded one. */
const isExternal = (env: NodeJS.ProcessEnv) => Boolean(withSecretFiles(env, []).DATABASE_URL?.trim());

/** Shows the steps of a copy, each with its progress. */
function shownSteps(output: Output, labels: Record<CopyStep, string>): CopyHeard & { end(): void } {
  let current: { shown: Progress; label: string } | null = null;
  const end = () => {
    current?.shown.end(`${current.label}: done`);
    current = null;
  };
  return {
    end,
    step(step) {
      end();
      current = { shown: progress(output, labels[step]), label: labels[step] };
    },
    progress: (done, total) => current?.shown.at(done, total),
  };
}

const rowsText = (rows: Record<string, number>) =>
  ['bridge_session', 'turn', 'turn_items'].map((name) => `${name} ${rows[name] ?? 0}`).join(', ');

const resultOf = ({ manifest, rows, replaced }: CopyResult, directory: string) => ({
  directory,
  createdAt: manifest.createdAt,
  holdfast: manifest.holdfast,
  postgres: manifest.postgres,
  files: manifest.files.length,
  bytes: manifest.files.reduce((sum, { bytes }) => sum + bytes, 0),
  rows,
  replaced,
});

/** Turns a refusal into a message of the command. */
const plainly = (error: unknown): never => {
  throw error instanceof BackupFailed ? new CommandFailed(error.message, undefined, { cause: error }) : error;
};

/**
 * Copies the embedded database and its secrets, also while Holdfast runs, and proves the copy.
 *
 * @param target directory to be made
 * @throws `CommandFailed`, or the error of the database's start
 */
export async function backup(target: string, options: CopyOptions, output: Output = standardOutput): Promise<void> {
  const { env } = givenSettings(options);
  if (options.dataDir === undefined && isExternal(env)) {
    throw new CommandFailed(
      'DATABASE_URL names a database of your own: back it up with its own tools, as with `pg_dump --format=custom "$DATABASE_URL"`, and keep HOLDFAST_SECRETS. This command copies the embedded one (--data-dir).',
    );
  }
  const dataDir = dataDirOf(options, env);
  if ((await dataDirState(dataDir)).major === null) {
    throw new CommandFailed(`There is no database in ${dataDir}: name another directory with --data-dir.`);
  }
  const heard = shownSteps(output, {
    copy: 'Copying',
    verify: 'Comparing',
    start: 'Starting the copy and reading every row',
  });
  const result = await withDatabase({ databaseUrl: null, dataDir }, (url) =>
    backUp({ dataDir, url, target, release: version, force: options.force === true, heard }),
  ).catch(plainly);
  heard.end();
  if (options.json) return printJson(output, resultOf(result, target));
  const { files, bytes } = resultOf(result, target);
  output.out(`${target}: ${files} files, ${size(bytes)}; proved by a start from it (${rowsText(result.rows)} rows).\n`);
  output.out('It holds conversations and the secrets of this installation: keep it as safe as these.\n');
}

/**
 * Puts a backup in place of the embedded database.
 *
 * @param source directory of the backup
 * @throws `CommandFailed`, or `DataDirInUse` while a Holdfast uses the data directory
 */
export async function restore(source: string, options: CopyOptions, output: Output = standardOutput): Promise<void> {
  const dataDir = dataDirOf(options, givenSettings(options).env);
  const major = await embeddedMajor();
  const heard = shownSteps(output, {
    copy: 'Copying',
    verify: 'Copying and comparing',
    start: 'Starting it and reading every row',
  });
  const result = await restoreFrom({ source, dataDir, major, force: options.force === true, heard }).catch(plainly);
  heard.end();
  if (options.json) return printJson(output, resultOf(result, dataDir));
  output.out(
    `${dataDir} is as it was at ${result.manifest.createdAt} (${rowsText(result.rows)} rows). Start Holdfast.\n`,
  );
  if (result.replaced !== null) {
    output.out(`What was there before is in ${result.replaced}: remove it when nothing in it is missed.\n`);
  }
}
