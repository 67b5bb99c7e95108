import { pino } from 'pino';
import { type Bridge, createBridge } from '../../src/bridge.ts';
import { systemClock } from '../../src/clock.ts';
import { createApp } from '../../src/http/app.ts';
import { type Listening, listen } from '../../src/http/server.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/store/memory/index.ts';
import { type Simulator, startSimulator } from '../../src/testing/index.ts';

/** A bridge on a store in memory and the simulated upstream, which restarts in milliseconds. */
export interface PropertyWorld {
  readonly url: string;
  readonly bridge: Bridge;
  readonly simulator: Simulator;
  restart(): Promise<void>;
  close(): Promise<void>;
}

export async function openWorld(env: Record<string, string> = {}): Promise<PropertyWorld> {
  const simulator = await startSimulator({ reasoning: true, journalBodies: false });
  const database = createMemoryDatabase('0'.repeat(64));
  let bridge!: Bridge;
  let server!: Listening;
  const start = async () => {
    bridge = await createBridge({
      store: createMemoryStore({ clock: systemClock, database }),
      logger: pino({ level: 'silent' }),
      env: { HOLDFAST_UPSTREAM_URL: simulator.url, HOLDFAST_SOFT_IDLE_MS: '2000', ...env },
    });
    server = await listen(createApp(bridge.router, bridge), { host: '127.0.0.1', port: 0 });
  };
  const stop = async () => {
    await bridge.close();
    await server.close(100);
  };
  await start();
  return {
    get url() {
      return server.url;
    },
    get bridge() {
      return bridge;
    },
    simulator,
    async restart() {
      await stop();
      await start();
    },
    async close() {
      await stop();
      await simulator.close();
    },
  };
}
