import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { type ChaosOptions, type ChaosSource, createChaos, createRules, type Rule } from './faults.ts';
import { answer, createHttpApi, readBody } from './http.ts';
import { createJournal, type EntryKind, type JournalEntry } from './journal.ts';
import { createProvider } from './provider.ts';
import type { TurnHost } from './turn.ts';
import type { SimulatedConnection, Simulator, SimulatorOptions } from './types.ts';
import { createUpgradeHandler } from './websocket.ts';

/** Commands to a simulator in another process. */
interface Orders {
  drop?: 'reset' | number;
  expireCaches?: boolean;
  /** A response id, or true for all. */
  forgetStored?: string | boolean;
  /** Id of the rule whose holds are released. */
  release?: number;
  /** Null stops the chaos. */
  chaos?: ChaosOptions | null;
}

async function readJournal(simulator: Simulator, url: URL): Promise<readonly JournalEntry[]> {
  const since = Number(url.searchParams.get('since') ?? 0);
  const kind = url.searchParams.get('kind') as EntryKind | null;
  const matching = () =>
    simulator.journal.entries.filter((entry) => entry.seq > since && (kind === null || entry.kind === kind));
  const found = matching();
  const timeoutMs = Number(url.searchParams.get('wait') ?? 0);
  if (found.length > 0 || timeoutMs === 0 || kind === null) return found;
  await simulator.journal.next(kind, () => true, { timeoutMs }).catch(() => undefined);
  return matching();
}

/**
 * Exposes the simulator's control interface over HTTP, for tests of whole processes: `GET
 * /__journal?since=SEQ&kind=KIND&wait=MS` (waits for the first entry of that kind), `DELETE /__journal`, `POST
 * /__script` (a rule or a list of rules), `DELETE /__script`, `POST /__control`, `GET /__state`.
 *
 * @returns false for any other path
 */
async function serveControl(simulator: Simulator, req: IncomingMessage, res: ServerResponse): Promise<boolean> {
  const url = new URL(req.url ?? '/', 'http://simulator');
  if (!url.pathname.startsWith('/__')) return false;
  const call = `${req.method} ${url.pathname}`;
  const body = async (): Promise<unknown> => JSON.parse((await readBody(req)) || 'null');
  switch (call) {
    case 'GET /__journal':
      answer(res, 200, { entries: await readJournal(simulator, url) });
      break;
    case 'DELETE /__journal':
      simulator.journal.clear();
      answer(res, 200, {});
      break;
    case 'POST /__script': {
      const rules = [await body()].flat() as Rule[];
      answer(res, 200, { rules: rules.map((rule) => simulator.script(rule).id) });
      break;
    }
    case 'DELETE /__script':
      simulator.script.clear();
      answer(res, 200, {});
      break;
    case 'POST /__control': {
      const orders = (await body()) as Orders;
      if (orders.drop !== undefined) simulator.dropAll(orders.drop);
      if (orders.expireCaches) simulator.expireCaches();
      if (orders.forgetStored)
        simulator.forgetStored(typeof orders.forgetStored === 'string' ? orders.forgetStored : undefined);
      if (orders.release !== undefined) simulator.script.handle(orders.release)?.release();
      if (orders.chaos !== undefined) simulator.chaos(orders.chaos ?? { rates: {} });
      answer(res, 200, {});
      break;
    }
    case 'GET /__state':
      answer(res, 200, {
        url: simulator.url,
        seed: simulator.seed,
        connections: simulator.connections.map(({ id, open, cachedResponseIds }) => ({ id, open, cachedResponseIds })),
      });
      break;
    default:
      answer(res, 404, { error: { message: `No such control: ${call}` } });
  }
  return true;
}

/**
 * Starts a Responses API on loopback, over HTTP and WebSocket. Its model answers with a digest of the whole context it
 * received. Rejects when the port is in use.
 *
 * @param options address, seed, script and chaos
 * @returns the running simulator; the caller closes it
 * @example
 * const sim = await startSimulator();
 * sim.script.onTurn({ nth: 2 }, { kind: 'reset', at: 'after_created' });
 * // point a client at sim.url ...
 * const create = await sim.journal.waitFor('create', ({ turn }) => turn === 2);
 * await sim.close();
 */
export async function startSimulator(options: SimulatorOptions = {}): Promise<Simulator> {
  const seed = options.seed ?? randomInt(2 ** 31);
  const journal = createJournal(options.journalLimit ?? 100_000);
  const rules = createRules(options.script ?? []);
  const connections: SimulatedConnection[] = [];
  const sockets = new Set<Socket>();
  let chaos: ChaosSource | null = null;
  let closing: Promise<void> | null = null;

  const host: TurnHost = { options, provider: createProvider(seed), rules, journal, chaos: () => chaos };
  const api = createHttpApi(host);
  const server = createServer((req, res) => {
    serveControl(simulator, req, res)
      .then((served) => (served ? undefined : api(req, res)))
      .catch((error) => answer(res, 400, { error: { message: String(error) } }));
  });
  server.on('upgrade', createUpgradeHandler(host, connections));
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('close', () => sockets.delete(socket));
    const ruled = rules.forConnect();
    if (!ruled) return;
    journal.record('fault', { rule: ruled.rule, turn: null, connection: null, fault: ruled.fault });
    socket.resetAndDestroy();
  });

  const address = options.host ?? '127.0.0.1';
  server.listen(options.port ?? 0, address);
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;

  const simulator: Simulator = {
    url: `http://${address.includes(':') ? `[${address}]` : address}:${port}/v1`,
    port,
    seed,
    journal,
    script: rules.script,
    connections,
    chaos(wanted) {
      chaos = createChaos(wanted, seed);
      return chaos.handle;
    },
    waitFor: journal.waitFor,
    dropAll(how = 'reset') {
      for (const connection of connections)
        if (connection.open) how === 'reset' ? connection.reset() : connection.close(how);
    },
    expireCaches() {
      for (const connection of connections) connection.forget();
    },
    forgetStored: (id) => host.provider.forget(id),
    close() {
      closing ??= new Promise((resolve) => {
        chaos = null;
        journal.close();
        rules.script.clear();
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      });
      return closing;
    },
  };
  return simulator;
}
