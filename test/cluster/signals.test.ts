import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, expect, it, vi } from 'vitest';
import { type Simulator, startSimulator } from '../../src/testing/index.ts';
import { openLive } from '../support/live-client.ts';
import { isRunning, type Program, startProgram } from '../support/program.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

const ROOT = join(import.meta.dirname, '..', '..');
const CLI = join(ROOT, 'src', 'cli.ts');
const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

interface Served {
  program: Program;
  url: string;
  /** Process id of the database server. */
  database(): Promise<number>;
  /** Begins a turn that ends when it is released. */
  turn(): Promise<{ release(): void; terminal(): Promise<string> }>;
}

/** Serves with an embedded database of its own and resolves when it is ready. */
async function serve(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<Served> {
  const dataDir = await mkdtemp(join(tmpdir(), 'hf-signals-'));
  const simulator: Simulator = await startSimulator();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const program = startProgram(command, args, {
    ...options,
    env: {
      PORT: String(port),
      HOLDFAST_DATA_DIR: dataDir,
      HOLDFAST_UPSTREAM_URL: simulator.url,
      HOLDFAST_LAME_DUCK_MS: '0',
      HOLDFAST_DRAIN_MS: '120000',
      ...options.env,
    },
  });
  const database = async () => Number((await readFile(join(dataDir, 'pg', 'postmaster.pid'), 'utf8')).split('\n')[0]);
  ends.push(async () => {
    const pid = await database().catch(() => null);
    program.signalGroup('SIGKILL');
    await program.gone;
    if (pid !== null && isRunning(pid)) process.kill(pid, 'SIGQUIT');
    await until(() => pid === null || !isRunning(pid), 60_000);
    await simulator.close();
    await rm(dataDir, { recursive: true, force: true });
  });
  await program.says('Operators:');
  return {
    program,
    url,
    database,
    async turn() {
      const held = simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
      const client = await openLive(url, {
        model: 'm',
        store: false,
        input: [{ type: 'message', role: 'user', content: 'one' }],
      });
      await client.until('response.output_item.added');
      return {
        release: () => held.release(),
        async terminal() {
          const { events, cut } = await client.rest();
          return cut ? 'cut' : (events.at(-1)?.type ?? 'nothing');
        },
      };
    },
  };
}

/** Everything that was served from here has ended, the database too. */
async function ended({ program }: Served, database: number): Promise<number | null> {
  const { code } = await program.gone;
  await until(() => !isRunning(database), 60_000);
  return code;
}

it('a signal to the whole group of several workers is one request: the running turn ends as it should, then everything does', async () => {
  const served = await serve(process.execPath, [CLI, 'serve', '--workers', '2']);
  const database = await served.database();
  const turn = await served.turn();
  served.program.signalGroup('SIGINT');
  // The supervisor and the worker of the turn at least: one that does not serve yet ends at once.
  await served.program.says('"msg":"draining"', 2);
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  expect(await ended(served, database)).toBe(0);
  expect(served.program.text()).not.toContain('stopping now');
});

it('workers whose supervisor was killed end their turns, and then themselves', async () => {
  const served = await serve(process.execPath, [CLI, 'serve', '--workers', '2']);
  const turn = await served.turn();
  served.program.signal('SIGKILL');
  // The worker of the turn at least: one that does not serve yet ends without a word.
  await served.program.says('"asker":"the end of the supervisor"');
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  await until(
    async () =>
      !(await fetch(`${served.url}/health`).then(
        () => true,
        () => false,
      )),
    60_000,
  );
});

it.each([
  ['one process', []],
  ['several workers', ['--workers', '2']],
])('a second request of a user ends %s now, and the database with it', async (_, args) => {
  const served = await serve(process.execPath, [CLI, 'serve', ...args]);
  const database = await served.database();
  const turn = await served.turn();
  let over = false;
  void served.program.gone.then(() => (over = true));
  // As an impatient user presses it: those within one request count for nothing.
  await until(() => {
    if (!over) served.program.signalGroup('SIGINT');
    return over;
  }, 60_000);
  expect(await ended(served, database)).toBe(1);
  expect(await turn.terminal()).not.toBe('response.completed');
  expect(served.program.text()).toContain('stopping now');
});

it('a signal that comes twice, from the terminal and from what started it, is one request', async () => {
  const served = await serve(process.execPath, [CLI, 'serve']);
  const database = await served.database();
  const turn = await served.turn();
  served.program.signal('SIGINT');
  await served.program.says('"msg":"draining"');
  served.program.signal('SIGINT');
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  expect(await ended(served, database)).toBe(0);
});

it('before it serves, a signal ends it and whatever it has started', async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'hf-signals-'));
  const program = startProgram(process.execPath, [CLI, 'serve'], {
    env: { PORT: String(await freePort()), HOLDFAST_DATA_DIR: dataDir },
  });
  const file = join(dataDir, 'pg', 'postmaster.pid');
  let database = 0;
  await until(
    async () => (database = Number((await readFile(file, 'utf8').catch(() => '')).split('\n')[0])) > 0,
    60_000,
  );
  ends.push(() => isRunning(database) && process.kill(database, 'SIGQUIT'));
  program.signal('SIGTERM');
  await program.gone;
  await until(() => !isRunning(database), 60_000);
  await rm(dataDir, { recursive: true, force: true });
});

/** Scripts as a user of the package has them: npm runs them in a shell, which is the parent of the server. */
async function userOf(script: string): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'hf-user-'));
  ends.push(() => rm(home, { recursive: true, force: true }));
  await writeFile(join(home, 'package.json'), JSON.stringify({ name: 'user', scripts: { start: script } }));
  return home;
}

it.each([
  ['this project’s own start', async () => ROOT],
  ['a script of a user’s own', () => userOf(`${process.execPath} ${join(ROOT, 'bin', 'holdfast.js')} serve`)],
])('SIGTERM to npm alone ends %s in order, and the database with it', async (_, home) => {
  const served = await serve('npm', ['start'], { cwd: await home() });
  const database = await served.database();
  const turn = await served.turn();
  served.program.signal('SIGTERM');
  await served.program.says('"msg":"draining"');
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  await until(() => !isRunning(database), 60_000);
  await served.program.gone;
  // npm may be gone before the server that it started.
  const answers = () =>
    fetch(`${served.url}/health`).then(
      () => true,
      () => false,
    );
  await until(async () => !(await answers()), 60_000);
});

it('Ctrl-C in the terminal of `npm start`, which npm passes on once more, is one request', async () => {
  const served = await serve('npm', ['start'], { cwd: ROOT });
  const database = await served.database();
  const turn = await served.turn();
  served.program.signalGroup('SIGINT');
  await served.program.says('"msg":"draining"');
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  await until(() => !isRunning(database), 60_000);
  expect(served.program.text()).not.toContain('stopping now');
});
