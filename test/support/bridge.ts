import { pino } from 'pino';
import { type Bridge, createBridge } from '../../src/bridge.ts';
import { createApp } from '../../src/http/app.ts';
import { type Listening, listen } from '../../src/http/server.ts';
import type { Logger } from '../../src/observe/log.ts';
import type { SessionStore } from '../../src/store/port.ts';
import { openPostgresStore, type PostgresStoreOptions } from '../../src/store/postgres/index.ts';
import { type Simulator, type SimulatorOptions, startSimulator } from '../../src/testing/index.ts';
import { freshDatabase } from './database.ts';

export interface TestBridge {
  url: string;
  bridge: Bridge;
  store: SessionStore;
  simulator: Simulator;
  databaseUrl: string;
  /** Names of the statements the store has made so far. */
  statements: string[];
  /** Takes the whole worker away and starts another on the same database, as a restart would. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

export interface TestBridgeOptions {
  env?: Record<string, string>;
  simulator?: SimulatorOptions;
  store?: Partial<PostgresStoreOptions>;
  /** Stands between the bridge and its store. */
  wrapStore?(store: SessionStore): SessionStore;
  logger?: Logger;
  /** Another bridge, whose database and upstream this one shares and does not take away. */
  beside?: TestBridge;
}

/** A bridge over a real PostgreSQL and the simulator, served on a port of its own. */
export async function startTestBridge(options: TestBridgeOptions = {}): Promise<TestBridge> {
  const { beside } = options;
  const database = beside ? { url: beside.databaseUrl, drop: async () => {} } : await freshDatabase();
  const simulator = beside?.simulator ?? (await startSimulator({ eventGapMs: 0, ...options.simulator }));
  const statements: string[] = [];
  let store!: SessionStore;
  let bridge!: Bridge;
  let server!: Listening;

  async function start(): Promise<void> {
    store = await openPostgresStore({
      url: database.url,
      onStatement: (name) => statements.push(name),
      ...options.store,
    });
    bridge = await createBridge({
      store: options.wrapStore?.(store) ?? store,
      logger: options.logger ?? pino({ level: process.env.TEST_LOG ?? 'silent' }),
      env: {
        HOLDFAST_UPSTREAM_URL: simulator.url,
        HOLDFAST_SECRETS: 'test:0123456789abcdef0123456789abcdef',
        ...options.env,
      },
    });
    server = await listen(createApp(bridge.router, bridge), { host: '127.0.0.1', port: 0 }, bridge.handleUpgrade);
  }
  async function stop(): Promise<void> {
    await bridge.close();
    await server.close(500);
    await store.shutdown();
  }
  await start();
  return {
    get url() {
      return server.url;
    },
    get bridge() {
      return bridge;
    },
    get store() {
      return store;
    },
    simulator,
    databaseUrl: database.url,
    statements,
    async restart() {
      await stop();
      await start();
    },
    async close() {
      await stop();
      if (!beside) await simulator.close();
      await database.drop();
    },
  };
}
