import { createHash } from 'node:crypto';
import { type Config, readConfig } from '../../../src/config.ts';
import { BridgeError } from '../../../src/errors.ts';
import { readSource } from '../../../src/intake/read.ts';
import type { Caller } from '../../../src/session/port.ts';
import { StoreUnavailable } from '../../../src/store/port.ts';
import {
  createMemoryDatabase,
  createMemoryStore,
  type MemoryDatabase,
} from '../../../src/testing/memory-store/index.ts';
import { parseSecrets } from '../../../src/token/keyring.ts';
import { type PeerService, startWorker, type Worker } from '../../../src/worker.ts';
import { type Agenda, createAgenda } from './agenda.ts';
import { createLuck, type Luck } from './luck.ts';
import { Planted, turnFaults, upgradeFaults } from './misfortunes.ts';
import { createNetwork, type Network } from './network.ts';
import { createSimulatedForwarder } from './peers.ts';
import type { Plan } from './plan.ts';
import { createProcess, type Process } from './process.ts';
import { type ClientEars, createSimulatedSink } from './sink.ts';
import { createStoreLink } from './store.ts';
import { type Create, createSimulatedUpstream, type SimulatedUpstream } from './upstream.ts';

/** Violation of a check. */
export interface Violation {
  check: string;
  detail: string;
  /** Simulated time, in milliseconds. */
  at: number;
}

/** A place at which one worker process runs after the other. */
export interface Slot {
  readonly index: number;
  readonly process: Process;
  /** Null until the worker has registered. */
  readonly worker: Worker | null;
  /** True when the process was ever frozen. The provider may then receive a frame that was sent too late. */
  frozen: boolean;
  storeReachable: boolean;
  draining: boolean;
}

export interface OpenRequest {
  body: Readonly<Record<string, unknown>>;
  headers: Readonly<Record<string, string>>;
  requestId: string;
}

export interface World {
  readonly plan: Plan;
  readonly agenda: Agenda;
  readonly luck: Luck;
  readonly network: Network;
  readonly upstream: SimulatedUpstream;
  readonly database: MemoryDatabase;
  readonly config: Config;
  readonly slots: readonly Slot[];
  readonly violations: Violation[];
  /** Returns a hex digest of everything that happened so far, in order. */
  hash(): string;
  note(what: string): void;
  violate(check: string, detail: string): void;
  sleep(ms: number): Promise<void>;
  crash(slot: Slot): void;
  /** Drains the worker and starts another one in its place. */
  drain(slot: Slot): void;
  /** Starts a process in place of a crashed one. */
  restart(slot: Slot): void;
  /**
   * Sends a request to a worker.
   *
   * @returns a function that disconnects the client
   */
  open(slot: Slot, request: OpenRequest, ears: ClientEars, onClosed: () => void): () => void;
  /** Performs an operator's action on a session through one of the workers. */
  operate(action: 'release' | 'close' | 'drop-anchor', sessionId: string, slot: Slot): void;
  /** Number of refusals per turn of calls to start or end it. Such turns are left to orphan handling. */
  readonly refusals: Map<string, number>;
  /** Anchors that clients themselves have sent. The bridge may forward these even if it does not know them. */
  readonly clientAnchors: Set<string>;
  /** Called with every frame that is sent. */
  onCreate: (create: Create, slot: Slot) => void;
}

/** Shorter deadlines than in production, so that a run covers all of them. In milliseconds. */
const env = {
  HOLDFAST_UPSTREAM_URL: 'http://upstream.invalid/v1',
  HOLDFAST_IDLE_SOCKET_MS: '40000',
  HOLDFAST_LANE_IDLE_MS: '30000',
  HOLDFAST_SOFT_IDLE_MS: '20000',
  HOLDFAST_SOCKET_AGE_MS: '60000',
  HOLDFAST_SOCKET_AGE_JITTER_MS: '5000',
  HOLDFAST_ONLY_HOLDER_AGE_MS: '80000',
  HOLDFAST_FIRST_EVENT_MS: '8000',
  HOLDFAST_STREAM_SILENCE_MS: '12000',
  HOLDFAST_TURN_BUDGET_MS: '60000',
  HOLDFAST_DISCONNECT_GRACE_MS: '4000',
  HOLDFAST_DRAIN_MS: '10000',
};

const callers: Record<Plan['credential'], Caller> = {
  own: { scope: 'cred:1', credentialFp: 'fp1', upstreamAuthorization: 'Bearer sk-sim', credentialIsClients: true },
  shared: { scope: 'tenant:a', credentialFp: 'fp1', upstreamAuthorization: 'Bearer sk-up', credentialIsClients: false },
};

/** Creates the workers, their store and their upstream on one clock. */
export function createWorld(plan: Plan, trace?: (line: string) => void): World {
  const digest = createHash('sha256');
  const luck = createLuck(plan.seed, new Set(plan.without), (name) => note(`struck: ${name}`));
  const ranks = luck.random('ranks');
  const note = (what: string) => {
    const line = `${agenda.now.toFixed(3)} ${what}`;
    digest.update(line);
    trace?.(line);
  };
  const agenda = createAgenda(
    ranks,
    ({ label, at }) => void digest.update(`${at} ${label}\n`),
    (error, { label }) => violate('an exception', `${label}: ${(error as Error)?.stack ?? error}`),
  );
  const network = createNetwork(agenda);
  const config = readConfig({ ...env, ...plan.env });
  const database = createMemoryDatabase('0'.repeat(64));
  const outside = { now: () => agenda.now, wall: () => agenda.now, after: () => () => {} };
  const store = createMemoryStore({ clock: outside, database });
  const secrets = parseSecrets('sim:0123456789abcdef0123456789abcdef');
  const violations: Violation[] = [];
  const violate = (check: string, detail: string) => {
    violations.push({ check, detail, at: agenda.now });
    note(`VIOLATION ${check}: ${detail}`);
  };
  const listeners = new Map<string, { process: Process; service: PeerService; deadlines: Config['deadlines'] }>();
  const upstream = createSimulatedUpstream({
    agenda,
    network,
    luck,
    faults: plan.rates,
    turnFaults,
    upgradeFaults,
    onCreate: (create) => world.onCreate(create, slots.find(({ process }) => process === create.process)!),
  });
  const slots: (Slot & { process: Process; worker: Worker | null; generation: number })[] = [];

  function boot(slot: (typeof slots)[number]): void {
    slot.generation += 1;
    const name = `w${slot.index}.${slot.generation}`;
    const epochs = luck.random(`clock of ${name}`);
    const process = createProcess(agenda, name, Math.round(epochs.between(1_000, 1e7)));
    slot.process = process;
    slot.worker = null;
    slot.frozen = false;
    slot.draining = false;
    const url = `http://${name}.invalid`;
    let ids = 0;
    const complain = (fields: { err?: unknown; error?: { type: string }; reason?: unknown }, message: string) => {
      const { err, error } = fields;
      // Refused commits are logged as errors, and refusals and exceptions are injected here.
      const provoked = err instanceof StoreUnavailable || err instanceof Planted || error?.type === 'Planted';
      if (provoked || (err === undefined && error === undefined)) return note(`${name} logged: ${message}`);
      violate('error in the log', `${name}: ${message}: ${(err as Error)?.stack ?? JSON.stringify(error ?? err)}`);
    };
    const link = createStoreLink({
      process,
      agenda,
      luck,
      store,
      trouble: { ...plan.rates.store, throws: plan.rates.throws },
      statementMs: config.deadlines.storeStatement,
      reachable: () => slot.storeReachable,
      onRejected(call, args) {
        const refused = args[0] as { turnId?: string; turn?: { id: string } };
        const turnId = refused.turnId ?? refused.turn?.id;
        if (turnId !== undefined) world.refusals.set(turnId, (world.refusals.get(turnId) ?? 0) + 1);
        note(`${name} ${call} ${turnId ?? ''} rejected`);
      },
      onAnswer({ name: call, args, answer, told }) {
        if (call === 'heartbeat' || call === 'workers') return;
        const { verdict } = (answer ?? {}) as { verdict?: string };
        const about = (args[0] ?? {}) as {
          sessionId?: string;
          turnId?: string;
          turn?: { id: string };
          result?: { state: string };
        };
        note(
          `${name} ${call} ${about.sessionId ?? ''} ${about.turn?.id ?? about.turnId ?? ''} ${about.result?.state ?? ''} ${verdict ?? ''}${told ? '' : ' (answer lost)'}`,
        );
      },
    });
    note(`${name} starts`);
    void startWorker({
      config,
      store: link,
      transport: upstream.transport(process),
      clock: process.clock,
      ids: { uuid: () => `${name}#${++ids}` },
      random: luck.random(`worker ${name}`),
      secrets,
      version: 'sim',
      livenessPath: null,
      shared: true,
      async listen(service) {
        listeners.set(url, { process, service, deadlines: config.deadlines });
        return { url, check: async () => {}, close: async () => void listeners.delete(url) };
      },
      forwarder: (workerId) =>
        createSimulatedForwarder(
          { agenda, network, luck, at: (address) => listeners.get(address) ?? null, broken: plan.rates.hop },
          process,
          workerId,
          config.deadlines,
        ),
      logger: { info: () => {}, warn: complain, error: complain },
      onFinished: ({ turn, outcome, terminal }) => note(`${name} finished ${turn} ${outcome} ${terminal}`),
    }).then(
      (worker) => {
        if (slot.process === process) slot.worker = worker;
        note(`${name} serves`);
      },
      (error) => violate('a worker does not start', String(error)),
    );
  }

  const world: World = {
    plan,
    agenda,
    luck,
    network,
    upstream,
    database,
    config,
    slots,
    violations,
    hash: () => digest.copy().digest('hex'),
    note,
    violate,
    sleep: (ms) => new Promise((go) => agenda.add(agenda.now + ms, 'sleep', go)),
    crash(slot) {
      note(`${slot.process.name} crashes`);
      slot.process.crash();
      (slot as (typeof slots)[number]).worker = null;
    },
    restart: (slot) => boot(slot as (typeof slots)[number]),
    drain(slot) {
      const { worker, process } = slot;
      if (!worker || slot.draining) return;
      slot.draining = true;
      note(`${process.name} drains`);
      void worker.close().then(() => {
        if (!process.alive) return;
        note(`${process.name} stops`);
        for (const session of worker.registry.all()) {
          const { state } = session.view();
          // Turns whose end the store has not confirmed by then are left to orphan handling.
          if (!/settling|committing/.test(state)) violate('a drained worker keeps a session', `${session.id} ${state}`);
        }
        process.crash();
        if (slot.process === process) boot(slot as (typeof slots)[number]);
      });
    },
    open(slot, { body, headers, requestId }, ears, onClosed) {
      const { process } = slot;
      const [client, server] = network.connect(null, process, luck.random(`request ${requestId}`));
      const text = JSON.stringify(body);
      let ends = 0;
      client.onClosed(onClosed);
      client.post('request', () => {
        const { worker } = slot;
        if (!worker || slot.process !== process) return server.reset();
        const sink = createSimulatedSink({
          process,
          end: server,
          streaming: body.stream === true,
          ears,
          onSecondEnd: () => void (ends += 1),
        });
        if (worker.shutdown.refusing) return sink.fail(new BridgeError('bridge_draining'));
        worker.dispatcher.accept(
          {
            requestId,
            caller: callers[plan.credential],
            headers,
            ...readSource(text, 'body').request,
            receivedAt: process.clock.now(),
          },
          sink,
        );
      });
      return () => client.close();
    },
    operate(action, sessionId, slot) {
      const asked = { release: store.operatorRelease, close: store.operatorClose, 'drop-anchor': store.dropAnchor };
      void asked[action](sessionId).then((verdict) => {
        note(`operator: ${action} ${sessionId}: ${verdict}`);
        if (verdict !== 'ok' || !slot.process.alive) return;
        slot.process.deliver(1, 'operator', () => {
          const type = action === 'close' ? 'operator.close' : 'operator.release';
          slot.worker?.registry.get(sessionId)?.send({ type });
        });
      });
    },
    refusals: new Map(),
    clientAnchors: new Set(),
    onCreate: () => {},
  };
  for (let index = 0; index < plan.workers; index += 1) {
    const slot = { index, generation: 0, frozen: false, storeReachable: true, draining: false, worker: null };
    slots.push({ ...slot, process: null as unknown as Process });
    boot(slots[index]!);
  }
  return world;
}
