import { spawn } from 'node:child_process';
import { request } from 'undici';

/** Where a running Holdfast is asked, and with which token. */
export interface Asked {
  url: string;
  adminToken: string | null;
}

/**
 * Asks a running worker what happened, by session, response, turn or request id, and tells it in sentences. Throws an
 * Error whose message is what the worker said, or why it could not be asked.
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

/** Opens the inspector page of a running Holdfast in a browser, where there is one; returns its address either way. */
export function openInspector(sessions: readonly string[], url: string): string {
  const page = new URL('/inspect', url);
  for (const session of sessions) page.searchParams.append('session', session);
  const [command, ...args] = openers[process.platform] ?? ['xdg-open'];
  const child = spawn(command, [...args, page.href], { stdio: 'ignore', detached: true });
  // Without a browser the address that is printed has to do.
  child.once('error', () => {});
  child.unref();
  return page.href;
}
