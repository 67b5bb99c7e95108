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
  /** Returns the process id of the database server. */
  database(): Promise<number>;
  /** Starts a turn that ends when it is released. */
  turn(): Promise<{ release(): void; terminal(): Promise<string> }>;
}

/** Serves with its own embedded database; resolves when ready. */
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

/** Waits until every process started from here has exited, the database included. */
async function ended({ program }: Served, database: number): Promise<number | null> {
  const { code } = await program.gone;
  await until(() => !isRunning(database), 60_000);
  return code;
}

it('A signal to the process group of several workers counts once: the running turn ends properly, then all processes exit', async () => {
  const served = await serve(process.execPath, [CLI, 'serve', '--workers', '2']);
  const database = await served.database();
  const turn = await served.turn();
  served.program.signalGroup('SIGINT');
  // At least the supervisor and the worker of the turn: one that does not serve yet exits at once.
  await served.program.says('"msg":"draining"', 2);
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  expect(await ended(served, database)).toBe(0);
  expect(served.program.text()).not.toContain('stopping now');
});

it('Workers whose supervisor was killed finish their turns, then exit', async () => {
  const served = await serve(process.execPath, [CLI, 'serve', '--workers', '2']);
  const turn = await served.turn();
  served.program.signal('SIGKILL');
  // At least the worker of the turn: one that does not serve yet exits without logging.
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
])('A second request of the user to stop ends %s at once, and the database with it', async (_, args) => {
  const served = await serve(process.execPath, [CLI, 'serve', ...args]);
  const database = await served.database();
  const turn = await served.turn();
  let over = false;
  void served.program.gone.then(() => (over = true));
  // Repeated like an impatient user's keypresses: those that count as part of one request have no effect.
  await until(() => {
    if (!over) served.program.signalGroup('SIGINT');
    return over;
  }, 60_000);
  expect(await ended(served, database)).toBe(1);
  expect(await turn.terminal()).not.toBe('response.completed');
  expect(served.program.text()).toContain('stopping now');
});

it('A signal that arrives twice, from the terminal and from the parent process, counts once', async () => {
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

it('A signal before the server is ready ends it and every process it has started', async () => {
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

/**
 * Creates a project as users of the package have it. npm runs scripts in a shell, which is the parent of the server.
 */
async function userOf(script: string): Promise<string> {
  const home = await mkdtemp(join(tmpdir(), 'hf-user-'));
  ends.push(() => rm(home, { recursive: true, force: true }));
  await writeFile(join(home, 'package.json'), JSON.stringify({ name: 'user', scripts: { start: script } }));
  return home;
}

it.each([
  ['this project’s own start', async () => ROOT],
  ['a script of a user’s own', () => userOf(`${process.execPath} ${join(ROOT, 'bin', 'holdfast.js')} serve`)],
])('SIGTERM to npm alone shuts down %s in order, and the database with it', async (_, home) => {
  const served = await serve('npm', ['start'], { cwd: await home() });
  const database = await served.database();
  const turn = await served.turn();
  served.program.signal('SIGTERM');
  await served.program.says('"msg":"draining"');
  turn.release();
  expect(await turn.terminal()).toBe('response.completed');
  await until(() => !isRunning(database), 60_000);
  await served.program.gone;
  // npm may exit before the server that it started.
  const answers = () =>
    fetch(`${served.url}/health`).then(
      () => true,
      () => false,
    );
  await until(async () => !(await answers()), 60_000);
});

it('Ctrl-C in the terminal of `npm start`, which npm forwards a second time, counts once', async () => {
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
