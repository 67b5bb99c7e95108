import { defineEntity, MikroORM, p } from '@mikro-orm/postgresql';
import { pino } from 'pino';
import { afterEach, describe, expect, it } from 'vitest';
import { createApp } from '../../src/http/app.ts';
import { listen } from '../../src/http/server.ts';
import { type Bridge, type BridgeOptions, createBridge } from '../../src/index.ts';
import { startSimulator } from '../../src/testing/index.ts';
import { freshDatabase } from '../support/database.ts';
import { until } from '../support/until.ts';

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** The only entity that the application knows. */
const Note = defineEntity({ name: 'Note', properties: { id: p.integer().primary(), text: p.text() } });

async function application(pool: { min?: number; max: number }) {
  const database = await freshDatabase({ empty: true });
  undo.push(() => database.drop());
  const orm = await MikroORM.init({ clientUrl: database.url, entities: [Note], pool });
  undo.push(() => orm.close(true));
  await orm.schema.create();
  return { orm, url: database.url, pool: await orm.em.getConnection().getNativeClient() };
}

async function bridgeOver(options: BridgeOptions): Promise<{ bridge: Bridge; url: string }> {
  const simulator = await startSimulator();
  undo.push(() => simulator.close());
  const bridge = await createBridge({
    upstream: simulator.url,
    auth: { secrets: [`k:${'s'.repeat(32)}`] },
    logger: pino({ level: process.env.TEST_LOG ?? 'silent' }),
    ...options,
    deadlines: { lameDuck: 0, ...options.deadlines },
  });
  const server = await listen(createApp(bridge.router, bridge), { host: '127.0.0.1', port: 0 }, bridge.handleUpgrade);
  undo.push(async () => {
    await bridge.close();
    await server.close(500);
  });
  return { bridge, url: server.url };
}

const ask = (url: string, body: object = {}) =>
  fetch(`${url}/v1/responses`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-client' },
    body: JSON.stringify({ model: 'm', input: 'Say hi.', ...body }),
  });

describe('a bridge over the MikroORM of an application', () => {
  it('Conversations are stored through its pool in a schema of their own, and the ORM outlives the bridge', async () => {
    const { orm, pool } = await application({ max: 6 });
    const { bridge, url } = await bridgeOver({ orm });
    expect(bridge.config.databaseUrl).toBeNull();
    const first = await ask(url);
    expect(first.headers.get('x-holdfast-outcome')).toBe('created');
    const { id } = (await first.json()) as { id: string };
    const more = await ask(url, { previous_response_id: id, input: 'More.' });
    expect(more.headers.get('x-holdfast-outcome')).toBe('live_reuse');
    const em = orm.em.fork();
    await em.insert(Note, { id: 1, text: 'mine' });
    const tables = await em
      .getConnection()
      .execute<{ schema: string; table: string }[]>(
        `select schemaname as schema, tablename as table from pg_tables where schemaname in ('public', 'holdfast')`,
      );
    expect(tables.filter(({ schema }) => schema === 'public').map(({ table }) => table)).toEqual(['note']);
    expect(tables.filter(({ schema }) => schema === 'holdfast').map(({ table }) => table)).toContain('bridge_session');
    // Times and numbers of the application are read by its own rules.
    const [row] = await em.getConnection().execute<{ n: unknown; t: unknown }[]>('select 7::int8 as n, now() as t');
    expect(typeof row!.n).toBe('string');
    const turns = await em.getConnection().execute<{ n: number }[]>('select count(*)::int as n from holdfast.turn');
    expect(turns[0]!.n).toBe(2);

    await bridge.close();
    expect(await em.count(Note)).toBe(1);
    await until(() => pool.idleCount === pool.totalCount);
    expect(pool.totalCount).toBeLessThanOrEqual(6);
  });

  it('A second start in the same database finds the schema, and continues the conversation', async () => {
    const { orm } = await application({ max: 6 });
    const one = await bridgeOver({ orm, database: { schema: 'llm' } });
    const { id } = (await (await ask(one.url)).json()) as { id: string };
    await one.bridge.close();
    const two = await bridgeOver({ orm, database: { schema: 'llm' } });
    const more = await ask(two.url, { previous_response_id: id, input: 'More.', store: true });
    expect([more.status, more.headers.get('x-holdfast-outcome')]).toEqual([200, 'stale_recovery']);
    const schemas = await orm.em
      .getConnection()
      .execute<{ n: string }[]>(`select nspname as n from pg_namespace where nspname in ('llm', 'holdfast')`);
    expect(schemas).toEqual([{ n: 'llm' }]);
  });

  it('Heartbeats go on while the application holds every other connection', async () => {
    const { orm, pool, url: databaseUrl } = await application({ max: 4 });
    const { bridge, url } = await bridgeOver({ orm, deadlines: { heartbeat: 100, selfFence: 4_000, lease: 5_000 } });
    expect((await ask(url)).status).toBe(200);
    const other = await MikroORM.init({ clientUrl: databaseUrl, entities: [Note] });
    undo.push(() => other.close(true));
    const lease = async () => {
      const rows = await other.em
        .getConnection()
        .execute<{ until: string }[]>('select heartbeat_expires_at::text as until from holdfast.worker');
      return rows[0]!.until;
    };
    const seen = new Set<string>();
    const held = await Promise.all([pool.connect(), pool.connect(), pool.connect()]);
    try {
      await until(async () => seen.add(await lease()).size > 15);
    } finally {
      for (const client of held) client.release();
    }
    expect((await bridge.readiness()).reasons).toEqual([]);
  });

  it('Connections that the server ends are replaced, that of the heartbeats too', async () => {
    const { orm, url: databaseUrl } = await application({ max: 4 });
    const { url } = await bridgeOver({ orm, deadlines: { heartbeat: 100, selfFence: 4_000, lease: 5_000 } });
    expect((await ask(url)).status).toBe(200);
    const other = await MikroORM.init({ clientUrl: databaseUrl, entities: [Note] });
    undo.push(() => other.close(true));
    const running = () =>
      other.em
        .getConnection()
        .execute<{ pid: number }[]>(
          'select pid from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
        );
    const before = new Set((await running()).map(({ pid }) => pid));
    await other.em
      .getConnection()
      .execute(
        'select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()',
      );
    await until(async () => (await running()).some(({ pid }) => !before.has(pid)));
    await until(async () => (await ask(url)).status === 200);
  });

  it('An ORM that cannot serve is refused with the reason', async () => {
    const { orm } = await application({ max: 2 });
    const auth = { secrets: [`k:${'s'.repeat(32)}`] };
    await expect(createBridge({ orm, auth, logLevel: 'silent' })).rejects.toThrow(
      /pool has 2 connections, and at least 3/,
    );
    const wrong = { em: { getConnection: () => ({ getNativeClient: async () => ({}) }) } };
    await expect(createBridge({ orm: wrong, auth, logLevel: 'silent' })).rejects.toThrow(/MikroORM 7/);
    await expect(createBridge({ orm, logLevel: 'silent', env: { HOLDFAST_SECRETS: '' } })).rejects.toThrow(
      /auth\.secrets/,
    );
  });
});
