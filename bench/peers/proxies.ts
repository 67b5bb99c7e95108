import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, globSync } from 'node:fs';
import { mkdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { freePort } from '../../test/support/worker-process.ts';
import { packagedProgram } from '../package.ts';
import { prefixFor } from './system.ts';

const run = promisify(execFile);
const ROOT = join(import.meta.dirname, '..', '..');
/** Installed peers, kept between runs: about 1 GB. */
const CACHE =
  process.env.BENCH_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'holdfast-bench');

const VERSIONS = { portkey: '1.15.2', litellm: '1.108.0', 'codex-lb': '1.24.0' };

/** A way from the client to the upstream. */
export interface Peer {
  name: string;
  /** Base URL, to which `/responses` is added. */
  url: string;
  headers: Record<string, string>;
  /** Root of its processes; null: it has none. */
  pid: number | null;
  /** It writes to PostgreSQL, whose processor time is reported beside its own. */
  usesPostgres: boolean;
  stop(): Promise<void>;
}

/** How to get a peer. `start` rejects with the reason where it cannot be had on this machine. */
export interface Offer {
  name: string;
  start(): Promise<Peer>;
}

export interface Around {
  /** Port of the scripted upstream. */
  upstream: number;
  /** URL of a PostgreSQL server on which databases may be created. */
  postgres: string;
  /** Folder for the files of this run. */
  home: string;
}

/** Longest time for a program to be ready, in milliseconds. */
const READY_LIMIT = 600_000;

interface Started {
  child: ChildProcess;
  output(): string;
  gone: Promise<void>;
}

/** Starts a proxy on the processor that proxies have. */
function launch(command: string, args: readonly string[], env: Record<string, string>, cwd?: string): Started {
  const [program, ...rest] = [...prefixFor('proxy'), command, ...args];
  const child = spawn(program!, rest, {
    cwd,
    env: { ...process.env, ...env },
    // The end of its input ends the relay when this process is killed.
    stdio: ['pipe', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout!, child.stderr!]) {
    // Logs are read and thrown away, as a collector of logs would do at the least.
    stream.setEncoding('utf8').on('data', (part: string) => {
      if (output.length < 20_000) output += part;
    });
  }
  const gone = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      output += String(error);
      resolve();
    });
    child.once('exit', () => resolve());
  });
  return { child, output: () => output, gone };
}

async function ready(started: Started, check: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_LIMIT;
  let over = false;
  void started.gone.then(() => (over = true));
  while (!(await check().catch(() => false))) {
    if (over) throw new Error(`it ended before it was ready: ${started.output().slice(-300)}`);
    if (performance.now() > deadline) {
      started.child.kill('SIGKILL');
      throw new Error(`it was not ready after ${READY_LIMIT / 1_000} s: ${started.output().slice(-300)}`);
    }
    await new Promise((again) => setTimeout(again, 200));
  }
}

const stopper =
  ({ child, gone }: Started) =>
  async () => {
    child.kill('SIGTERM');
    const hard = setTimeout(() => child.kill('SIGKILL'), 15_000);
    await gone;
    clearTimeout(hard);
  };

const answers = (url: string) => async () => (await fetch(url)).ok;

function peer(name: string, started: Started, url: string, rest: Partial<Peer> = {}): Peer {
  return { name, url, headers: {}, pid: started.child.pid!, usesPostgres: false, stop: stopper(started), ...rest };
}

export const direct = ({ upstream }: Around): Offer => ({
  name: 'direct',
  start: async () => ({
    name: 'direct',
    url: `http://127.0.0.1:${upstream}/v1`,
    headers: {},
    pid: null,
    usesPostgres: false,
    stop: async () => {},
  }),
});

/** Returns the first line that a program writes. */
async function firstLine(started: Started): Promise<string> {
  await ready(started, async () => started.output().includes('\n'));
  return started.output().split('\n')[0]!;
}

/** Starts the scripted upstream on the processor of the client. */
export async function startUpstream(): Promise<{ port: number; pid: number; stop(): Promise<void> }> {
  const [program, ...args] = [...prefixFor('client'), process.execPath, join(import.meta.dirname, 'upstream.ts')];
  const child = spawn(program!, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  const port = await new Promise<number>((resolve, reject) => {
    child.stdout.setEncoding('utf8').once('data', (text: string) => resolve(Number(text)));
    child.once('exit', () => reject(new Error('the upstream ended')));
  });
  return {
    port,
    pid: child.pid!,
    async stop() {
      child.stdin.end();
      await gone;
    },
  };
}

export const relay = ({ upstream }: Around): Offer => ({
  name: 'relay',
  async start() {
    const started = launch(
      process.execPath,
      [join(import.meta.dirname, 'relay.ts'), `http://127.0.0.1:${upstream}/v1`],
      {},
    );
    return peer('relay', started, `http://127.0.0.1:${await firstLine(started)}/v1`);
  },
});

/**
 * Holdfast as it is published.
 *
 * @param options.tree folder with the sources of Holdfast; default: this one
 * @param options.flags flags of Node itself; with any, the sources are run, whose functions have the names and places that
 *   a profile shows
 */
export const holdfast = (
  around: Around,
  name: string,
  workers: number,
  { tree = ROOT, flags }: { tree?: string; flags?: readonly string[] } = {},
): Offer => ({
  name,
  async start() {
    const database = `bench_${name.toLowerCase().replace(/\W+/g, '_')}`;
    const client = new pg.Client({ connectionString: around.postgres });
    await client.connect();
    await client.query(`create database ${database}`);
    await client.end();
    const url = new URL(around.postgres);
    url.pathname = `/${database}`;
    const port = await freePort();
    const started = launch(
      process.execPath,
      [...(flags ? [...flags, join(tree, 'src', 'cli.ts')] : [await packagedProgram(tree)]), 'serve'],
      {
        PORT: String(port),
        DATABASE_URL: url.href,
        HOLDFAST_SECRETS: `bench:${'0'.repeat(32)}`,
        HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${around.upstream}/v1`,
        HOLDFAST_WORKERS: String(workers),
        HOLDFAST_LAME_DUCK_MS: '0',
        HOLDFAST_IDLE_SOCKET_MS: '20000',
      },
      tree,
    );
    await ready(started, answers(`http://127.0.0.1:${port}/ready`));
    return peer(name, started, `http://127.0.0.1:${port}/v1`, { usesPostgres: true });
  },
});

/** Installs into a folder of the cache, which exists only when that has succeeded. */
async function installed(name: string, install: (folder: string) => Promise<unknown>): Promise<string> {
  const folder = join(CACHE, name);
  const done = join(folder, '.installed');
  if (existsSync(done)) return folder;
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  console.log(`installing ${name} into ${CACHE}`);
  await install(folder);
  await writeFile(done, '');
  return folder;
}

/**
 * Portkey's gateway, as it is or without its sleep of 25 ms before the first chunk of a stream. Both listen on loopback
 * only, which it has no option for.
 */
export const portkey = ({ upstream }: Around, sleeps: boolean): Offer => {
  const name = sleeps ? `Portkey ${VERSIONS.portkey}` : `Portkey ${VERSIONS.portkey} without its sleep`;
  return {
    name,
    async start() {
      const folder = await installed(`portkey-${VERSIONS.portkey}`, async (home) => {
        // With newer versions of its server library it fails to set headers on every streamed response.
        const overrides = { '@hono/node-server': '1.13.8' };
        await writeFile(join(home, 'package.json'), JSON.stringify({ private: true, overrides }));
        const wanted = `@portkey-ai/gateway@${VERSIONS.portkey}`;
        await run('npm', ['install', '--no-audit', '--no-fund', '--ignore-scripts', wanted], { cwd: home });
      });
      const build = join(folder, 'node_modules', '@portkey-ai', 'gateway', 'build');
      const program = join(build, sleeps ? 'bench.js' : 'bench-without-sleep.js');
      let text = await readFile(join(build, 'start-server.js'), 'utf8');
      const replace = (from: RegExp, to: string) => {
        if ([...text.matchAll(new RegExp(from, 'g'))].length !== 1) throw new Error(`no single ${from} in its program`);
        text = text.replace(from, to);
      };
      replace(/(fetch:\w+\.fetch,port:\w+)\}/, '$1,hostname:"127.0.0.1"}');
      if (!sleeps) replace(/await new Promise\(\((\w)=>setTimeout\(\1,25\)\)\)/, '0');
      await writeFile(program, text);
      const port = await freePort();
      const started = launch(process.execPath, [program, '--headless', `--port=${port}`], { NODE_ENV: 'production' });
      await ready(started, answers(`http://127.0.0.1:${port}/`));
      return peer(name, started, `http://127.0.0.1:${port}/v1`, {
        headers: { 'x-portkey-provider': 'openai', 'x-portkey-custom-host': `http://127.0.0.1:${upstream}/v1` },
      });
    },
  };
};

/** Returns the newest Python on this machine of at least 3.`minor`. */
async function python(minor: number): Promise<string> {
  const candidates = [
    ...(process.env.BENCH_PYTHON ? [process.env.BENCH_PYTHON] : []),
    ...[15, 14, 13, 12, 11, 10].filter((each) => each >= minor).map((each) => `python3.${each}`),
    'python3',
    ...globSync(join(homedir(), '.pyenv', 'versions', '3.*', 'bin', 'python3'))
      .sort()
      .reverse(),
  ];
  for (const candidate of candidates) {
    const asked = await run(candidate, ['-c', 'import sys, venv; print(sys.version_info[1])']).catch(() => null);
    if (asked && Number(asked.stdout) >= minor) return candidate;
  }
  throw new Error(`there is no Python of 3.${minor} or newer (BENCH_PYTHON names one)`);
}

async function virtualEnvironment(name: string, wanted: string, minor: number): Promise<string> {
  return installed(name, async (folder) => {
    await run(await python(minor), ['-m', 'venv', folder]);
    const options = ['install', '--quiet', '--disable-pip-version-check', '--prefer-binary', wanted];
    await run(join(folder, 'bin', 'pip'), options, { maxBuffer: 64 * 1024 * 1024 });
  });
}

export const litellm = ({ upstream, home }: Around): Offer => {
  const name = `LiteLLM ${VERSIONS.litellm}`;
  return {
    name,
    async start() {
      const wanted = `litellm[proxy]==${VERSIONS.litellm}`;
      const folder = await virtualEnvironment(`litellm-${VERSIONS.litellm}`, wanted, 10);
      const config = join(home, 'litellm.yaml');
      // It refuses to start without a key for its own callers.
      const key = `sk-${randomBytes(24).toString('hex')}`;
      await writeFile(
        config,
        `model_list:\n  - model_name: gpt-5.5\n    litellm_params:\n      model: openai/gpt-5.5\n` +
          `      api_base: http://127.0.0.1:${upstream}/v1\n      api_key: sk-bench\nlitellm_settings:\n  telemetry: false\n`,
      );
      const port = await freePort();
      const started = launch(
        join(folder, 'bin', 'litellm'),
        [
          '--config',
          config,
          '--host',
          '127.0.0.1',
          '--port',
          String(port),
          '--num_workers',
          '1',
          '--telemetry',
          'False',
        ],
        {
          LITELLM_LOCAL_MODEL_COST_MAP: 'True',
          LITELLM_MODE: 'PRODUCTION',
          LITELLM_LOG: 'ERROR',
          LITELLM_MASTER_KEY: key,
        },
        home,
      );
      await ready(started, answers(`http://127.0.0.1:${port}/health/liveliness`));
      return peer(name, started, `http://127.0.0.1:${port}/v1`, { headers: { authorization: `Bearer ${key}` } });
    },
  };
};

const token = (claims: object) =>
  [{ alg: 'none' }, claims, 'bench'].map((part) => Buffer.from(JSON.stringify(part)).toString('base64url')).join('.');

export const codexLb = ({ upstream, home }: Around): Offer => {
  const name = `codex-lb ${VERSIONS['codex-lb']}`;
  return {
    name,
    async start() {
      const folder = await virtualEnvironment(
        `codex-lb-${VERSIONS['codex-lb']}`,
        `codex-lb==${VERSIONS['codex-lb']}`,
        13,
      );
      const data = join(home, 'codex-lb');
      await mkdir(data);
      const port = await freePort();
      const off = [
        ['AUTH_GUARDIAN', 'USAGE_REFRESH', 'RATE_LIMIT_RESET_CREDITS_REFRESH', 'MODEL_REGISTRY', 'TELEMETRY'],
        ['AUTOMATIONS_SCHEDULER', 'QUOTA_PLANNER_SCHEDULER'],
      ].flat();
      const started = launch(
        join(folder, 'bin', 'codex-lb'),
        ['--host', '127.0.0.1', '--port', String(port)],
        {
          ...Object.fromEntries(off.map((each) => [`CODEX_LB_${each}_ENABLED`, 'false'])),
          HOME: data,
          CODEX_LB_DATA_DIR: data,
          CODEX_LB_DATABASE_URL: `sqlite+aiosqlite:///${join(data, 'store.db')}`,
          CODEX_LB_ENCRYPTION_KEY_FILE: join(data, 'key'),
          CODEX_LB_UPSTREAM_BASE_URL: `http://127.0.0.1:${upstream}/backend-api`,
          CODEX_LB_DASHBOARD_AUTH_MODE: 'disabled',
          // Its limits for one account are below the number of streams here.
          CODEX_LB_PROXY_ACCOUNT_STREAM_LIMIT: '0',
          CODEX_LB_PROXY_ACCOUNT_RESPONSE_CREATE_LIMIT: '0',
          CODEX_LB_HTTP_RESPONSES_SESSION_BRIDGE_MAX_SESSIONS: '4096',
        },
        data,
      );
      const base = `http://127.0.0.1:${port}`;
      await ready(started, answers(`${base}/health`));
      await importAccount(base).catch(async (error) => {
        await stopper(started)();
        throw error;
      });
      return peer(name, started, `${base}/backend-api/codex`);
    },
  };
};

/** Gives codex-lb an account, which it needs for its upstream. */
async function importAccount(base: string): Promise<void> {
  const exp = Math.floor(Date.now() / 1_000) + 30 * 86_400;
  const auth = { chatgpt_account_id: 'acc-bench', chatgpt_user_id: 'user-bench', chatgpt_plan_type: 'pro' };
  const claims = { exp, sub: 'user-bench', email: 'bench@example.com', 'https://api.openai.com/auth': auth };
  const file = {
    tokens: {
      id_token: token(claims),
      access_token: token(claims),
      refresh_token: 'none',
      account_id: auth.chatgpt_account_id,
    },
    last_refresh: new Date().toISOString(),
  };
  const form = new FormData();
  form.set('auth_json', new Blob([JSON.stringify(file)], { type: 'application/json' }), 'auth.json');
  const answer = await fetch(`${base}/api/accounts/import`, { method: 'POST', body: form });
  if (!answer.ok) throw new Error(`it took no account: ${answer.status} ${(await answer.text()).slice(0, 300)}`);
}

/**
 * Returns a folder with the sources of another commit and their libraries: a link to those of this folder where both commits
 * want the same, else installed.
 */
export async function treeOf(revision: string): Promise<{ tree: string; commit: string }> {
  const git = async (...args: string[]) => (await run('git', args, { cwd: ROOT })).stdout.trim();
  const commit = await git('rev-parse', '--short=12', `${revision}^{commit}`);
  const tree = await installed(`holdfast-${commit}`, async (folder) => {
    const archive = `${folder}.tar`;
    await git('archive', '--output', archive, commit);
    await run('tar', ['--extract', '--file', archive, '--directory', folder]);
    await rm(archive);
  });
  const lock = (folder: string) => readFile(join(folder, 'package-lock.json'), 'utf8');
  const libraries = join(tree, 'node_modules');
  if ((await lock(tree)) === (await lock(ROOT))) {
    await rm(libraries, { recursive: true, force: true });
    await symlink(join(ROOT, 'node_modules'), libraries);
  } else if (!existsSync(libraries)) await run('npm', ['ci'], { cwd: tree, maxBuffer: 64 * 1024 * 1024 });
  return { tree, commit };
}
