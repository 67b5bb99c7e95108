import { spawn } from 'node:child_process';
import type { AskOptions } from '../command-line.ts';
import { baseUrl } from './admin.ts';
import { type Output, printJson, standardOutput } from './output.ts';

const openers: Partial<Record<NodeJS.Platform, [string, ...string[]]>> = {
  darwin: ['open'],
  win32: ['cmd', '/c', 'start', ''],
};

/** Opens the inspector of a running Holdfast in a browser, if there is one, and prints its address in any case. */
export async function inspect(
  sessions: readonly string[],
  options: AskOptions,
  output: Output = standardOutput,
): Promise<void> {
  const page = new URL(`${baseUrl(options)}/inspect`);
  for (const session of sessions) page.searchParams.append('session', session);
  if (options.json) return printJson(output, { url: page.href });
  const [command, ...args] = openers[process.platform] ?? ['xdg-open'];
  const child = spawn(command, [...args, page.href], { stdio: 'ignore', detached: true });
  child.once('error', () => {});
  child.unref();
  output.out(`${page.href}\n`);
}
