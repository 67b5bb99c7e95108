import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

/**
 * Installs packages of npm into a folder of their own, once.
 *
 * @param scratch folder that is kept between runs
 * @param packages names with exact versions, such as `ai@7.0.173`
 * @param scripts true if their install scripts are to run
 * @returns the folder with their `node_modules`
 * @throws Error when npm cannot install them
 */
export async function installNpm(scratch: string, packages: readonly string[], scripts = false): Promise<string> {
  const folder = join(scratch, `npm-${createHash('sha256').update(packages.join()).digest('hex').slice(0, 12)}`);
  const mark = join(folder, 'installed');
  if ((await readFile(mark, 'utf8').catch(() => '')) === packages.join()) return folder;
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, 'package.json'), '{"private":true}');
  const options = ['--no-audit', '--no-fund', ...(scripts ? [] : ['--ignore-scripts'])];
  try {
    await promisify(execFile)('npm', ['install', ...options, ...packages], { cwd: folder, timeout: 900_000 });
  } catch (error) {
    throw new Error(`npm could not install ${packages.join(', ')}: ${(error as { stderr?: string }).stderr ?? error}`);
  }
  await writeFile(mark, packages.join());
  return folder;
}

/** Imports a package that was installed into this folder. */
export const importFrom = (folder: string, name: string): Promise<Record<string, never>> =>
  import(pathToFileURL(createRequire(join(folder, 'package.json')).resolve(name)).href);

/** Returns name and version of packages of the project, as the table shows them. */
export async function versionsOf(...names: string[]): Promise<string> {
  const { devDependencies } = JSON.parse(
    await readFile(join(import.meta.dirname, '..', '..', 'package.json'), 'utf8'),
  ) as { devDependencies: Record<string, string> };
  return names.map((name) => `${name} ${devDependencies[name]}`).join(', ');
}
