import { createHash, randomBytes } from 'node:crypto';
import {
  chown,
  type FileHandle,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  writeFile,
} from 'node:fs/promises';
import { dirname, join, relative, resolve, sep } from 'node:path';
import pg from 'pg';
import { z } from 'zod';
import { listenAlone, socketPath } from '../../exclusive-socket.ts';
import { type Unprivileged, unprivileged } from './binaries.ts';
import { ADMIN_TOKEN_FILE, dataDirState, startEmbeddedPostgres } from './index.ts';
import { flushFile, runsThere } from './server.ts';

/** A backup cannot be made, read or put in place. The message says why, and what to do. */
export class BackupFailed extends Error {
  override readonly name = 'BackupFailed';
}

const MANIFEST = 'backup.json';
/** Entries of a data directory that are its state. */
const ENTRIES = ['pg', 'pg.password', 'token.secrets', ADMIN_TOKEN_FILE];

const manifestSchema = z.object({
  format: z.literal(1),
  /** Release that made the backup. */
  holdfast: z.string(),
  /** Major version of PostgreSQL. */
  postgres: z.string(),
  /** ISO 8601. */
  createdAt: z.string(),
  files: z.array(z.object({ path: z.string(), bytes: z.int().min(0), sha256: z.string() })).readonly(),
});
/** What a backup holds. */
export type BackupManifest = z.infer<typeof manifestSchema>;

/** Called while files are copied, in bytes. */
type OnProgress = (done: number, total: number) => void;

/** Directories of a cluster whose content belongs to the running server, or is made at its start. */
const emptied = new Set([
  'pg_wal',
  'pg_replslot',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
]);
/** Files of a cluster that belong to the running server. */
const leftOut =
  /^(?:postmaster\.(?:pid|opts)|backup_label(?:\.old)?|tablespace_map(?:\.old)?|pg_internal\.init.*|pgsql_tmp.*)$/;

interface Found {
  path: string;
  bytes: number;
}

/** Lists directories and files below a directory, paths relative to it. Entries that vanish meanwhile are left out. */
async function walk(root: string, skip: (name: string, parent: string) => boolean) {
  const directories: string[] = [];
  const files: Found[] = [];
  const visit = async (at: string) => {
    const entries = await readdir(join(root, at), { withFileTypes: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
    for (const entry of entries) {
      const path = join(at, entry.name);
      if (skip(entry.name, at)) continue;
      if (entry.isSymbolicLink())
        throw new BackupFailed(`${join(root, path)} is a link: only a whole directory can be copied.`);
      if (entry.isDirectory()) {
        directories.push(path);
        await visit(path);
      } else if (entry.isFile()) {
        const info = await stat(join(root, path)).catch(() => null);
        if (info) files.push({ path, bytes: info.size });
      }
    }
  };
  await visit('');
  return { directories, files };
}

const CHUNK = 1_048_576;
const NEW_FILE = 0o600;

/** Files that are flushed at the same time: file systems write one journal entry for several. */
const FLUSHED_AT_ONCE = 16;

/** Flushes files to disk. */
async function flush(paths: readonly string[]): Promise<void> {
  const left = [...paths];
  const one = async () => {
    for (let path = left.pop(); path !== undefined; path = left.pop()) await flushFile(path, 'r+');
  };
  await Promise.all(Array.from({ length: FLUSHED_AT_ONCE }, one));
}

/**
 * Copies one file and hashes what was copied. The source may grow meanwhile.
 *
 * @returns null when the source does not exist any more
 */
async function copyHashed(
  from: string,
  to: string,
  onBytes: (bytes: number) => void,
): Promise<{ bytes: number; sha256: string } | null> {
  let source: FileHandle;
  try {
    source = await open(from, 'r');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
  const target = await open(to, 'wx', NEW_FILE);
  try {
    const hash = createHash('sha256');
    const chunk = Buffer.allocUnsafe(CHUNK);
    let bytes = 0;
    for (;;) {
      const { bytesRead } = await source.read(chunk, 0, CHUNK, null);
      if (bytesRead === 0) break;
      const part = chunk.subarray(0, bytesRead);
      hash.update(part);
      for (let at = 0; at < bytesRead; ) at += (await target.write(part, at)).bytesWritten;
      bytes += bytesRead;
      onBytes(bytesRead);
    }
    return { bytes, sha256: hash.digest('hex') };
  } finally {
    await source.close();
    await target.close();
  }
}

const portable = (path: string) => path.split(sep).join('/');

/** Counts what was copied, for the progress. */
function counting(total: number, onProgress: OnProgress) {
  let done = 0;
  onProgress(0, total);
  return (bytes: number) => {
    done += bytes;
    onProgress(Math.min(done, total), total);
  };
}

/** Connection of a backup. It must stay open: its end would end the backup. */
async function connected(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, application_name: 'holdfast backup' });
  client.on('error', () => {});
  await client.connect();
  return client;
}

/**
 * Copies a running cluster and the secrets beside it to a new directory. The copy is consistent: PostgreSQL replays the log
 * that was written meanwhile when the copy is started.
 *
 * @param from data directory
 * @param url address of its server
 * @param to directory to be made
 * @param release version of this program, for the manifest
 */
async function copyRunning(
  from: string,
  url: string,
  to: string,
  release: string,
  onProgress: OnProgress,
): Promise<BackupManifest> {
  const cluster = join(from, 'pg');
  const client = await connected(url);
  const files: BackupManifest['files'][number][] = [];
  try {
    // The slot keeps the server from removing its log, and ends with the connection.
    await client.query('select pg_create_physical_replication_slot($1, true, true)', [
      `holdfast_${randomBytes(6).toString('hex')}`,
    ]);
    const { rows: started } = await client.query<{ segment: string }>(
      `select pg_walfile_name(pg_backup_start('holdfast', true)) as segment`,
    );
    const skip = (name: string, parent: string) => leftOut.test(name) || emptied.has(parent);
    const found = await walk(cluster, skip);
    // The control file is copied last, so that it names no checkpoint that the copied files lack.
    const control = join('global', 'pg_control');
    const ordered = [
      ...found.files.filter(({ path }) => path !== control),
      ...found.files.filter(({ path }) => path === control),
    ];
    const onBytes = counting(
      found.files.reduce((sum, { bytes }) => sum + bytes, 0),
      onProgress,
    );
    await mkdir(join(to, 'pg'), { mode: 0o700 });
    for (const directory of found.directories) await mkdir(join(to, 'pg', directory), { recursive: true, mode: 0o700 });
    const keep = async (path: string, source: string, heard = onBytes) => {
      const copied = await copyHashed(source, join(to, path), heard);
      if (copied) files.push({ path: portable(path), ...copied });
    };
    for (const { path } of ordered) await keep(join('pg', path), join(cluster, path));
    const { rows: stopped } = await client.query<{ segment: string; label: string; map: string | null }>(
      `select pg_walfile_name(lsn) as segment, labelfile as label, spcmapfile as map from pg_backup_stop(false)`,
    );
    const { segment, label } = stopped[0]!;
    await writeFile(join(to, 'pg', 'backup_label'), label, { mode: NEW_FILE });
    const hash = createHash('sha256').update(label).digest('hex');
    files.push({ path: 'pg/backup_label', bytes: Buffer.byteLength(label), sha256: hash });
    for (const name of await readdir(join(cluster, 'pg_wal'))) {
      const isSegment = /^[0-9A-F]{24}$/.test(name) && name >= started[0]!.segment && name <= segment;
      if (isSegment || name.endsWith('.history'))
        await keep(join('pg', 'pg_wal', name), join(cluster, 'pg_wal', name), () => {});
    }
  } finally {
    await client.end();
  }
  for (const name of ENTRIES.slice(1)) {
    const copied = await copyHashed(join(from, name), join(to, name), () => {});
    if (copied) files.push({ path: name, ...copied });
  }
  const postgres = (await readFile(join(to, 'pg', 'PG_VERSION'), 'utf8')).trim();
  const manifest: BackupManifest = {
    format: 1,
    holdfast: release,
    postgres,
    createdAt: new Date().toISOString(),
    files,
  };
  await writeFile(join(to, MANIFEST), `${JSON.stringify(manifest, null, 1)}\n`, { mode: NEW_FILE });
  await flush([...files.map(({ path }) => join(to, path)), join(to, MANIFEST)]);
  return manifest;
}

/**
 * Reads what a backup holds.
 *
 * @throws `BackupFailed` when the directory holds none
 */
export async function readManifest(source: string): Promise<BackupManifest> {
  const text = await readFile(join(source, MANIFEST), 'utf8').catch(() => null);
  if (text === null) throw new BackupFailed(`${source} holds no backup of Holdfast: there is no ${MANIFEST} in it.`);
  try {
    return manifestSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new BackupFailed(`${join(source, MANIFEST)} is damaged, or was made by a newer release.`, { cause });
  }
}

/** Gives a copied tree to the server's user and flushes it to disk. */
async function handOver(path: string, user: Unprivileged): Promise<void> {
  const info = await lstat(path);
  if (info.isDirectory()) for (const name of await readdir(path)) await handOver(join(path, name), user);
  if (!info.isSymbolicLink()) await chown(path, user.uid, user.gid);
  if (info.isFile()) await flushFile(path, 'r');
}

/**
 * Copies a backup to a new data directory, and compares every file with the manifest. PostgreSQL flushes the files when it
 * is started from them.
 */
async function unpack(source: string, to: string, manifest: BackupManifest, onProgress: OnProgress): Promise<void> {
  const root = resolve(source);
  const onBytes = counting(
    manifest.files.reduce((sum, { bytes }) => sum + bytes, 0),
    onProgress,
  );
  const { directories } = await walk(join(root, 'pg'), () => false);
  await mkdir(join(to, 'pg'), { recursive: true, mode: 0o700 });
  for (const directory of directories) await mkdir(join(to, 'pg', directory), { recursive: true, mode: 0o700 });
  for (const { path, bytes, sha256 } of manifest.files) {
    const from = resolve(root, path);
    if (relative(root, from).startsWith('..')) throw new BackupFailed(`${MANIFEST} names a file outside of ${source}.`);
    await mkdir(dirname(join(to, path)), { recursive: true, mode: 0o700 });
    const copied = await copyHashed(from, join(to, path), onBytes);
    if (copied?.bytes !== bytes || copied.sha256 !== sha256) {
      throw new BackupFailed(`${from} is ${copied ? 'damaged' : 'missing'}: the backup in ${source} cannot be used.`);
    }
  }
  const user = unprivileged();
  if (user) await handOver(join(to, 'pg'), user);
}

/**
 * Starts a data directory, and reads every row of every table of Holdfast's schemas.
 *
 * @param settings of the server, `name=value`
 * @returns the number of rows by table
 */
async function proved(dataDir: string, settings: readonly string[]): Promise<Record<string, number>> {
  const server = await startEmbeddedPostgres({ dataDir, settings });
  try {
    const client = await connected(server.url);
    try {
      const { rows: tables } = await client.query<{ name: string; quoted: string }>(
        `select c.relname as name, format('%I.%I', n.nspname, c.relname) as quoted
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind = 'r' and exists (
            select from pg_class m where m.relnamespace = n.oid and m.relname = 'holdfast_migrations')
          order by 1`,
      );
      const counts = new Map<string, number>();
      for (const { name, quoted } of tables) {
        // Reads whole rows: a count alone need not look at stored content.
        const { rows } = await client.query<{ count: string }>(
          `select count(*) from (select hashtext(t::text) from only ${quoted} t offset 0) read`,
        );
        counts.set(name, Number(rows[0]!.count));
      }
      return Object.fromEntries(counts);
    } finally {
      await client.end();
    }
  } finally {
    await server.stop();
  }
}

/** Steps of a backup or a restore, in their order. */
export type CopyStep = 'copy' | 'verify' | 'start';

/** Progress of a backup or a restore. */
export interface CopyHeard {
  /** A step begins. */
  step(step: CopyStep): void;
  /** Its progress, in bytes. */
  progress: OnProgress;
}

/** Result of a backup or a restore. */
export interface CopyResult {
  manifest: BackupManifest;
  /** Rows of the copy's tables, read after it was started. */
  rows: Record<string, number>;
  /** Where the state is that was replaced; null when there was none, or when it was removed. */
  replaced: string | null;
}

const exists = (path: string) =>
  stat(path).then(
    () => true,
    () => false,
  );

/** Makes an empty directory below a data directory, for a copy that is tried out. The server's user must get through. */
async function workplace(dataDir: string, name: string): Promise<string> {
  const place = join(resolve(dataDir), `${name}-${randomBytes(4).toString('hex')}`);
  await mkdir(place, { recursive: true, mode: 0o711 });
  return place;
}

/**
 * Copies the cluster of a running server and its secrets, and proves the copy: its checksums, a start from it, and a read of
 * every row.
 *
 * @param options.force replace a backup that is there, once the new one is proved
 * @throws `BackupFailed`; what was at the target before is then untouched
 */
export async function backUp(options: {
  dataDir: string;
  url: string;
  target: string;
  release: string;
  force: boolean;
  heard: CopyHeard;
}): Promise<CopyResult> {
  const { dataDir, url, release, force, heard } = options;
  const target = resolve(options.target);
  const inside = relative(resolve(dataDir), target);
  if (inside === '' || !(inside.startsWith('..') || resolve(inside) === inside)) {
    throw new BackupFailed(
      `${target} lies in the data directory itself: choose a place outside, best on another disk.`,
    );
  }
  const there = await exists(target);
  if (there && (await readdir(target).catch(() => ['no directory'])).length > 0) {
    if (!force)
      throw new BackupFailed(`${target} is there already: choose another directory, or replace it with --force.`);
    // Only a backup is replaced: nothing else may be lost by a mistyped name.
    await readManifest(target);
  }
  const draft = `${target}.partial-${randomBytes(4).toString('hex')}`;
  const trial = await workplace(dataDir, 'backup-trial');
  try {
    await mkdir(draft, { recursive: true, mode: 0o700 });
    heard.step('copy');
    const manifest = await copyRunning(resolve(dataDir), url, draft, release, heard.progress);
    heard.step('verify');
    await unpack(draft, trial, manifest, heard.progress);
    heard.step('start');
    // The trial is removed: it need not survive a crash of the machine.
    const rows = await proved(trial, ['fsync=off']);
    if (there) {
      const old = `${target}.old-${randomBytes(4).toString('hex')}`;
      await rename(target, old);
      await rename(draft, target);
      await rm(old, { recursive: true, force: true });
    } else await rename(draft, target);
    return { manifest, rows, replaced: null };
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EACCES' || code === 'ENOSPC' || code === 'EROFS' || code === 'ENOTDIR') {
      const why = code === 'ENOSPC' ? 'no space is left' : (error as Error).message;
      throw new BackupFailed(`The backup to ${target} failed: ${why}.`, { cause: error });
    }
    throw error;
  } finally {
    await rm(draft, { recursive: true, force: true });
    await rm(trial, { recursive: true, force: true });
  }
}

/**
 * Puts a backup in place of the state of a data directory. It is proved first: its checksums, a start from it, and a read of
 * every row.
 *
 * @param options.major major version of the programs that will run it
 * @param options.force set a database that is there aside, instead of refusing
 * @throws `BackupFailed`, or `DataDirInUse` while a Holdfast uses the directory; the state that was there is then untouched
 */
export async function restoreFrom(options: {
  source: string;
  dataDir: string;
  major: string;
  force: boolean;
  heard: CopyHeard;
}): Promise<CopyResult> {
  const { source, major, force, heard } = options;
  const dataDir = resolve(options.dataDir);
  const manifest = await readManifest(source);
  if (manifest.postgres !== major) {
    throw new BackupFailed(
      `${source} is of PostgreSQL ${manifest.postgres}, and the embedded one is ${major}: restore it with the release of ` +
        `Holdfast that made it (${manifest.holdfast}).`,
    );
  }
  const state = await dataDirState(dataDir);
  if (state.major !== null && !force) {
    throw new BackupFailed(
      `There is a database in ${dataDir}: choose another data directory, or set it aside with --force.`,
    );
  }
  await mkdir(dataDir, { recursive: true, mode: 0o700 });
  const lock = await listenAlone(
    socketPath(dataDir, 'holdfast'),
    `A Holdfast uses ${dataDir}: stop it, or choose another data directory.`,
  );
  const trial = await workplace(dataDir, 'restoring');
  const moved: [from: string, to: string][] = [];
  try {
    const left = await runsThere(join(dataDir, 'pg'));
    if (left !== null) {
      throw new BackupFailed(
        `The database server of a killed Holdfast (process ${left}) still runs in ${dataDir}: start and stop Holdfast once, or stop that process.`,
      );
    }
    heard.step('verify');
    await unpack(source, trial, manifest, heard.progress);
    heard.step('start');
    const rows = await proved(trial, process.platform === 'linux' ? ['recovery_init_sync_method=syncfs'] : []);
    const aside = join(dataDir, `replaced-${new Date().toISOString().replace(/[:.]/g, '-')}`);
    const move = async (from: string, to: string) => {
      await rename(from, to);
      moved.push([from, to]);
    };
    for (const name of ENTRIES) {
      if (!(await exists(join(dataDir, name)))) continue;
      await mkdir(aside, { recursive: true, mode: 0o711 });
      await move(join(dataDir, name), join(aside, name));
    }
    for (const name of ENTRIES) {
      if (await exists(join(trial, name))) await move(join(trial, name), join(dataDir, name));
    }
    return { manifest, rows, replaced: (await exists(aside)) ? aside : null };
  } catch (error) {
    for (const [from, to] of moved.reverse()) await rename(to, from);
    throw error;
  } finally {
    await rm(trial, { recursive: true, force: true });
    await lock.close();
  }
}
