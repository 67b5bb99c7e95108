import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';

/** Where `test/deploy/install-tools` puts linters that are Python packages. */
const TOOLS = join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'holdfast-deploy-tools', 'bin');

/** Returns the path of an installed program, or null. */
export async function which(name: string, elsewhere: readonly string[] = []): Promise<string | null> {
  const places = (process.env.PATH ?? '').split(delimiter).map((dir) => join(dir, name));
  for (const path of [...places, join(TOOLS, name), ...elsewhere]) {
    const found = await access(path, constants.X_OK).then(
      () => true,
      () => false,
    );
    if (found) return path;
  }
  return null;
}

export interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end, with this text on its standard input. */
export const run = (
  file: string,
  args: readonly string[],
  input = '',
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Ran> =>
  new Promise((resolve) => {
    const child = execFile(file, [...args], { ...options, maxBuffer: 16_777_216 }, (error, stdout, stderr) => {
      resolve({ code: error ? Number(error.code) || 1 : 0, stdout, stderr });
    });
    child.stdin!.on('error', () => {});
    child.stdin!.end(input);
  });

/** Returns the Python with the packages of `test/deploy/install-tools`, or null. */
export async function pythonWith(module: string): Promise<string | null> {
  for (const python of [join(TOOLS, 'python3'), await which('python3')]) {
    if (python && (await run(python, ['-c', `import ${module}`])).code === 0) return python;
  }
  return null;
}
