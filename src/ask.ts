import { spawn } from 'node:child_process';
import { request } from 'undici';

/** Address and admin token of a running Holdfast. */
export interface Asked {
  url: string;
  adminToken: string | null;
}

/**
 * Fetches the readable trace of a session, response, turn or request from a running worker.
 *
 * @throws Error with the worker's error message, or the reason why the worker could not be reached
 */
export async function tellStory(id: string, { url, adminToken }: Asked): Promise<string> {
  const target = new URL(`/admin/stories/${encodeURIComponent(id)}`, url);
  const answer = await request(target, {
    headers: adminToken === null ? {} : { authorization: `Bearer ${adminToken}` },
  }).catch((error: Error & { code?: string }) => {
    throw new Error(`No Holdfast answers at ${url} (${error.code ?? error.name}): name it with --url.`);
  });
  const body = (await answer.body.json()) as { story?: string[]; endsIn?: unknown; error?: { message: string } };
  if (!body.story) throw new Error(body.error?.message ?? `${url} answered ${answer.statusCode}.`);
  const end = body.endsIn === null ? '' : `\nReplayed, it ends in ${JSON.stringify(body.endsIn)}.\n`;
  return `${body.story.join('\n')}\n${end}`;
}

const openers: Partial<Record<NodeJS.Platform, [string, ...string[]]>> = {
  darwin: ['open'],
  win32: ['cmd', '/c', 'start', ''],
};

/**
 * Opens the inspector page of a running Holdfast in a browser, if there is one.
 *
 * @returns the address of the page, in any case
 */
export function openInspector(sessions: readonly string[], url: string): string {
  const page = new URL('/inspect', url);
  for (const session of sessions) page.searchParams.append('session', session);
  const [command, ...args] = openers[process.platform] ?? ['xdg-open'];
  const child = spawn(command, [...args, page.href], { stdio: 'ignore', detached: true });
  // Without a browser, the caller still has the address to print.
  child.once('error', () => {});
  child.unref();
  return page.href;
}
