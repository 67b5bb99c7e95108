import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { configCheck, configPrint } from '../../src/commands/config.ts';
import { doctor } from '../../src/commands/doctor/index.ts';
import { explain } from '../../src/commands/explain.ts';
import { inspect } from '../../src/commands/inspect.ts';
import { migrate } from '../../src/commands/migrate.ts';
import { printable, progress } from '../../src/commands/output.ts';
import { sessions } from '../../src/commands/sessions.ts';
import { top } from '../../src/commands/top.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { keptOutput } from '../support/command.ts';
import { freshDatabase } from '../support/database.ts';
import { freePort } from '../support/worker-process.ts';

let at: TestBridge;
let responseId: string;
beforeAll(async () => {
  at = await startTestBridge();
  for (const thread of ['a', 'b', 'c']) {
    const { body } = await post(
      at.url,
      { model: 'gpt-\u001b[31m', stream: true, input: 'one' },
      { 'thread-id': thread },
    );
    responseId = body.id;
  }
  at.simulator.script.onTurn({}, { kind: 'error', error: { status: 500, code: 'server_error', message: 'no' } });
  await post(at.url, { model: 'm', stream: true, input: 'bad' }, { 'thread-id': 'd' });
});
afterAll(() => at.close());
afterEach(() => vi.unstubAllEnvs());

/** Replaces every value by its type, so that only names and types are compared. Arrays keep their first element. */
function shape(value: unknown): unknown {
  if (value === null) return 'null';
  if (Array.isArray(value)) return value.length === 0 ? [] : [shape(value[0])];
  if (typeof value !== 'object') return typeof value;
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, shape(each)]));
}

/** Sets the whole environment that the commands read. */
function environment(env: Record<string, string>): void {
  for (const name of ['HOST', 'PORT', 'DATABASE_URL', 'HTTP_PROXY', 'HTTPS_PROXY', 'NO_PROXY'])
    vi.stubEnv(name, undefined);
  for (const name of ['http_proxy', 'https_proxy', 'no_proxy']) vi.stubEnv(name, undefined);
  for (const [name, value] of Object.entries(env)) vi.stubEnv(name, value);
}

describe('the shape of --json', () => {
  it('of sessions, by filters and pages', async () => {
    const output = keptOutput();
    await sessions({ url: at.url, json: true, limit: 2 }, output);
    const page = JSON.parse(output.text);
    expect(shape(page)).toMatchSnapshot();
    const whole = keptOutput();
    await sessions({ url: at.url, json: true, all: true, limit: 1 }, whole);
    expect(JSON.parse(whole.text).sessions).toHaveLength(page.total);
    const found = keptOutput();
    await sessions({ url: at.url, json: true, search: responseId }, found);
    expect(JSON.parse(found.text)).toMatchObject({ total: 1 });
  });

  it('of top', async () => {
    const output = keptOutput();
    await top({ url: at.url, json: true }, output);
    const overview = JSON.parse(output.text);
    expect(shape({ ...overview, running: [] })).toMatchSnapshot();
    expect(overview.counts).toMatchObject({ turns: 4, outcomes: { created: 4 } });
  });

  it('of explain', async () => {
    const output = keptOutput();
    await explain(responseId, { url: at.url, json: true }, output);
    const { story, record, ...rest } = JSON.parse(output.text);
    expect([typeof story[0], shape(rest), Object.keys(record)]).toMatchSnapshot();
  });

  it('of inspect', async () => {
    const output = keptOutput();
    await inspect(['s1'], { url: `${at.url}/`, json: true }, output);
    expect(JSON.parse(output.text)).toEqual({ url: `${at.url}/inspect?session=s1` });
  });

  it('of config print and config check', async () => {
    environment({ HOLDFAST_UPSTREAM_KEY: 'sk-very-secret', HOLDFAST_API_KEYS: 'me:very-secret-key', PORT: '1' });
    const print = keptOutput();
    expect(await configPrint({ json: true }, print)).toBe(0);
    const { settings, problems } = JSON.parse(print.text);
    expect(shape({ settings, problems })).toMatchSnapshot();
    expect(settings.find(({ variable }: { variable: string }) => variable === 'HOLDFAST_API_KEYS')).toEqual({
      variable: 'HOLDFAST_API_KEYS',
      value: 'me:***',
      source: 'environment',
    });
    expect(print.text).not.toContain('very-secret');
    const check = keptOutput();
    environment({ PORT: 'x' });
    expect(await configCheck({ json: true }, check)).toBe(1);
    expect(JSON.parse(check.text)).toMatchSnapshot();
  });

  it('of doctor', async () => {
    const port = String(await freePort());
    environment({
      PORT: port,
      DATABASE_URL: at.databaseUrl,
      HOLDFAST_UPSTREAM_URL: at.simulator.url,
      HOLDFAST_SECRETS: '',
    });
    const output = keptOutput();
    expect(await doctor({ json: true }, output)).toBe(1);
    expect(shape(JSON.parse(output.text))).toMatchSnapshot();
  });

  it('of migrate status and migrate apply', async () => {
    const database = await freshDatabase({ empty: true });
    environment({ DATABASE_URL: database.url, HOLDFAST_SECRETS: `k:${'s'.repeat(40)}` });
    const [before, apply, after] = [keptOutput(), keptOutput(), keptOutput()];
    expect(await migrate('status', { json: true }, before)).toBe(0);
    expect(JSON.parse(before.text)).toMatchObject({ exists: false, pending: ['0001-initial'], executed: [] });
    expect(await migrate('apply', { json: true }, apply)).toBe(0);
    expect(JSON.parse(apply.text)).toMatchObject({ exists: true, pending: [], executed: ['0001-initial'] });
    expect(apply.errors).toContain('0001-initial (1 of 1)\n');
    expect(await migrate('status', { json: true }, after)).toBe(0);
    expect(shape(JSON.parse(after.text))).toMatchSnapshot();
    await database.drop();
  });
});

describe('for people', () => {
  it('Sessions are a table, whose text cannot steer a terminal', async () => {
    const output = keptOutput();
    await sessions({ url: at.url }, output);
    expect(output.text).toMatch(/^SESSION +STATE +OWNER +TURNS +LAST TURN +CHANGED +MODEL\n[0-9a-f-]{36} /);
    expect(output.text).toContain('gpt-?[31m');
    expect(printable('a\u001b[2J\u202eb')).toBe('a?[2J?b');
    expect(output.errors).toMatch(/^\n\d of \d\.\n$/);
  });

  it('A page says how to get the next one', async () => {
    const output = keptOutput();
    await sessions({ url: at.url, limit: 1 }, output);
    const [, cursor] = /--cursor (\S+)/.exec(output.errors)!;
    const next = keptOutput();
    await sessions({ url: at.url, limit: 1, cursor: cursor! }, next);
    expect(next.text.split('\n')[1]).not.toBe(output.text.split('\n')[1]);
  });

  it('In a pipe, top prints one measurement; on a terminal it draws until q, and restores the screen', async () => {
    const once = keptOutput();
    await top({ url: at.url }, once);
    expect(once.text).toMatch(/WORKER +STATE +LEASE +SESSIONS +BUSY +VERSION/);
    expect(once.text).toContain('created 4');
    expect(once.text).toContain('FAILED');
    const live = keptOutput(true);
    const keys = new PassThrough();
    const over = top({ url: at.url, interval: 3_600 }, live, keys);
    while (!live.text.includes('WORKER')) await new Promise(setImmediate);
    keys.write('q');
    await over;
    expect(live.text.startsWith('\u001b[?1049h')).toBe(true);
    expect(live.text.endsWith('\u001b[?1049l')).toBe(true);
  });

  it('Progress is one line with the time left on a terminal, and plain lines in a pipe', () => {
    const [pipe, terminal] = [keptOutput(), keptOutput(true)];
    for (const output of [pipe, terminal]) {
      const shown = progress(output, 'Copying');
      for (let done = 0; done <= 100; done += 1) shown.at(done * 1e6, 100e6);
      shown.end('Copied');
    }
    expect(pipe.errors.split('\n').length).toBeLessThanOrEqual(13);
    expect(pipe.errors).not.toContain('\u001b');
    expect(pipe.errors).toMatch(/Copying: \d+ %, \d+ MB of 100 MB, \d+ s left\n/);
    expect(terminal.errors.startsWith('Copying\r\u001b[2KCopying: 0 %')).toBe(true);
    expect(terminal.errors.endsWith('\r\u001b[2KCopied\n')).toBe(true);
  });
});

describe('what goes wrong', () => {
  it('Nothing answers, or something else: the message names the address and the exit code differs', async () => {
    const url = `http://127.0.0.1:${await freePort()}`;
    await expect(sessions({ url }, keptOutput())).rejects.toMatchObject({
      exitCode: 3,
      message: `No Holdfast answers at ${url} (ECONNREFUSED): check --url.`,
    });
    const other = createServer((_, res) => void res.end('<html>'));
    await new Promise<void>((up) => other.listen(0, '127.0.0.1', up));
    const { port } = other.address() as { port: number };
    await expect(sessions({ port }, keptOutput())).rejects.toMatchObject({
      exitCode: 1,
      message: `What answers at http://127.0.0.1:${port} is no Holdfast: check --url.`,
    });
    other.close();
  });

  it('An unknown id, and a wrong filter, are named by the worker', async () => {
    await expect(explain('nothing-like-it', { url: at.url }, keptOutput())).rejects.toThrow('There is no such session');
    await expect(sessions({ url: at.url, cursor: 'x' }, keptOutput())).rejects.toThrow('cursor: not one of this API.');
  });

  it('A secret may come from a file, one entry on each line; a file and a value together are refused', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'hf-files-'));
    await writeFile(join(dir, 'keys'), 'me:first-key-of-mine\n\nyou:second-key-of-yours\n', { mode: 0o600 });
    await writeFile(join(dir, 'env'), `HOLDFAST_API_KEYS_FILE=${join(dir, 'keys')}\nHOLDFAST_UPSTREAM_KEY="sk-1"\n`);
    const print = keptOutput();
    environment({});
    expect(await configPrint({ changed: true, envFile: join(dir, 'env') }, print)).toBe(0);
    expect(print.text).toMatch(/HOLDFAST_API_KEYS +me:\*\*\*,you:\*\*\* +file .*keys\n/);
    expect(print.text).toMatch(/HOLDFAST_UPSTREAM_KEY +\*\*\* +file .*env\n/);
    const both = keptOutput();
    environment({ HOLDFAST_API_KEYS: 'me:x' });
    expect(await configCheck({ envFile: join(dir, 'env') }, both)).toBe(1);
    expect(both.text).toContain('HOLDFAST_API_KEYS and HOLDFAST_API_KEYS_FILE are both set: keep one of them\n');
    await rm(dir, { recursive: true });
  });
});
