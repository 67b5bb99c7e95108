import { chmod, mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Finding, Machine } from '../../src/commands/doctor/finding.ts';
import { diagnose } from '../../src/commands/doctor/index.ts';
import { type Simulator, startSimulator } from '../../src/testing/index.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { freePort } from '../support/worker-process.ts';

const SECRETS = 'k1:8f2d6b0c4e9a17d35b7f8e2c6a1d904f3b5e7c2a';
let simulator: Simulator;
let database: FreshDatabase;
let dataDir: string;
const ends: (() => unknown)[] = [];

beforeAll(async () => {
  [simulator, database, dataDir] = await Promise.all([
    startSimulator({ credentials: ['Bearer sk-good'] }),
    freshDatabase(),
    mkdtemp(join(tmpdir(), 'hf-doctor-')),
  ]);
});
afterAll(async () => {
  for (const end of ends.reverse()) await end();
  await simulator.close();
  await database.drop();
  await rm(dataDir, { recursive: true, force: true });
});

/** Settings without a fault. */
const healthy = async (): Promise<Record<string, string>> => ({
  PORT: String(await freePort()),
  HOLDFAST_DATA_DIR: dataDir,
  HOLDFAST_UPSTREAM_URL: simulator.url,
  HOLDFAST_UPSTREAM_KEY: 'sk-good',
});
const shared = async () => ({ ...(await healthy()), DATABASE_URL: database.url, HOLDFAST_SECRETS: SECRETS });
const enough: Partial<Machine> = { freeBytes: async () => 50e9 };

const faultsOf = (findings: readonly Finding[]) => findings.filter(({ level }) => level === 'fault');

async function listening(server: Server): Promise<number> {
  await new Promise<void>((up) => server.listen(0, '127.0.0.1', up));
  ends.push(() => new Promise((closed) => server.close(closed)));
  return (server.address() as { port: number }).port;
}

async function query(url: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  for (const statement of statements) await client.query(statement);
  await client.end();
}

/** Creates a role that may connect and nothing else, and returns the database's address for it. */
async function poorUser(on: FreshDatabase): Promise<string> {
  const name = `poor_${Math.random().toString(36).slice(2)}`;
  await query(on.url, `create role ${name} login password 'p'`);
  ends.push(() => query(process.env.TEST_DATABASE_URL!, `drop role ${name}`));
  const url = new URL(on.url);
  url.username = name;
  url.password = 'p';
  return url.href;
}

describe('without a fault', () => {
  it('The embedded database at rest gives no fault, and nothing is left behind', async () => {
    const findings = await diagnose(await healthy(), enough);
    expect(faultsOf(findings)).toEqual([]);
    const checks = findings.map(({ check, level }) => `${check}: ${level}`);
    for (const check of [
      'settings',
      'secrets',
      'secret files',
      'data directory',
      'disk',
      'database',
      'proxy',
      'port',
    ]) {
      expect(checks).toContain(`${check}: ok`);
    }
    expect(checks).toContain('websocket: ok');
    expect(simulator.journal.of('create')).toEqual([]);
  });

  it('A database of its own gives no fault, with every check of it', async () => {
    const findings = await diagnose(await shared(), enough);
    expect(faultsOf(findings)).toEqual([]);
    const checks = findings.map(({ check }) => check);
    for (const check of ['database', 'schema', 'privileges', 'clock', 'durability', 'connections', 'peers']) {
      expect(checks).toContain(check);
    }
    for (const { level, mend } of findings) expect(mend === null).toBe(level === 'ok');
  });
});

/** A planted fault: settings, what stands in for the machine, and the expected finding. */
interface Planted {
  env: Record<string, string>;
  machine?: Partial<Machine>;
  check: string;
  says: RegExp;
  mend: RegExp;
}

const planted: Record<string, () => Promise<Planted>> = {
  'a misspelled setting': async () => ({
    env: { ...(await healthy()), HOLDFAST_UPSTREM_KEY: 'sk-x' },
    check: 'settings',
    says: /HOLDFAST_UPSTREM_KEY is not a setting/,
    mend: /rename it to HOLDFAST_UPSTREAM_KEY/,
  }),
  'a port out of range': async () => ({
    env: { ...(await healthy()), PORT: '99999' },
    check: 'settings',
    says: /PORT must be a whole number from 0 to 65535/,
    mend: /valid value/,
  }),
  'an open address without API keys': async () => ({
    env: { ...(await healthy()), HOST: '0.0.0.0' },
    check: 'settings',
    says: /HOST=0\.0\.0\.0 is reachable by others/,
    mend: /set HOLDFAST_API_KEYS, or serve on a loopback address/,
  }),
  'a file of a secret that is not there': async () => ({
    env: { ...(await healthy()), HOLDFAST_ADMIN_TOKEN_FILE: '/nowhere/token' },
    check: 'settings',
    says: /HOLDFAST_ADMIN_TOKEN_FILE: \/nowhere\/token cannot be read \(ENOENT\)/,
    mend: /\S/,
  }),
  'a secret that can be guessed': async () => ({
    env: { ...(await shared()), HOLDFAST_SECRETS: `k1:${'ab'.repeat(20)}` },
    check: 'secrets',
    says: /secret "k1" of HOLDFAST_SECRETS has only 2 different characters/,
    mend: /openssl rand -hex 32/,
  }),
  'one secret with two uses': async () => ({
    env: {
      ...(await healthy()),
      HOLDFAST_API_KEYS: 'me:sk-8f2d6b0c4e9a17d35b7f',
      HOLDFAST_UPSTREAM_KEY: 'sk-8f2d6b0c4e9a17d35b7f',
    },
    check: 'secrets',
    says: /is the upstream key itself/,
    mend: /openssl rand/,
  }),
  'a file with a secret that everybody may read': async () => {
    const file = join(dataDir, 'everybody');
    await writeFile(file, 'a1b2c3d4e5f6a7b8c9d0e1f2');
    await chmod(file, 0o644);
    return {
      env: { ...(await healthy()), HOLDFAST_ADMIN_TOKEN_FILE: file },
      check: 'secret files',
      says: /every user of this machine may read .*everybody/,
      mend: /chmod 600 .*everybody/,
    };
  },
  'a database that refuses connections': async () => ({
    env: { ...(await shared()), DATABASE_URL: `postgres://u:very-secret@127.0.0.1:${await freePort()}/db` },
    check: 'database',
    says: /the connection was refused \(ECONNREFUSED\)/,
    mend: /\S/,
  }),
  'a database that does not exist': async () => ({
    env: { ...(await shared()), DATABASE_URL: database.url.replace(/\/t_[0-9a-f]+/, '/missing') },
    check: 'database',
    says: /there is no database "missing"/,
    mend: /create it, or name another one in DATABASE_URL/,
  }),
  'a user that may not create the tables': async () => {
    const empty = await freshDatabase({ empty: true });
    const url = await poorUser(empty);
    ends.push(() => empty.drop());
    return {
      env: { ...(await shared()), DATABASE_URL: url },
      check: 'privileges',
      says: /may not create schema "holdfast", and migrations are pending/,
      mend: /CREATE SCHEMA IF NOT EXISTS "holdfast" AUTHORIZATION/,
    };
  },
  'a user that may not use the tables': async () => {
    const url = await poorUser(database);
    return {
      env: { ...(await shared()), DATABASE_URL: url },
      check: 'privileges',
      says: /user "poor_\w+" lacks a right that is needed/,
      mend: /GRANT USAGE ON SCHEMA "holdfast" TO "poor_\w+"; GRANT ALL ON ALL TABLES IN SCHEMA "holdfast"/,
    };
  },
  'tables of a development version': async () => {
    const old = await freshDatabase({ empty: true });
    ends.push(() => old.drop());
    await query(
      old.url,
      `create schema holdfast;
       create table holdfast.holdfast_migrations (id serial, name text, executed_at timestamptz default now());
       insert into holdfast.holdfast_migrations (name) values ('0001-tables')`,
    );
    return {
      env: { ...(await shared()), DATABASE_URL: old.url },
      check: 'schema',
      says: /was made by a development version/,
      mend: /name another schema with HOLDFAST_DB_SCHEMA .* DROP SCHEMA "holdfast" CASCADE/,
    };
  },
  'a clock that is wrong': async () => ({
    env: await shared(),
    machine: { wall: () => Date.now() + 3_600_000 },
    check: 'clock',
    says: /are 60 min apart/,
    mend: /chrony/,
  }),
  'a full disk': async () => ({
    env: await healthy(),
    machine: { freeBytes: async () => 5e6 },
    check: 'disk',
    says: /5\.0 MB are free/,
    mend: /free space/,
  }),
  'a database of another PostgreSQL': async () => {
    const old = await mkdtemp(join(tmpdir(), 'hf-doctor-old-'));
    ends.push(() => rm(old, { recursive: true, force: true }));
    await mkdir(join(old, 'pg'));
    await writeFile(join(old, 'pg', 'PG_VERSION'), '12\n');
    return {
      env: { ...(await healthy()), HOLDFAST_DATA_DIR: old },
      check: 'database',
      says: /was made by PostgreSQL 12, and the embedded one is \d+/,
      mend: /go on with the release/,
    };
  },
  'an upstream that refuses connections': async () => ({
    env: { ...(await healthy()), HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${await freePort()}/v1` },
    check: 'upstream',
    says: /is not reached: ECONNREFUSED/,
    mend: /check host and port in HOLDFAST_UPSTREAM_URL/,
  }),
  'an upstream that speaks no TLS': async () => ({
    env: { ...(await healthy()), HOLDFAST_UPSTREAM_URL: simulator.url.replace('http:', 'https:') },
    check: 'upstream',
    says: /is not reached: EPROTO|is not reached: ERR_SSL/,
    mend: /write http:\/\/ where the server speaks no TLS/,
  }),
  'a key that the upstream refuses': async () => {
    const gateway = await gatewayThatRefuses();
    return {
      env: { ...(await healthy()), HOLDFAST_UPSTREAM_URL: gateway, HOLDFAST_UPSTREAM_KEY: 'sk-bad' },
      check: 'upstream key',
      says: /refuses HOLDFAST_UPSTREAM_KEY \(401\)/,
      mend: /set a valid key/,
    };
  },
  'an upstream without WebSocket, which is required': async () => {
    const plain = await startSimulator({ webSocket: 404 });
    ends.push(() => plain.close());
    return {
      env: { ...(await healthy()), HOLDFAST_UPSTREAM_URL: plain.url, HOLDFAST_UPSTREAM_TRANSPORT: 'websocket' },
      check: 'websocket',
      says: /answers the WebSocket handshake with 404 .*every turn would fail/,
      mend: /HOLDFAST_UPSTREAM_TRANSPORT to auto or http/,
    };
  },
  'a proxy that does not answer': async () => ({
    env: { ...(await healthy()), HTTP_PROXY: `http://127.0.0.1:${await freePort()}`, NO_PROXY: '' },
    check: 'upstream',
    says: /is not reached/,
    mend: /HTTP_PROXY|HOLDFAST_UPSTREAM_URL/,
  }),
  'a port that another program uses': async () => ({
    env: { ...(await healthy()), PORT: String(await listening(createServer((socket) => socket.destroy()))) },
    check: 'port',
    says: /another program uses 127\.0\.0\.1:\d+/,
    mend: /choose another PORT/,
  }),
  'an announced address that leads elsewhere': async () => ({
    env: {
      ...(await shared()),
      HOLDFAST_ADVERTISE_URL: `http://127.0.0.1:${await freePort()}`,
      HOLDFAST_ADVERTISE_MS: '500',
    },
    check: 'peers',
    says: /Other workers would not reach this one at/,
    mend: /HOLDFAST_ADVERTISE_URL/,
  }),
  'certificates that are not checked': async () => ({
    env: { ...(await healthy()), NODE_TLS_REJECT_UNAUTHORIZED: '0' },
    check: 'tls',
    says: /accepts every certificate/,
    mend: /NODE_EXTRA_CA_CERTS/,
  }),
};

/** Starts an HTTP server that refuses every credential, as a provider does. */
async function gatewayThatRefuses(): Promise<string> {
  const { createServer: createHttpServer } = await import('node:http');
  const refuse = createHttpServer((_, res) => {
    res.writeHead(401, { 'content-type': 'application/json', connection: 'close' });
    res.end(JSON.stringify({ error: { message: 'Incorrect API key.', code: 'invalid_api_key' } }));
  });
  return `http://127.0.0.1:${await listening(refuse)}/v1`;
}

it.each(Object.keys(planted))('The doctor finds %s, and says how to mend it', async (name) => {
  const { env, machine, check, says, mend } = await planted[name]!();
  const found = faultsOf(await diagnose(env, { ...enough, ...machine })).filter((each) => each.check === check);
  expect(found.map((each) => each.says).join('\n')).toMatch(says);
  expect(found.map((each) => each.mend).join('\n')).toMatch(mend);
  expect(JSON.stringify(found)).not.toMatch(/very-secret|sk-8f2d|sk-bad/);
});

it('At least twelve faults are planted', () => {
  expect(Object.keys(planted).length).toBeGreaterThanOrEqual(12);
});

it('A misspelled name does not keep the rest from being checked', async () => {
  const findings = await diagnose({ ...(await healthy()), HOLDFAST_UPSTREM_KEY: 'x' }, enough);
  expect(findings.map(({ check }) => check)).toContain('websocket');
});

it('A secret of more than a year is a warning', async () => {
  const file = join(dataDir, 'old');
  await writeFile(file, 'a1b2c3d4e5f6a7b8c9d0e1f2', { mode: 0o600 });
  const longAgo = new Date(Date.now() - 400 * 86_400_000);
  await utimes(file, longAgo, longAgo);
  const findings = await diagnose({ ...(await healthy()), HOLDFAST_ADMIN_TOKEN_FILE: file }, enough);
  expect(findings.find(({ check, level }) => check === 'secret files' && level === 'warning')).toMatchObject({
    says: expect.stringContaining('is 400 days old'),
    mend: expect.stringContaining('rotate it'),
  });
});
