import { pino } from 'pino';
import { readConfig } from '../../src/config.ts';
import type { BridgeError } from '../../src/errors.ts';
import type { TurnService } from '../../src/http/app.ts';
import { createApp, createAuthentication, createHttpFace, PREFIXES } from '../../src/http/app.ts';
import { answerSocket, createConnectionGuard, type Listening, listen, refuseUpgrade } from '../../src/http/server.ts';
import { type ClientSockets, createClientSockets } from '../../src/http/websocket.ts';
import { createReader } from '../../src/intake/pool.ts';
import type { ClientSink, TurnRequest } from '../../src/session/port.ts';
import { createQuota, type Lease, type Quota } from '../../src/session/quota.ts';
import { randomIds, systemClock } from '../../src/system.ts';
import { createManualClock, type ManualClock, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { createUpstreamTransport } from '../../src/upstream/transport.ts';

/** The HTTP face with the test in place of the service. */
export interface Face {
  url: string;
  clock: ManualClock;
  simulator: Simulator;
  sockets: ClientSockets;
  quota: Quota;
  /** Requests that reached the service, with the sinks to answer them. */
  taken: { request: TurnRequest; sink: ClientSink; lease: Lease }[];
  /** Resolves with the next request, or one that has already arrived. */
  next(): Promise<{ request: TurnRequest; sink: ClientSink; lease: Lease }>;
  service: { -readonly [K in keyof TurnService]: TurnService[K] };
  close(): Promise<void>;
}

export async function openFace(env: Record<string, string> = {}): Promise<Face> {
  const simulator = await startSimulator();
  const config = readConfig({ HOLDFAST_UPSTREAM_URL: simulator.url, ...env });
  const clock = createManualClock();
  const taken: Face['taken'] = [];
  const waiting: (() => void)[] = [];
  const service: Face['service'] = {
    turn(request, sink, lease) {
      taken.push({ request, sink, lease });
      for (const wake of waiting.splice(0)) wake();
    },
    knowsResponse: async () => false,
    notMade: async (_scope, ids) => ids[0] ?? null,
    inputItems: async () => null,
    keepObjects: async () => {},
    listObjects: async () => ({ ids: [], more: false }),
    dropObject: async () => {},
    forgetResponse: async () => {},
    readiness: async () => ({ ready: true, reasons: [] }),
    shutdown: { leaving: false, refusing: false },
  };
  const transport = createUpstreamTransport({ clock: systemClock });
  const logger = pino({ level: 'silent' });
  const authenticate = createAuthentication(config, 'pepper');
  const quota = createQuota({ config, clock });
  const common = {
    service,
    authenticate,
    quota,
    config,
    reader: createReader({ logger }),
    clock,
    ids: randomIds,
    logger,
  };
  const router = createHttpFace({ ...common, transport, target: { id: 'sim', baseUrl: config.upstream.url } });
  const paths = PREFIXES.map((prefix) => `${prefix}/responses`);
  const sockets = createClientSockets({ ...common, paths, random: () => 1 });
  const server: Listening = await listen(
    createApp(router, { ids: randomIds, logger }),
    { host: '127.0.0.1', port: 0 },
    (req, socket, head) => {
      try {
        if (!sockets.handleUpgrade(req, socket, head)) refuseUpgrade(req, socket);
      } catch (error) {
        answerSocket(socket, error as BridgeError);
      }
    },
  );
  createConnectionGuard({ limits: config.limits, several: quota.several }).watch(server.server);
  let read = 0;
  return {
    url: server.url,
    clock,
    simulator,
    sockets,
    quota,
    taken,
    service,
    async next() {
      while (taken.length <= read) await new Promise<void>((wake) => waiting.push(wake));
      return taken[read++]!;
    },
    async close() {
      await sockets.close();
      await server.close(0);
      await transport.shutdown();
      await simulator.close();
    },
  };
}
