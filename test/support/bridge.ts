import { pino } from 'pino';
import type { SessionStore } from '../../src/store/port.ts';
import { openPostgresStore, type PostgresStoreOptions } from '../../src/store/postgres/index.ts';
import {
  type TestBridge as BridgeAlone,
  type TestBridgeOptions as OptionsAlone,
  testBridge,
} from '../../src/testing/index.ts';
import { freshDatabase } from './database.ts';

export interface TestBridge extends BridgeAlone {
  readonly databaseUrl: string;
  /** Names of the statements that the store has sent so far. */
  readonly statements: string[];
}

export interface TestBridgeOptions extends Omit<OptionsAlone, 'databaseUrl' | 'openStore'> {
  store?: Partial<PostgresStoreOptions>;
  /** Another bridge whose database and upstream are shared; closing this bridge leaves them open. */
  beside?: TestBridge;
}

/** With TEST_LANES set, every test of a bridge runs with that many conversations on an upstream socket. */
const shared: Record<string, string> = process.env.TEST_LANES
  ? { HOLDFAST_UPSTREAM_LANES: process.env.TEST_LANES }
  : {};

/** Starts a bridge on a new PostgreSQL database and the simulator, served on a port of its own. */
export async function startTestBridge({ store, beside, ...options }: TestBridgeOptions = {}): Promise<TestBridge> {
  const database = beside ? { url: beside.databaseUrl, drop: async () => {} } : await freshDatabase();
  const statements: string[] = [];
  const openStore = (): Promise<SessionStore> =>
    openPostgresStore({ url: database.url, onStatement: (name) => statements.push(name), ...store });
  const at = await testBridge({
    logger: pino({ level: process.env.TEST_LOG ?? 'silent' }),
    ...options,
    // No balancer has to notice that a bridge beside another one leaves: closing need not wait for it.
    env: { HOLDFAST_LAME_DUCK_MS: '0', ...shared, ...options.env },
    ...(beside ? { simulator: beside.simulator } : {}),
    openStore,
  });
  const close = async () => {
    await at.close();
    await database.drop();
  };
  return {
    get url() {
      return at.url;
    },
    get bridge() {
      return at.bridge;
    },
    get store() {
      return at.store;
    },
    simulator: at.simulator,
    databaseUrl: database.url,
    statements,
    restart: () => at.restart(),
    close,
    [Symbol.asyncDispose]: close,
  };
}
