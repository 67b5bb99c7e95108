import { execFile } from 'node:child_process';
import { access, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Check } from '../clients/client.ts';
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
  /**
   * Runs what is particular to this upstream.
   *
   * @param home an empty folder
   */
  ownChecks?(home: string, check: Check): Promise<void>;
  close(): Promise<void>;
}

/** Starts an upstream, installed into a folder of its own below `scratch`. Rejects where it cannot be installed. */
export type StartUpstream = (scratch: string) => Promise<ForeignUpstream>;

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
