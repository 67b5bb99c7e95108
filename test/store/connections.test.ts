import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createExecutor, type Statement } from '../../src/store/postgres/executor.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { systemClock } from '../../src/system.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { freshDatabase } from '../support/database.ts';
import { busyLane, LEASE_MS, newWorker } from './calls.ts';
import { secondConnection } from './second-connection.ts';

let database: Awaited<ReturnType<typeof freshDatabase>>;
beforeAll(async () => {
  database = await freshDatabase();
});
afterAll(() => database.drop());

const closing: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  while (closing.length > 0) await closing.pop()!();
});

/** Long enough not to end a call on a busy machine. The server's share of it is 54 s. */
const TIMEOUT_MS = 60_000;

interface Settings {
  path: string;
  timeout: string;
}

/** An executor over one connection, and what it sends: the letters of the protocol's messages, and the text of each parse. */
function executor(own: boolean) {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 });
  const sent = { messages: '', parsed: [] as string[] };
  pool.on('connect', (client) => {
    client.on('error', () => {});
    const { connection } = client as unknown as { connection: { _send(message: Buffer): boolean } };
    const send = connection._send.bind(connection);
    connection._send = (message) => {
      const letter = String.fromCharCode(message[0]!);
      sent.messages += letter;
      if (letter === 'P') sent.parsed.push(message.subarray(5).toString().split('\0')[0]!);
      return send(message);
    };
  });
  const { run, stop } = createExecutor({
    pool,
    own,
    size: 1,
    schema: 'holdfast',
    timeoutMs: TIMEOUT_MS,
    clock: systemClock,
  });
  let stopped = false;
  const release = () => {
    if (!stopped) stop();
    stopped = true;
  };
  closing.push(async () => {
    release();
    await pool.end();
  });
  const ask = async (text: string, statement: Partial<Statement> = {}) =>
    (await run<Record<string, unknown>>({ name: '', text, ...statement }, []))[0]!;
  /** Returns the settings that a call sees. */
  const within = (statement?: Partial<Statement>) =>
    ask(
      "select current_setting('search_path') as path, current_setting('statement_timeout') as timeout",
      statement,
    ) as unknown as Promise<Settings>;
  /** Makes a call; returns the letters of its messages. */
  const messagesOf = async (statement?: Partial<Statement>) => {
    sent.messages = '';
    await ask('select 1 as one', statement);
    return sent.messages;
  };
  return { pool, ask, within, messagesOf, sent, release };
}

const STANDING: Settings = { path: '"holdfast", pg_temp', timeout: '54s' };

/** Returns the settings that stay on the connection of a pool. */
async function left(pool: pg.Pool): Promise<Settings> {
  const { rows } = await pool.query(
    "select current_setting('search_path') as path, current_setting('statement_timeout') as timeout",
  );
  return rows[0];
}

describe('connections of the executor alone', () => {
  test('Settings are sent once, statements are parsed once, and a statement that writes then goes alone', async () => {
    const { messagesOf, sent } = executor(true);
    const named = { name: 'test_one', writes: true };
    // Settings and statement: parse, bind, (describe,) execute; then the sync.
    expect(await messagesOf(named)).toBe('PBEPBDES');
    // From now on under their names, which are closed first. The settings come with a statement that is not prepared yet.
    expect(await messagesOf(named)).toBe('CPBECPBDES');
    expect(await messagesOf(named)).toBe('BES');
    expect(await messagesOf(named)).toBe('BES');
    expect(await messagesOf({ writes: true })).toBe('BEPBDES');
    expect(sent.parsed).toEqual(['', '', 'holdfast_settings', 'test_one', '']);
  });

  test('A statement that may only read is sent with the question whether the server is a standby', async () => {
    const { messagesOf } = executor(true);
    for (let call = 0; call < 3; call += 1) await messagesOf({ name: 'test_one' });
    expect(await messagesOf({ name: 'test_one' })).toBe('BEBES');
  });

  test('Every call sees the standing settings, or those of its own timeout for itself only', async () => {
    const { within } = executor(true);
    for (const timeoutMs of [undefined, undefined, 1_000_000, undefined, 30_000, undefined]) {
      const { path, timeout } = await within({ writes: true, ...(timeoutMs !== undefined && { timeoutMs }) });
      expect(path).toBe(STANDING.path);
      if (timeoutMs === undefined) expect(timeout).toBe(STANDING.timeout);
      else expect(timeout).not.toBe(STANDING.timeout);
    }
  });

  test('Settings of a call that failed are made again by the next one', async () => {
    const { ask, within, pool, release } = executor(true);
    await expect(ask('select 1 / 0', { writes: true })).rejects.toThrow('division by zero');
    for (let call = 0; call < 2; call += 1) expect(await within({ writes: true })).toEqual(STANDING);
    release();
    expect(await left(pool)).toEqual(STANDING);
  });

  test('The server ends a statement at the standing limit, and the connection stays', async () => {
    const pool = new pg.Pool({ connectionString: database.url, max: 1 });
    // On this clock the executor itself never gives up.
    const clock = createManualClock();
    const limits = { pool, own: true, size: 1, schema: 'holdfast', timeoutMs: 500, clock };
    const { run, stop } = createExecutor(limits);
    closing.push(async () => {
      stop();
      await pool.end();
    });
    const pid = async () =>
      (await run<{ pid: number }>({ name: '', text: 'select pg_backend_pid() as pid' }, []))[0]!.pid;
    const before = await pid();
    await expect(run({ name: '', text: 'select pg_sleep(60)', writes: true }, [])).rejects.toThrow('statement timeout');
    expect(await pid()).toBe(before);
  });

  test('A connection that the server has closed between two calls is replaced', async () => {
    const { ask, pool } = executor(true);
    const { pid } = await ask('select pg_backend_pid() as pid');
    const removed = once(pool, 'remove');
    const other = await secondConnection(database.url);
    closing.push(() => other.end());
    await other.query(`select pg_terminate_backend(${String(pid)})`);
    await removed;
    expect((await ask('select pg_backend_pid() as pid')).pid).not.toBe(pid);
  });
});

test('Calls that wait at the pool get the connection of the call before them', async () => {
  const pool = new pg.Pool({ connectionString: database.url, max: 1 });
  const clock = createManualClock();
  // It does not know the size of the pool.
  const { run, stop } = createExecutor({ pool, own: true, schema: 'holdfast', timeoutMs: TIMEOUT_MS, clock });
  closing.push(async () => {
    stop();
    await pool.end();
  });
  const calls = Array.from({ length: 5 }, (_, nth) => run({ name: '', text: 'select $1::integer as nth' }, [nth]));
  expect((await Promise.all(calls)).flat()).toEqual([0, 1, 2, 3, 4].map((nth) => ({ nth })));
});

test('Every call that is sent without the question is refused by a server that accepts no writes', async () => {
  const own = await freshDatabase();
  const store = await openPostgresStore({ url: own.url, poolSize: 1, statementTimeoutMs: TIMEOUT_MS });
  const other = await secondConnection(own.url);
  closing.push(async () => {
    await other.end();
    await store.shutdown();
    await own.drop();
  });
  const { me, ...lane } = await busyLane(store, await newWorker(store));
  const { sessionId } = lane;
  const [{ name }] = (await other.query<{ name: string }>('select current_database() as name')) as [{ name: string }];
  await other.query(`alter database ${name} set default_transaction_read_only = on`);
  await other.query(
    'select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and pid <> pg_backend_pid()',
    [name],
  );
  const worker = { id: randomUUID(), internalUrl: null, livenessPath: null, version: 'test', leaseMs: LEASE_MS };
  const refused = [
    () => store.create({ ...lane.create, sessionId: randomUUID() }),
    () => store.start(lane.start()),
    () => store.start({ ...lane.start(), sessionId: randomUUID() }),
    () => store.settle(lane.settle(lane.firstTurn.id)),
    () => store.claim({ ...lane.hold(), nonce: randomUUID(), epochRead: 1, revisionRead: 1 }),
    () => store.release(lane.hold()),
    () => store.close(lane.hold()),
    () => store.register(worker),
    () => store.heartbeat(me, 'serving', LEASE_MS),
    () => store.declareExpired(me),
    () => store.declareDead(me),
  ];
  for (const call of refused) {
    let answer: unknown;
    // The first calls may still find the connections that were terminated.
    do answer = await call();
    while (!JSON.stringify(answer).includes('read-only'));
    expect(answer).toMatchObject({ verdict: 'unknown' });
  }
  for (const call of [store.operatorRelease, store.operatorClose, store.dropAnchor]) {
    await expect(call(sessionId)).rejects.toThrow('read-only');
  }
});

describe('connections of an application', () => {
  test('Every call has the settings, and nothing of them stays on the connection', async () => {
    const { within, messagesOf, pool, release } = executor(false);
    const before = await left(pool);
    for (let call = 0; call < 3; call += 1) expect((await within()).path).toBe(STANDING.path);
    expect(await messagesOf({ name: 'test_one' })).toContain('PBDES');
    expect(await messagesOf({ name: 'test_one' })).toBe('BEBES');
    release();
    expect(await left(pool)).toEqual(before);
  });
});

describe('a pooler that passes the process ids of the server on', () => {
  test.each([true, false])('The connection counts as pooled once its statements are gone (own: %s)', async (own) => {
    const { messagesOf, ask, within } = executor(own);
    const named = { name: 'test_one', writes: true };
    for (let call = 0; call < 3; call += 1) await messagesOf(named);
    // As if the next call had reached another server process.
    await ask('deallocate all');
    await ask('select 1 as one', named);
    expect(await messagesOf(named)).toBe('PBEPBDES');
    expect((await within()).path).toBe(STANDING.path);
  });
});
