import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import pg from 'pg';
import { afterEach, describe, expect, test } from 'vitest';
import { answeredAtStart } from '../../src/storage.ts';
import { StoreUnavailable } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { DatabaseUnusable, placeOf } from '../../src/store/postgres/unusable.ts';
import { freshDatabase } from '../support/database.ts';
import { freePort } from '../support/worker-process.ts';
import { newWorker } from './calls.ts';
import { faultyProxy } from './faulty-proxy.ts';

const cleanUps: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (cleanUps.length > 0) await cleanUps.pop()!();
});

async function database() {
  const fresh = await freshDatabase({ empty: true });
  cleanUps.push(() => fresh.drop());
  return fresh.url;
}

/** Returns the URL with parts of it replaced. */
function changed(
  url: string,
  parts: Partial<Record<'hostname' | 'port' | 'username' | 'password' | 'pathname', string>>,
) {
  return Object.assign(new URL(url), parts).href;
}

async function query(url: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    for (const statement of statements) await client.query(statement);
  } finally {
    await client.end();
  }
}

/** Opens a listener whose end also closes its connections. */
async function listening(port: number, accept: (socket: Socket) => void): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    accept(socket);
  });
  await new Promise<void>((ready) => server.listen(port, '127.0.0.1', ready));
  cleanUps.push(async () => {
    const closed = new Promise((done) => server.close(done));
    for (const socket of sockets) socket.destroy();
    await closed;
  });
  return String((server.address() as { port: number }).port);
}

/** Creates a role that may only log in; returns its URL. */
async function guest(url: string): Promise<string> {
  const name = `guest_${randomBytes(6).toString('hex')}`;
  await query(url, `create role ${name} login password 'hidden'`);
  cleanUps.push(() => query(process.env.TEST_DATABASE_URL!, `drop role ${name}`));
  return changed(url, { username: name, password: 'hidden' });
}

async function refusal(url: string, schema: string | null = null): Promise<DatabaseUnusable> {
  const error = await openPostgresStore({ url, schema, statementTimeoutMs: 1_000 }).catch((caught: unknown) => caught);
  expect(error).toBeInstanceOf(DatabaseUnusable);
  const { message } = error as DatabaseUnusable;
  expect(message).not.toContain('\n');
  const password = decodeURIComponent(URL.parse(url)?.password ?? '');
  if (password !== '') expect(message).not.toContain(password);
  return error as DatabaseUnusable;
}

describe('a database that cannot be used', () => {
  test('A host name without an address is refused with its host and the cause', async () => {
    const url = changed(await database(), { hostname: 'no-such-host.invalid' });
    const { message, passing } = await refusal(url);
    expect(message).toMatch(/^PostgreSQL at no-such-host\.invalid:\d+, database "t_\w+": .*(?:ENOTFOUND|EAI_AGAIN)/);
    expect(passing).toBe(true);
  });

  test('A port without a listener is refused with its host and the cause', async () => {
    const { message, passing } = await refusal('postgres://me:hidden@127.0.0.1:1/app');
    expect(message).toMatch(/^PostgreSQL at 127\.0\.0\.1:1, database "app": .*ECONNREFUSED/);
    expect(passing).toBe(true);
  });

  test('A wrong password, an unknown user and a missing user are refused with host and cause', async () => {
    const url = await database();
    const wrong = await refusal(changed(url, { password: 'not-the-password' }));
    expect(wrong.message).toMatch(/refused the password of user "holdfast" \(28P01\)/);
    expect(wrong.passing).toBe(false);
    expect((await refusal(changed(url, { username: 'stranger' }))).message).toMatch(/user "stranger"/);
    expect((await refusal(changed(url, { password: '' }))).message).toMatch(/password/);
  });

  test('A database that does not exist is refused, and it is not created', async () => {
    const url = await database();
    const { message, passing } = await refusal(changed(url, { pathname: '/absent_one' }));
    expect(message).toMatch(/database "absent_one": there is no database "absent_one" \(3D000\): create it/);
    expect(passing).toBe(false);
    await expect(query(changed(url, { pathname: '/absent_one' }), 'select')).rejects.toThrow(/does not exist/);
  });

  test.each<[name: string, behave: (socket: Socket) => void]>([
    ['HTTP', (socket) => void socket.once('data', () => socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'))],
    ['a server that speaks first', (socket) => void socket.write('SSH-2.0-OpenSSH_9.2\r\n')],
    [
      'a server that sends noise',
      (socket) => void socket.write(Buffer.from('4a0000000a352e372e3400'.repeat(8), 'hex')),
    ],
  ])('A server that is no PostgreSQL is refused with its host: %s', async (_, behave) => {
    const port = await listening(0, behave);
    const { message, passing } = await refusal(`postgres://me:hidden@127.0.0.1:${port}/app`);
    expect(message).toContain(`PostgreSQL at 127.0.0.1:${port}, database "app": what answers there is no PostgreSQL`);
    expect(passing).toBe(false);
  });

  test('A server that closes every connection is refused with its host and the cause', async () => {
    const port = await listening(0, (socket) => socket.end());
    const { message, passing } = await refusal(`postgres://me:hidden@127.0.0.1:${port}/app`);
    expect(message).toMatch(/closed without an answer/);
    expect(passing).toBe(true);
  });

  test('A read-only database, such as a replica, is refused with its host and the cause', async () => {
    const url = await database();
    const { pathname } = new URL(url);
    await query(url, `alter database ${pathname.slice(1)} set default_transaction_read_only = on`);
    const { message, passing } = await refusal(url);
    expect(message).toMatch(/only follows another server, or is read-only/);
    expect(passing).toBe(true);
  });

  test('A user that may not create the schema is refused, and accepted when the schema was created for it', async () => {
    const url = await database();
    const theirs = await guest(url);
    const { username } = new URL(theirs);
    const { message, passing } = await refusal(theirs);
    expect(message).toContain(`CREATE SCHEMA IF NOT EXISTS "holdfast" AUTHORIZATION "${username}"`);
    expect(passing).toBe(false);
    await query(url, `create schema holdfast authorization ${username}`);
    const store = await openPostgresStore({ url: theirs, poolSize: 1 });
    await newWorker(store);
    await store.shutdown();
    await query(url, `drop owned by ${username}`);
  });

  test.each([
    'mysql://me:hidden@127.0.0.1/app',
    '127.0.0.1:5432/app',
    'postgres://me:hid#den@127.0.0.1/app',
    'postgres://me:hid/den@127.0.0.1:5432/app',
    'host=127.0.0.1 password=hidden',
  ])('An invalid DATABASE_URL is refused without showing its password: %s', (url) => {
    expect(() => placeOf(url)).toThrow(/^DATABASE_URL .*expected postgres:\/\/user:password@host:5432\/database/);
    expect(() => placeOf(url)).not.toThrow(/hid/);
  });
});

describe('a worker process', () => {
  const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');

  function serve(env: Record<string, string>, ...args: string[]) {
    const child: ChildProcess = spawn(process.execPath, [CLI, 'serve', ...args], {
      env: {
        ...process.env,
        HOLDFAST_SECRETS: 'k:0123456789abcdef0123456789abcdef',
        HOLDFAST_LOG_LEVEL: 'debug',
        ...env,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let text = '';
    for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (chunk) => (text += chunk));
    const gone = new Promise<number | null>((resolve) => child.once('exit', resolve));
    cleanUps.push(async () => {
      child.kill('SIGKILL');
      await gone;
    });
    return {
      gone,
      text: () => text,
      async says(pattern: RegExp) {
        while (!pattern.test(text)) {
          if (child.exitCode !== null) throw new Error(`it ended:\n${text}`);
          await new Promise((look) => setTimeout(look, 20));
        }
      },
    };
  }

  test.each([[[]], [['--workers', '2']]])(
    'A worker retries its database for the configured time and exits with one line and no stack: %s',
    async (args) => {
      const worker = serve(
        { DATABASE_URL: 'postgres://me:hidden@no-such-host.invalid/app', PORT: '0', HOLDFAST_STORE_START_MS: '300' },
        ...args,
      );
      expect(await worker.gone).toBe(1);
      const lines = worker.text().trim().split('\n');
      expect(lines.at(-1)).toMatch(
        /^holdfast: PostgreSQL at no-such-host\.invalid:5432, database "app": .*ENOTFOUND|EAI_AGAIN/,
      );
      expect(lines.slice(0, -1).every((line) => JSON.parse(line).msg.includes('no-such-host.invalid:5432'))).toBe(true);
      expect(worker.text()).not.toMatch(/hidden|\n {4}at |\\n {4}at /);
    },
    120_000,
  );

  test('A worker serves as soon as its database is reachable', async () => {
    const real = new URL(await database());
    const port = await freePort();
    const worker = serve({ DATABASE_URL: changed(real.href, { port: String(port) }), PORT: '0' });
    await worker.says(/ECONNREFUSED/);
    await listening(port, (socket) => {
      const onward = connect(Number(real.port), real.hostname);
      onward.on('error', () => undefined);
      socket.pipe(onward).pipe(socket);
    });
    await worker.says(/is ready at/);
  }, 300_000);
});

test('A database that is lost while running is logged once, with host and cause, and once more when it is back', async () => {
  const url = await database();
  const lines: { message: string; details: object }[] = [];
  const proxy = await faultyProxy(url);
  const store = await openPostgresStore({
    url: proxy.url,
    poolSize: 5,
    logger: { warn: (details, message) => void lines.push({ details, message }) },
  });
  try {
    await Promise.all(Array.from({ length: 10 }, () => store.workers().catch(() => undefined)));
    while (!(await store.workers().catch(() => null)));
    lines.length = 0;
    proxy.refuse(true);
    for (let round = 0; round < 5; round += 1) {
      await Promise.all(Array.from({ length: 20 }, () => store.workers().catch(() => undefined)));
      await store.heartbeat('none', 'serving', 1_000);
    }
    expect(lines).toHaveLength(1);
    expect(lines[0]!.message).toMatch(/the database does not answer/);
    expect(JSON.stringify(lines[0]!.details)).toMatch(/PostgreSQL at 127\.0\.0\.1:\d+.*"cause":"the connection was/);
    proxy.refuse(false);
    while (!(await store.workers().catch(() => null)));
    expect(lines.map(({ message }) => message).slice(1)).toEqual(['the database answers again']);
  } finally {
    await store.shutdown();
    await proxy.close();
  }
});

test('The first calls of a start are repeated while the database does not answer, and no longer than it may take', async () => {
  let unanswered = 2;
  const pepper = async () => {
    if (unanswered-- > 0) throw new StoreUnavailable('no answer');
    return 'pepper';
  };
  expect(await answeredAtStart(60_000, pepper)).toBe('pepper');
  const silent = () => Promise.reject(new StoreUnavailable('silent'));
  await expect(answeredAtStart(0, silent)).rejects.toThrow('silent');
});
