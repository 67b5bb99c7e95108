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
import { type Overview, overviewText, sparkline } from '../../src/commands/overview.ts';
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
    expect(overview).toMatchObject({ window: '15m', total: { turns: 4, outcomes: { created: 4 } }, sessions: 4 });
    const day = keptOutput();
    await top({ url: at.url, json: true, window: '24h' }, day);
    expect(JSON.parse(day.text)).toMatchObject({ window: '24h', step: 900_000, total: { turns: 4 } });
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
    const { url, faults, findings } = JSON.parse(output.text);
    expect([url, faults]).toEqual([`${at.url}/inspect?session=s1`, 1]);
    expect(shape(findings[0])).toMatchSnapshot();
    expect(findings.map(({ check, level }: { check: string; level: string }) => `${check} ${level}`)).toEqual([
      ...['worker ok', 'token ok', 'viewer ok', 'feed ok', 'session fault', 'stately note'],
    ]);
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
    expect(once.text).toMatch(/WORKER +STATE +LEASE +SESSIONS +BUSY +TURNS/);
    expect(once.text).toMatch(/turns .*a minute.*created 4/);
    expect(once.text).toMatch(/failures .*upstream_500 1/);
    expect(once.text).not.toContain('\u001b');
    const live = keptOutput(true);
    const keys = new PassThrough();
    const over = top({ url: at.url, interval: 3_600 }, live, keys);
    const shows = async (text: string) => {
      while (!live.text.includes(text)) await new Promise(setImmediate);
    };
    await shows('[1 15m]  2 1h  3 24h  [overview]  workers  running  failures  q quit');
    keys.write('2');
    await shows('last hour to');
    keys.write('f');
    await shows('1 15m  [2 1h]  3 24h  overview  workers  running  [failures]  q quit');
    keys.write('q');
    await over;
    expect(live.text.startsWith('\u001b[?1049h')).toBe(true);
    expect(live.text.endsWith('\u001b[?1049l')).toBe(true);
  });

  it('The overview is the same text for the same figures, and fits a narrow terminal', () => {
    const steps = (...values: (number | null)[]) => values;
    const timed = { p50: steps(300, null, 480), p99: steps(900, null, 2_400) };
    const of = { p50: 420, p99: 2_400 };
    const worker: Overview['workers'][number] = {
      ...{
        id: '0d9f3a51-1f0c',
        state: 'serving',
        leaseLeftMs: 9_000,
        version: '0.1.0',
        here: true,
        sessions: 4,
        busy: 1,
      },
      load: { sockets: 3, queued: 0, inFlight: 1, connections: 2, processor: 0.42, loop: 0.31, memoryBytes: 180e6 },
      ...{ turns: 12, failures: 1, firstEvent: of, own: { p50: 2.1, p99: 6.4 }, database: { p50: 0.8, p99: 3.1 } },
      slow: null,
    };
    const dead = {
      ...worker,
      id: 'f00',
      state: 'dead' as const,
      leaseLeftMs: -5e6,
      here: false,
      load: null,
      turns: null,
    };
    const overview: Overview = {
      ...{
        window: '15m' as const,
        step: 15_000,
        now: Date.UTC(2026, 0, 2, 3, 4, 5),
        since: Date.UTC(2026, 0, 2, 2, 49),
      },
      t: [0, 1, 2].map((at) => Date.UTC(2026, 0, 2, 3, 3, 15 + at * 15)),
      series: {
        outcomes: { live_reuse: [1, 4, 3], created: [2, 1, 1] },
        ends: { completed: [3, 5, 3], failed: [0, 0, 1] },
        failures: { bridge_upstream_lost: [0, 0, 1] },
        ...{ firstEvent: timed, own: timed, database: timed },
        ...{ deltaShare: steps(0.2, null, 0.8), savedBytes: [100, 0, 90_000] },
        ...{ inputTokens: [10, 20, 30], cachedTokens: [0, 15, 25], saved: [0, 0.1, 0.2] },
        ...{ sockets: steps(1, 2, 3), queued: steps(0, 0, 0), inFlight: steps(0, 1, 1) },
      },
      total: {
        outcomes: { live_reuse: 8, created: 4 },
        ends: { completed: 11, failed: 1 },
        failures: { bridge_upstream_lost: 1 },
        ...{ sent: 12, deltas: 8, clientBytes: 120_000, sentBytes: 29_900 },
        ...{ inputTokens: 60, cachedTokens: 40, outputTokens: 9, saved: 0.3, turns: 12 },
        ...{ firstEvent: of, own: { p50: 2.1, p99: 6.4 }, database: { p50: 0.8, p99: 3.1 } },
      },
      load: { sockets: 3, queued: 0, inFlight: 1, connections: 2 },
      priced: true,
      rows: { of: 1, from: 0, readable: true },
      workers: [worker, { ...dead, failures: null, firstEvent: null, own: null, database: null }],
      ...{ sessions: 4, running: [], failures: [] },
    };
    for (const width of [0, 100, 60, 34]) {
      const text = overviewText(overview, 'http://127.0.0.1:8787', width);
      expect(text).toMatchSnapshot(`${width} columns`);
      if (width > 0) expect(Math.max(...text.split('\n').map(({ length }) => length))).toBeLessThanOrEqual(width);
    }
    expect(sparkline([0, 1, 2, 4, null, 4, 4, 4], 4)).toBe('▂▇██');
    expect(sparkline([], 4)).toBe('');
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

  it('The inspector is checked: a server that is not there, a wrong token, and an id of no session are named', async () => {
    const checked = async (options: object, sessions: string[] = []) => {
      const output = keptOutput();
      return { code: await inspect(sessions, options, output), text: output.text };
    };
    const nowhere = `http://127.0.0.1:${await freePort()}`;
    expect(await checked({ url: nowhere })).toMatchObject({
      code: 3,
      text: expect.stringMatching(
        /^FAULT +worker +No Holdfast answers at .*ECONNREFUSED.*\n +To mend it: check --url\./,
      ),
    });
    const guarded = await startTestBridge({ beside: at, env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
    environment({ HOLDFAST_ADMIN_TOKEN: 'wrong' });
    expect(await checked({ url: guarded.url })).toMatchObject({
      code: 1,
      text: expect.stringMatching(/^FAULT +token/),
    });
    environment({ HOLDFAST_ADMIN_TOKEN: 'operator' });
    const allowed = await checked({ url: guarded.url });
    expect(allowed.code).toBe(0);
    expect(allowed.text).toMatch(/ok +token +the worker accepts that of HOLDFAST_ADMIN_TOKEN\./);
    expect(allowed.text).toMatch(/ok +feed +this command was accepted as a viewer\./);
    expect(allowed.text).toMatch(/stately +https:\/\/stately\.ai /);
    expect(allowed.text).toContain(`\n${guarded.url}/inspect\n`);
    expect((await checked({ url: guarded.url }, ['s1'])).code).toBe(1);
    await guarded.close();
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
