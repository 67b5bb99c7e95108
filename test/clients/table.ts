import type { Client, Row } from './client.ts';

/** Results of a client: its rows, or the reason why it was skipped. */
export interface Result {
  readonly client: Client;
  readonly versions: string;
  readonly rows: readonly Row[] | string;
}

const mark = (passed: boolean) => (passed ? 'yes' : '');

/** Returns the table of `docs/clients/README.md`. */
export function tableOf(results: readonly Result[]): string {
  const lines = results.map(({ client, versions, rows }) => {
    const first = `[${client.name}](${client.page}.md)`;
    if (typeof rows === 'string') return [first, `skipped: ${rows.split('\n')[0]}`, '', '', '', '', '', ''];
    const deltas = rows.reduce((sum, row) => sum + row.deltas, 0);
    const requests = rows.reduce((sum, row) => sum + row.requests, 0);
    return [
      first,
      versions,
      mark(rows.some(({ transport }) => transport === 'HTTP')),
      mark(rows.some(({ transport }) => transport === 'WebSocket')),
      mark(rows.every(({ tools }) => tools)),
      mark(rows.some(({ streams }) => streams)),
      [...new Set(rows.map(({ killed }) => killed ?? 'failed'))].join('; '),
      `${deltas} of ${requests}`,
    ];
  });
  const head = ['client', 'versions', 'HTTP', 'WebSocket', 'tools', 'streaming', 'killed worker', 'deltas'];
  return [head, head.map(() => '---'), ...lines].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
