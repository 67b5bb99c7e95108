import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { agents } from './agents.ts';
import type { Check, Client, Row } from './client.ts';
import { CODEX_VERSION, codex, codexIn } from './codex.ts';
import { codexOverHttp } from './codex-http.ts';
import { langchain } from './langchain.ts';
import { llm } from './llm.ts';
import { openai } from './openai.ts';
import { opencode } from './opencode.ts';
import { pythonClients } from './python.ts';
import { pythonPages } from './python-pages.ts';
import { type Cluster, converse, runPage, startCluster } from './scenario.ts';
import { tableOf } from './table.ts';
import { compareTurns } from './turns.ts';
import { vercel } from './vercel.ts';
import { codexOverWebSocket, pythonOverWebSocket } from './websocket.ts';

/**
 * `npm run test:clients [-- NAME ...]`: runs real clients through real workers, or only those whose names contain a NAME. Each
 * takes the same conversation (`scenario.ts`); what is particular to one client is checked besides. Prints the table of
 * `docs/clients/README.md`.
 *
 * A client is added as a file in this folder that exports a `Client` (`client.ts`), and as a line here.
 */
const clients: readonly Client[] = [codex, openai, agents, vercel, langchain, opencode, ...pythonClients, llm];

/** Checks that are particular to one client, by the name of the client. They get the folder that is kept between runs. */
const particular: readonly (readonly [name: string, run: (scratch: string, home: string) => Promise<void>])[] = [
  ['Codex', async (scratch, home) => compareTurns(await codexIn(scratch), home, check)],
  ['Codex', async (scratch, home) => codexOverWebSocket(await codexIn(scratch), home, 'websocket', check)],
  ['Codex', async (scratch, home) => codexOverWebSocket(await codexIn(scratch), home, 'built-in', check)],
  ['Codex', async (scratch, home) => codexOverHttp(await codexIn(scratch), home, check)],
  ['openai for Python', (scratch, home) => pythonOverWebSocket(scratch, home, check)],
  ['Pages for Python', (scratch, home) => pythonPages(scratch, home, check)],
];

const failures: string[] = [];
const check: Check = (label, ok, detail = '') => {
  console.log(`${ok ? 'ok  ' : 'FAIL'} ${label}${ok || detail === '' ? '' : `\n     ${detail}`}`);
  if (!ok) failures.push(label);
};

const wanted = process.argv.slice(2).map((name) => name.toLowerCase());
const isWanted = (name: string) => wanted.length === 0 || wanted.some((part) => name.toLowerCase().includes(part));
const scratch = process.env.TEST_CLIENTS_DIR ?? join(tmpdir(), `holdfast-clients-${CODEX_VERSION}`);

const results: { client: Client; versions: string; rows: Row[] | string }[] = [];
let cluster: Cluster | null = null;
for (const client of clients.filter(({ name }) => isWanted(name))) {
  let versions: string;
  try {
    versions = await client.install(scratch);
  } catch (error) {
    console.log(`${client.name} is skipped: ${error}`);
    results.push({ client, versions: '', rows: String(error) });
    continue;
  }
  console.log(`${client.name}: ${versions}`);
  cluster ??= await startCluster();
  const rows: Row[] = [];
  for (const mode of client.modes) rows.push(await converse(client, mode, { cluster, scratch }, check));
  if (client.runPage) await runPage(client, { cluster, scratch }, check);
  results.push({ client, versions, rows });
}
await cluster?.close();
for (const [name, run] of particular.filter(([name]) => isWanted(name))) {
  console.log(`${name}:`);
  const home = await mkdtemp(join(tmpdir(), 'holdfast-client-'));
  await run(scratch, home);
  await rm(home, { recursive: true, force: true });
}
console.log(`\n${tableOf(results)}\n`);
console.log(
  failures.length === 0 ? 'All clients passed.' : `${failures.length} checks failed:\n${failures.join('\n')}`,
);
process.exit(failures.length === 0 ? 0 : 1);
