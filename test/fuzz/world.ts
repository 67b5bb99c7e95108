import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import pg from 'pg';
import { Agent } from 'undici';
import { freshDatabase } from '../support/database.ts';
import { freePort, PROBE } from '../support/worker-process.ts';
import { startUpstream, type Upstream } from './upstream.ts';

/** Configurations of the worker: whose credential is used upstream, and over which transport. */
export const modes = ['shared-websocket', 'own-http', 'own-websocket', 'shared-http'] as const;
export type Mode = (typeof modes)[number];

export const SECRETS = 'fuzz:Zq7fuzz-token-secret-0123456789abcdef';
export const UPSTREAM_KEY = 'sk-upstream-Zq7fuzz0123456789';
export const ADMIN_TOKEN = 'admin-Zq7fuzz0123456789';
export const API_KEYS = ['key-one-Zq7fuzz0123456789', 'key-two-Zq7fuzz0123456789'] as const;
/** Marker for content of users. It may be returned to them, and must never be logged. */
export const CONTENT = 'Zq7content';

/**
 * Reasons of the fence for refusing a commit that inputs can cause: the upstream gave two responses the same id, so that the second
 * turn is settled without content; or a forwarded request, rightly signed, has the turn id of another case.
 */
const refusals = /"turn_response_id_unique"|^turn .* exists in another session$/s;

/** Returns true for errors that are meant for the operator. */
const isAnnounced = ({ msg, reason }: Record<string, unknown>): boolean =>
  msg === 'the upstream refused the shared credential (HOLDFAST_UPSTREAM_KEY)' ||
  (msg === 'the store rejected a commit' && refusals.test(String(reason)));

/** Maximum time for any answer of the worker, in milliseconds: its hold, a turn, and slack. */
export const LONGEST_MS = 20_000;

/** Time for a worker to start on a busy machine, in milliseconds. */
const READY_MS = 240_000;

/** Short deadlines and small limits, so that reaching them is cheap. */
const settings = {
  HOLDFAST_CONNECT_MS: '2000',
  HOLDFAST_UPGRADE_MS: '1000',
  HOLDFAST_FIRST_EVENT_MS: '1500',
  HOLDFAST_STREAM_SILENCE_MS: '1500',
  HOLDFAST_TURN_BUDGET_MS: '5000',
  HOLDFAST_KEEPALIVE_MS: '1000',
  HOLDFAST_DISCONNECT_GRACE_MS: '300',
  HOLDFAST_STATUS_HOLD_MS: '300',
  HOLDFAST_SLOW_CLIENT_MS: '3000',
  HOLDFAST_REQUEST_HOLD_MS: '5000',
  HOLDFAST_START_WAIT_MS: '3000',
  HOLDFAST_OWNER_WAIT_MS: '1000',
  HOLDFAST_OWNER_POLL_MS: '200',
  HOLDFAST_STORE_STATEMENT_MS: '4000',
  HOLDFAST_DRAIN_MS: '1000',
  HOLDFAST_LAME_DUCK_MS: '100',
  HOLDFAST_IDLE_SOCKET_MS: '3000',
  HOLDFAST_LANE_IDLE_MS: '2000',
  HOLDFAST_SOFT_IDLE_MS: '1000',
  // Otherwise a socket that is the only holder of its conversation would outlive every check for open descriptors.
  HOLDFAST_ONLY_HOLDER_AGE_MS: '5000',
  HOLDFAST_MAX_FRAME_BYTES: '1048576',
  HOLDFAST_MAX_BODY_BYTES: '4194304',
  HOLDFAST_TURN_BUFFER_BYTES: '262144',
  HOLDFAST_MAX_TRANSCRIPT_BYTES: '2097152',
  HOLDFAST_LOG_LEVEL: 'info',
};

/** A line of the worker's log, or of its stderr. */
export interface LogLine {
  level: number;
  msg: string;
  fields: Record<string, unknown>;
  text: string;
}

export interface Memory {
  rss: number;
  heapUsed: number;
  external: number;
  descriptors: number;
  /** CPU time since its start, in milliseconds. */
  cpuMs: number;
}

/** A worker process with its own database and upstream. */
export interface World {
  readonly mode: Mode;
  readonly url: string;
  readonly port: number;
  readonly internalUrl: string;
  readonly upstream: Upstream;
  readonly agent: Agent;
  readonly database: pg.Pool;
  /** Texts that must not appear in any answer or log. */
  readonly secrets: readonly string[];
  /** Warnings, errors, and lines with forbidden text, in order. */
  readonly log: LogLine[];
  /** Number of log lines by level and text, without numbers and ids. */
  readonly counts: Map<string, number>;
  /** Cause of an unexpected exit of the process; otherwise null. */
  readonly crash: string | null;
  /** Resolves when the process has exited. */
  readonly gone: Promise<void>;
  /** Authorization header of the first tenant, or of a client's own credential. */
  readonly authorization: string;
  memory(): Promise<Memory>;
  /** Starts another process after a crash, with a new database. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

const ROOT = join(import.meta.dirname, '..', '..');

const isShared = (mode: Mode) => mode.startsWith('shared');

/** Starts a worker process; resolves when it is ready. */
export async function openWorld(mode: Mode): Promise<World> {
  const upstream = await startUpstream();
  const shared = isShared(mode);
  const log: LogLine[] = [];
  const counts = new Map<string, number>();
  let now!: Awaited<ReturnType<typeof start>>;
  now = await start();

  async function start() {
    const fresh = await freshDatabase();
    const [port, internalPort] = [await freePort(), await freePort()];
    const env: Record<string, string> = {
      ...settings,
      HOST: '127.0.0.1',
      PORT: String(port),
      HOLDFAST_INTERNAL_PORT: String(internalPort),
      DATABASE_URL: fresh.url,
      HOLDFAST_SECRETS: SECRETS,
      HOLDFAST_ADMIN_TOKEN: ADMIN_TOKEN,
      HOLDFAST_UPSTREAM_URL: upstream.url,
      HOLDFAST_UPSTREAM_TRANSPORT: mode.endsWith('http') ? 'http' : 'websocket',
      ...(shared
        ? {
            HOLDFAST_UPSTREAM_KEY: UPSTREAM_KEY,
            HOLDFAST_API_KEYS: API_KEYS.map((key, n) => `tenant${n}:${key}`).join(','),
          }
        : {}),
    };
    const child = spawn(process.execPath, ['--expose-gc', '--import', PROBE, join(ROOT, 'src', 'cli.ts'), 'serve'], {
      env: { PATH: process.env.PATH, HOME: process.env.HOME, TZ: 'UTC', ...env },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    });
    const database = new pg.Pool({ connectionString: fresh.url, max: 8 });
    database.on('error', () => {});
    const state = { crash: null as string | null, stopping: false, uncaught: '', output: '' };
    lines(child.stdout!, (line) => note(line));
    lines(child.stderr!, (line) => {
      if (line.startsWith('{"uncaught"')) state.uncaught = String(JSON.parse(line).stack);
      else state.output = `${state.output}${line}\n`.slice(-4_000);
    });
    const gone = new Promise<void>((resolve) => {
      child.once('exit', (code, signal) => {
        if (!state.stopping) state.crash = state.uncaught || `exit ${code ?? signal}\n${state.output}`;
        resolve();
      });
    });
    const url = `http://127.0.0.1:${port}`;
    const ready = async () => {
      for (const end = performance.now() + READY_MS; ; ) {
        const answer = await fetch(`${url}/ready`).catch(() => null);
        if (answer?.ok) return;
        if (state.crash !== null) throw new Error(`the worker did not start:\n${state.crash}`);
        if (performance.now() > end) throw new Error(`the worker is not ready in time:\n${state.output}`);
        await new Promise((look) => setTimeout(look, 50));
      }
    };
    try {
      await ready();
    } catch (error) {
      state.stopping = true;
      child.kill('SIGKILL');
      throw error;
    }
    const pepper = await database.query(`select value from holdfast_meta where name = 'pepper'`).catch(() => null);
    const secrets = [UPSTREAM_KEY, ADMIN_TOKEN, SECRETS.slice(SECRETS.indexOf(':') + 1)];
    if (shared) secrets.push(...API_KEYS);
    if (pepper?.rows[0]) secrets.push(String(pepper.rows[0].value));
    const agent = new Agent({ connections: 128, pipelining: 1, keepAliveTimeout: 2_000, keepAliveMaxTimeout: 2_000 });
    return { url, port, internalPort, child, database, fresh, state, gone, secrets, agent };
  }

  function note(text: string): void {
    let fields: Record<string, unknown>;
    try {
      fields = JSON.parse(text) as Record<string, unknown>;
    } catch {
      // The banner.
      return;
    }
    // A request may name any model, the marker included, and its log line names the model.
    const unwanted =
      (now?.secrets ?? []).some((secret) => text.includes(secret)) ||
      (text.includes(CONTENT) && JSON.stringify({ ...fields, model: null }).includes(CONTENT));
    const level = Number(fields.level);
    const msg = String(fields.msg);
    const kind = `${level} ${msg}`;
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
    if (((level >= 50 && !isAnnounced(fields)) || unwanted || /\\n {4}at /.test(text)) && log.length < 100_000)
      log.push({ level, msg, fields, text });
  }

  async function stop(): Promise<void> {
    now.state.stopping = true;
    if (now.child.exitCode === null && now.child.signalCode === null) now.child.kill('SIGKILL');
    await now.gone;
    await now.agent.destroy();
    await now.database.end();
    await now.fresh.drop();
  }

  return {
    mode,
    upstream,
    log,
    counts,
    get url() {
      return now.url;
    },
    get port() {
      return now.port;
    },
    get internalUrl() {
      return `http://127.0.0.1:${now.internalPort}`;
    },
    get agent() {
      return now.agent;
    },
    get database() {
      return now.database;
    },
    get secrets() {
      return now.secrets;
    },
    get crash() {
      return now.state.crash;
    },
    get gone() {
      return now.gone;
    },
    authorization: `Bearer ${shared ? API_KEYS[0] : 'sk-own-client-credential'}`,
    memory: () => ask(now.child),
    async restart() {
      await stop();
      now = await start();
    },
    async close() {
      await stop();
      await upstream.close();
    },
  };
}

function ask(child: ChildProcess): Promise<Memory> {
  return new Promise((resolve, reject) => {
    const over = setTimeout(() => reject(new Error('the worker does not tell what it holds')), 30_000);
    const take = (message: unknown) => {
      if (typeof message !== 'object' || message === null || !('rss' in message)) return;
      clearTimeout(over);
      child.off('message', take);
      resolve(message as Memory);
    };
    child.on('message', take);
    child.send('memory');
  });
}

function lines(stream: NodeJS.ReadableStream, take: (line: string) => void): void {
  let rest = '';
  stream.setEncoding('utf8');
  stream.on('data', (chunk: string) => {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop()!;
    for (const part of parts) take(part);
  });
}
