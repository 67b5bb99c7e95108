import { chmod, chown, mkdir, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { requireSafe, UnsafePath } from '../../../src/store/embedded/binaries.ts';
import { loadOrCreateAdminToken } from '../../../src/store/embedded/index.ts';
import { plainEnvironment } from '../../../src/store/embedded/server.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'hf-safe-'));
});
afterEach(() => rm(home, { recursive: true, force: true }));
const modeOf = async (path: string) => (await stat(path)).mode & 0o777;

it('The database’s programs receive only the environment variables that they need', () => {
  const env = {
    PATH: '/bin',
    LC_NUMERIC: 'de_DE',
    TZ: 'UTC',
    PGHOST: 'x',
    HOLDFAST_UPSTREAM_KEY: 'sk-secret',
    OPENAI_API_KEY: 'sk-secret',
    LD_PRELOAD: '/tmp/x.so',
    NODE_OPTIONS: '--require /tmp/x.js',
  };
  expect(plainEnvironment(env)).toEqual({ PATH: '/bin', LC_NUMERIC: 'de_DE', LC_ALL: 'C', TZ: 'UTC' });
});

describe.skipIf(process.platform === 'win32')('directories that another user may write to', () => {
  it('A writable directory is repaired when this user owns it', async () => {
    const file = join(home, 'postgres');
    await writeFile(file, '');
    await chmod(file, 0o777);
    await requireSafe(file);
    expect(await modeOf(file)).toBe(0o755);
  });

  it('A writable parent directory is refused, unless the sticky bit protects its entries', async () => {
    const shared = join(home, 'shared');
    await mkdir(join(shared, 'data'), { recursive: true, mode: 0o700 });
    await chmod(shared, 0o777);
    await expect(requireSafe(join(shared, 'data'))).rejects.toThrow(UnsafePath);
    await expect(requireSafe(join(shared, 'data'))).rejects.toThrow(/shared may be written by every user/);
    await chmod(shared, 0o1777);
    await requireSafe(join(shared, 'data'));
  });

  it.skipIf(process.getuid?.() !== 0)('A directory of another user is refused, also behind a link', async () => {
    const foreign = join(home, 'foreign');
    await mkdir(foreign);
    await writeFile(join(foreign, 'postgres'), '');
    await chown(foreign, 12_345, 12_345);
    await symlink(foreign, join(home, 'link'));
    await expect(requireSafe(join(home, 'link', 'postgres'))).rejects.toThrow(/foreign belongs to user 12345/);
    await chown(foreign, 0, 12_345);
    await chmod(foreign, 0o775);
    // Root owns the directory and gave it to a group, so group write access is intended.
    await requireSafe(join(foreign, 'postgres'));
  });
});

it('The generated admin token is created once, and is readable only by its owner', async () => {
  const first = await loadOrCreateAdminToken(home);
  const second = await loadOrCreateAdminToken(home);
  expect([first.fresh, second.fresh]).toEqual([true, false]);
  expect(second.token).toBe(first.token);
  expect(first.token.length).toBeGreaterThanOrEqual(32);
  expect(await modeOf(first.file)).toBe(0o600);
});
