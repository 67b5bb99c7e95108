import { execFile } from 'node:child_process';
import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { ResponseObject } from '../support/client.ts';

const execute = promisify(execFile);

/** A server that is not ours in the place of the provider. */
export interface ForeignUpstream {
  name: string;
  version: string;
  /** Base URL of its API, with `/v1`. */
  url: string;
  model: string;
  /** Values of `HOLDFAST_UPSTREAM_TRANSPORT` to try. */
  transports: readonly ('websocket' | 'http' | 'auto')[];
  /** Settings that a bridge in front of it needs. */
  env: Record<string, string>;
  /** Part of a user's message that makes the model call the tool `look`. */
  callsTool: string;
  /** Part of a user's message after which the answer takes seconds. */
  takesLong: string;
  /** A body that it refuses. */
  refused: object;
  /** Returns whether the answer shows that the model was given exactly these items, in order. */
  sawExactly(response: ResponseObject, items: readonly object[]): boolean;
  close(): Promise<void>;
}

/** Starts an upstream, installed into a folder of its own below `scratch`. Null where it cannot be installed. */
export type StartUpstream = (scratch: string) => Promise<ForeignUpstream | null>;

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

/**
 * Installs a package of npm into a folder, once.
 *
 * @returns the folder of the package
 */
export async function installFromNpm(scratch: string, name: string, version: string): Promise<string> {
  const dir = join(scratch, `${name.replaceAll(/[@/]/g, '-')}-${version}`);
  const found = join(dir, 'node_modules', name);
  if (await exists(join(found, 'package.json'))) return found;
  await mkdir(dir, { recursive: true });
  await writeFile(join(dir, 'package.json'), '{"private":true}');
  await execute('npm', ['install', '--no-audit', '--no-fund', `${name}@${version}`], { cwd: dir });
  return found;
}

/**
 * Installs a package of PyPI into an environment of its own, once.
 *
 * @param wanted package with its extras and version
 * @returns the folder of the environment's programs; null without Python
 */
export async function installFromPyPI(scratch: string, name: string, wanted: string[]): Promise<string | null> {
  const dir = join(scratch, name);
  const done = join(dir, 'installed');
  if (await exists(done)) return join(dir, 'bin');
  try {
    await execute('python3', ['-m', 'venv', dir]);
  } catch {
    return null;
  }
  await execute(join(dir, 'bin', 'python'), ['-m', 'pip', '--quiet', 'install', ...wanted], { maxBuffer: 2 ** 26 });
  await writeFile(done, wanted.join('\n'));
  return join(dir, 'bin');
}
