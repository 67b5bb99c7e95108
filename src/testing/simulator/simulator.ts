import { randomInt } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { type ChaosSource, createChaos } from './chaos.ts';
import { serveControl } from './control.ts';
import { createHttpApi } from './http.ts';
import { answer } from './http-wires.ts';
import { createJournal } from './journal.ts';
import { createProvider } from './provider.ts';
import { createRules } from './script.ts';
import type { TurnHost } from './turn.ts';
import type { SimulatedConnection, Simulator, SimulatorOptions } from './types.ts';
import { createUpgradeHandler } from './upgrades.ts';

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
