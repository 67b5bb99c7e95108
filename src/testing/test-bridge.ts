import { pino } from 'pino';
import { type Bridge, type BridgeOptions, createBridge } from '../bridge.ts';
import { createApp, plainUpgrades } from '../http/app.ts';
import { type Listening, listen } from '../http/server.ts';
import type { SessionStore } from '../store/port.ts';
import { openPostgresStore } from '../store/postgres/index.ts';
import { type Clock, systemClock } from '../system.ts';
import { createMemoryDatabase, createMemoryStore } from './memory-store/index.ts';
import { type Simulator, type SimulatorOptions, startSimulator } from './simulator/index.ts';

/** Options of {@link testBridge}. */
export interface TestBridgeOptions
  extends Pick<BridgeOptions, 'logger' | 'random' | 'ids' | 'inspect' | 'hooks' | 'upstreams' | 'mountAdmin'> {
  /** Settings, by the names of their environment variables. */
  env?: Record<string, string>;
  /** Options of the simulated upstream, or a running simulator, which is not closed with the bridge. */
  simulator?: SimulatorOptions | Simulator;
  /** URL of a PostgreSQL database. Default: an in-memory store that lives as long as this test bridge. */
  databaseUrl?: string;
  /** Opens a store of another kind. Called again at each restart; the store is closed at each stop. */
  openStore?(): Promise<SessionStore>;
  /** Clock for deadlines. Default: the system clock. */
  clock?: Clock;
  /** Wraps the bridge's store, to count, delay or lose its calls. */
  wrapStore?(store: SessionStore): SessionStore;
}

/** Bridge on a loopback port in front of a simulated upstream. */
export interface TestBridge extends AsyncDisposable {
  /** Base URL, for example `http://127.0.0.1:40001`. Changes at a restart. */
  readonly url: string;
  readonly bridge: Bridge;
  readonly simulator: Simulator;
  readonly store: SessionStore;
  /** Drains the worker and starts another one on the same store, like a restart. */
  restart(): Promise<void>;
  close(): Promise<void>;
}

/** Time for which a stopped server waits for unfinished answers, in milliseconds. */
const CLOSE_GRACE = 500;
/** Fixed secret, so that tokens survive a restart. */
const SECRETS = 'test:0123456789abcdef0123456789abcdef';
/** Ignore proxy settings of the environment: the simulator is on loopback. */
const DIRECT = { http_proxy: '', HTTP_PROXY: '', https_proxy: '', HTTPS_PROXY: '' };

/**
 * Starts a bridge for tests. Independent of any test framework.
 *
 * @param options settings, store, clock and upstream; default: a store in memory and a new simulator
 * @returns the running bridge; the caller closes it
 * @example
 * await using at = await testBridge();
 * at.simulator.script.onTurn({ nth: 2 }, { kind: 'reset', at: 'after_created' });
 * const client = new OpenAI({ baseURL: `${at.url}/v1`, apiKey: 'any' });
 */
export async function testBridge(options: TestBridgeOptions = {}): Promise<TestBridge> {
  const { clock = systemClock, databaseUrl, openStore, env, wrapStore, simulator: given, logger, ...means } = options;
  const own = given && 'journal' in given ? null : await startSimulator(given);
  const simulator = own ?? (given as Simulator);
  const database = createMemoryDatabase('0'.repeat(64));
  let store!: SessionStore;
  let bridge!: Bridge;
  let server!: Listening;

  const open = async () => {
    if (openStore) return openStore();
    return databaseUrl ? openPostgresStore({ url: databaseUrl }) : createMemoryStore({ clock, database });
  };
  async function start(): Promise<void> {
    store = await open();
    bridge = await createBridge({
      ...means,
      clock,
      store: wrapStore?.(store) ?? store,
      logger: logger ?? pino({ level: 'silent' }),
      env: { ...DIRECT, HOLDFAST_UPSTREAM_URL: simulator.url, HOLDFAST_SECRETS: SECRETS, ...env },
    });
    const upgrades = plainUpgrades(bridge.handleUpgrade);
    server = await listen(createApp(bridge.router, bridge), { host: '127.0.0.1', port: 0 }, upgrades);
    bridge.guardConnections(server.server);
  }
  async function stop(): Promise<void> {
    await bridge.close();
    await server.close(CLOSE_GRACE);
    await store.shutdown();
  }
  async function close(): Promise<void> {
    await stop();
    await own?.close();
  }

  try {
    await start();
  } catch (error) {
    await own?.close();
    throw error;
  }
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
    async restart() {
      await stop();
      await start();
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}
