import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { digestOf } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { BASE_URL, snippetAfter, snippetsOf, writeSnippet } from './snippets.ts';

let at: TestBridge;
beforeAll(async () => {
  at = await startTestBridge({ simulator: { reasoning: true } });
});
afterAll(() => at.close());

// Snippets of packages that are no dev dependencies, and settings of programs, run in `npm run test:clients`.
const pages: readonly [page: string, index: number, what: string, requests: number][] = [
  ['openai-typescript', 0, 'an answer, and a stream that continues it', 2],
  ['openai-typescript', 1, 'two requests on one WebSocket', 2],
  ['agents-typescript', 0, 'two runs over WebSocket', 2],
  ['agents-typescript', 1, 'two runs with a conversation of the provider', 2],
  ['vercel-ai', 0, 'two streams', 2],
];

it.each(pages)(
  'The program of docs/clients/%s.md, number %i, runs: %s',
  async (page, index, _, requests) => {
    const code = (await snippetsOf(`docs/clients/${page}.md`))[index]!;
    expect(code).toContain(BASE_URL);
    const { file, remove } = await writeSnippet(`${page}-${index}`, code.replaceAll(BASE_URL, at.url));
    const before = at.simulator.journal.of('create').length;
    const env = { ...process.env, OPENAI_API_KEY: `sk-${page}-${index}` };
    const child = spawn(process.execPath, [file], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (more) => (output += more));
    const [exitCode] = await once(child, 'close');
    await remove();
    expect(exitCode, output).toBe(0);
    expect(digestOf(output), output).not.toBeNull();
    const creates = at.simulator.journal.of('create').slice(before);
    expect(creates).toHaveLength(requests);
    expect(creates.slice(1).every(({ previousResponseId }) => previousResponseId !== null)).toBe(true);
  },
  180_000,
);

it('The start of Holdfast for a ChatGPT login passes the credential of Codex on, and serves on loopback only', async () => {
  const [variable, value] = (await snippetAfter('docs/clients/codex.md', '<!-- check: login start -->'))
    .split(' ', 1)[0]!
    .split('=');
  const login = { [variable!]: value };
  const { upstream, security } = readConfig(login);
  expect([upstream.url, upstream.key, security.apiKeys]).toEqual([value, null, []]);
  expect(() => readConfig({ ...login, HOST: '0.0.0.0' })).toThrow(/HOLDFAST_API_KEYS/);
});

it('Every page has a link in the table of pages, and runs at the address of the quick start', async () => {
  const table = await readFile('docs/clients/README.md', 'utf8');
  for (const page of [
    'codex',
    'openai-typescript',
    'agents-typescript',
    'vercel-ai',
    'langchain-typescript',
    'opencode',
  ]) {
    expect(table).toContain(`(${page}.md)`);
    expect(await readFile(`docs/clients/${page}.md`, 'utf8')).toContain(BASE_URL);
  }
});
