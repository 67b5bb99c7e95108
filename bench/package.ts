import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { cp, mkdtemp, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);
const installed = new Map<string, Promise<string>>();

/**
 * Builds the package of a tree, and installs it in a folder for temporary files, once in this process: what users run needs less
 * memory than the sources, and sets flags of Node itself.
 *
 * @param tree folder with the sources of Holdfast and its `node_modules`
 * @returns path of the program
 */
export function packagedProgram(tree: string): Promise<string> {
  let program = installed.get(tree);
  if (program === undefined) {
    program = install(tree);
    installed.set(tree, program);
  }
  return program;
}

async function install(tree: string): Promise<string> {
  await run('npm', ['run', '-s', 'build'], { cwd: tree });
  const folder = await mkdtemp(join(tmpdir(), 'hf-package-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  for (const part of ['package.json', 'bin', 'dist'])
    await cp(join(tree, part), join(folder, part), { recursive: true });
  await symlink(join(tree, 'node_modules'), join(folder, 'node_modules'));
  return join(folder, 'bin', 'holdfast.js');
}
