import { execFile } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { parseStream } from '../support/client.ts';
import { replaceOnce } from './snippets.ts';

vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let at: TestBridge;
beforeEach(async () => {
  at = await startTestBridge();
});
afterEach(() => at.close());

/** Runs the nth block of the page, as a shell would, and returns its output. */
async function run(nth: number): Promise<string> {
  const page = await readFile(new URL('../../docs/clients/curl.md', import.meta.url), 'utf8');
  const blocks = [...page.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(([, code]) => code!);
  const code = replaceOnce(blocks[nth]!, 'http://127.0.0.1:8787', at.url);
  const env = { ...process.env, OPENAI_API_KEY: 'sk-test', NO_PROXY: '127.0.0.1' };
  return (await promisify(execFile)('sh', ['-euc', code], { env })).stdout;
}

it('The first command of the curl page prints one answer', async () => {
  const answer = JSON.parse(await run(0));
  expect(digestOf(answer)).toBe(expectedDigest({ items: 'Say hi.' }));
});

it('The second command of the curl page streams an answer of a named conversation, and shows its outcome', async () => {
  const [head, body] = (await run(1)).replaceAll('\r\n', '\n').split(/\n\n(.*)/s) as [string, string];
  expect(head).toContain('x-holdfast-outcome: created');
  expect(parseStream(body).at(-1)?.type).toBe('response.completed');
  const [session] = (await at.store.listSessions({ limit: 1 })).rows;
  expect(await at.store.keysOf(session!.id)).toMatchObject([{ kind: 'thread' }]);
});

it('The third command of the curl page continues an unstored answer with only the new items', async () => {
  const answer = JSON.parse(await run(2));
  const [first, second] = at.simulator.journal.of('create');
  expect(second).toMatchObject({ itemsReceived: 1, previousResponseId: first!.responseId });
  expect(second!.body.input).toBe('And again.');
  expect(answer.output).toHaveLength(1);
});
