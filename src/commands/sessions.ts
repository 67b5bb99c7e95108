import type { SessionsOptions } from '../command-line.ts';
import type { SessionSummary, WorkerRow } from '../store/port.ts';
import { type Asked, asked } from './admin.ts';
import { columns, duration, type Output, printJson, standardOutput } from './output.ts';

/** One session as the admin API lists it. */
export type ListedSession = Pick<
  SessionSummary,
  'id' | 'state' | 'model' | 'activeTurnId' | 'updatedAt' | 'turnCount' | 'lastTurn'
> & {
  owner: (Pick<WorkerRow, 'id' | 'state'> & { here: boolean }) | null;
  actor: { state: string; queueLength: number; socketOpen: boolean } | null;
};

export interface SessionPage {
  sessions: ListedSession[];
  total: number;
  cursor: string | null;
}

/** Reads one page of sessions. */
export function sessionPage(at: Asked, query: Record<string, string | undefined>): Promise<SessionPage> {
  const given = Object.entries(query).filter((entry): entry is [string, string] => entry[1] !== undefined);
  return at.json<SessionPage>(`/admin/sessions?${new URLSearchParams(given)}`);
}

/** Formats sessions as a table. */
export function sessionTable(sessions: readonly ListedSession[], now: number, width: number): string {
  return columns(
    ['SESSION', 'STATE', 'OWNER', 'TURNS', 'LAST TURN', 'CHANGED', 'MODEL'],
    sessions.map(({ id, state, actor, owner, turnCount, lastTurn, updatedAt, model }) => [
      id,
      actor?.state ?? state,
      owner ? `${owner.id.slice(0, 8)}${owner.state === 'serving' ? '' : ` (${owner.state})`}` : 'none',
      String(turnCount),
      lastTurn ? [lastTurn.state, lastTurn.outcome].filter((each) => each !== null).join(', ') : 'none',
      `${duration(Math.max(0, now - Date.parse(updatedAt)))} ago`,
      model ?? '',
    ]),
    width,
  );
}

/** Most sessions of one page of the API. */
const LONGEST_PAGE = 500;

/**
 * Lists the sessions of all workers, the one that changed last first.
 *
 * @throws `CommandFailed` with the error of the worker that was asked
 */
export async function sessions(options: SessionsOptions, output: Output = standardOutput): Promise<void> {
  const at = await asked(options);
  const limit = options.limit ?? (options.all ? LONGEST_PAGE : 50);
  const query = {
    limit: String(limit),
    state: options.state,
    owner: options.owner,
    busy: options.busy && '1',
    q: options.search,
  };
  const found: ListedSession[] = [];
  let page: SessionPage;
  let cursor = options.cursor;
  do {
    page = await sessionPage(at, { ...query, cursor });
    found.push(...page.sessions);
    cursor = page.cursor ?? undefined;
  } while (options.all && cursor !== undefined);
  const { total } = page;
  if (options.json) return printJson(output, { sessions: found, total, cursor: page.cursor });
  if (found.length === 0) return output.out('No session matches.\n');
  output.out(sessionTable(found, Date.now(), output.terminal ? output.columns : 0));
  const next = page.cursor === null ? '' : ` The next page: the same with --cursor ${page.cursor}`;
  output.err(`\n${found.length} of ${total}.${next}\n`);
}
