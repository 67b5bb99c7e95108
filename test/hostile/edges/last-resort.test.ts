import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { testBridge } from '../../../src/testing/index.ts';
import { freshDatabase } from '../../support/database.ts';
import { freePort } from '../../support/worker-process.ts';

const CLI = join(import.meta.dirname, '..', '..', '..', 'src', 'cli.ts');
/** Throws outside every guard when it is triggered. */
const planted = (what: string) =>
  `data:text/javascript,${encodeURIComponent(`process.on('SIGUSR2', () => { ${what} })`)}`;

vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0)) await end();
});

async function serve(what: string, env: Record<string, string> = {}) {
  const database = await freshDatabase();
  const child = spawn(process.execPath, ['--import', planted(what), CLI, 'serve'], {
    env: {
      ...process.env,
      DATABASE_URL: database.url,
      HOLDFAST_SECRETS: `k:${'s'.repeat(32)}`,
      HOLDFAST_LAME_DUCK_MS: '0',
      HOLDFAST_DRAIN_MS: '1000',
      PORT: String(await freePort()),
      ...env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  const gone = new Promise<number | null>((resolve) => child.once('close', resolve));
  const ready = new Promise<void>((resolve) => {
    const read = (chunk: Buffer) => {
      output += chunk;
      if (output.includes('Operators:')) resolve();
    };
    child.stdout.on('data', read);
    child.stderr.on('data', read);
  });
  ends.push(async () => {
    child.kill('SIGKILL');
    await gone;
    await database.drop();
  });
  await Promise.race([ready, gone]);
  return { child, gone, text: () => output };
}

it.each([
  ['an exception', `setImmediate(() => { throw new Error('planted'); })`],
  ['a rejection', `Promise.reject(new Error('planted'))`],
])(
  'After %s that escapes every guard the worker drains, exits with 1 and logs one line with advice',
  async (_, what) => {
    const { child, gone, text } = await serve(what);
    child.kill('SIGUSR2');
    expect(await gone).toBe(1);
    const lines = text()
      .split('\n')
      .filter((line) => line.startsWith('{'))
      .map((line) => JSON.parse(line) as { level: number; msg: string; err?: { message: string } });
    const fatal = lines.filter(({ level }) => level === 60);
    expect(fatal).toHaveLength(1);
    expect(fatal[0]).toMatchObject({ err: { message: 'planted' }, msg: expect.stringContaining('report it') });
    // It shut down in order: its departure is stored.
    expect(lines.at(-1)!.msg).toBe('stopped');
  },
);

it('The generated admin token is printed in the banner, once, and never logged', async () => {
  const { child, gone, text } = await serve('', { HOLDFAST_UPSTREAM_KEY: 'sk-operators' });
  const token = /^Admin token \(.*\): (\S+)$/m.exec(text())![1]!;
  const { url } = /ready at (?<url>\S+)/.exec(text())!.groups as { url: string };
  expect((await fetch(`${url}/admin/workers`)).status).toBe(401);
  expect((await fetch(`${url}/admin/workers`, { headers: { authorization: `Bearer ${token}` } })).status).toBe(200);
  child.kill('SIGTERM');
  await gone;
  expect(text().split(token)).toHaveLength(2);
  expect(text()).not.toContain('sk-operators');
});

it('The bridge as a library installs no listeners on the process', async () => {
  const events = ['uncaughtException', 'unhandledRejection', 'SIGTERM', 'SIGINT'];
  const before = events.map((event) => process.listenerCount(event));
  await using at = await testBridge();
  expect(at.url).toMatch(/^http/);
  expect(events.map((event) => process.listenerCount(event))).toEqual(before);
});
