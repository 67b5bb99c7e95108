import { randomUUID } from 'node:crypto';
import pg from 'pg';
import type { AnyStateMachine, InspectionEvent } from 'xstate';
import type { TurnRow } from '../../../src/store/port.ts';
import type { RuleHandle, SimulatedConnection, TurnFault, UpgradeFault } from '../../../src/testing/index.ts';
import { startTestBridge, type TestBridge } from '../../support/bridge.ts';
import { type Answer, post } from '../../support/client.ts';
import { until } from '../../support/until.ts';
import { createDeadlineClock, type DeadlineClock, DRAIN, deadlineEnv } from './deadline-clock.ts';
import { createGate, type Gate } from './gate.ts';
import type { Watch } from './watch.ts';

/** A client that waits for its answer. */
export interface Client {
  body: Record<string, unknown>;
  /** Null once the client has disconnected. */
  answer: Promise<Answer | null>;
  readonly answered: boolean;
  hangUp(): void;
}

/** A real worker on a real database, in front of a simulated provider, with control over every event. */
export interface RealWorld {
  readonly at: TestBridge;
  readonly clock: DeadlineClock;
  readonly gate: Gate;
  ask(body: Record<string, unknown>, headers: Record<string, string>): Client;
  /** Sets the provider's behaviour in the next handshake. */
  onUpgrade(fault: UpgradeFault | null): RuleHandle | null;
  /** Sets the provider's behaviour in the next turn; released step by step. */
  onTurn(faults: readonly TurnFault[]): RuleHandle;
  /** Returns the open connection; there is never more than one. */
  connection(): SimulatedConnection;
  readonly open: number;
  /** Cuts the connection and waits until the bridge has noticed. */
  cut(): Promise<void>;
  /** Waits until the bridge has an open connection. */
  opened(): Promise<void>;
  operator(id: string, action: 'release' | 'close'): Promise<number>;
  sql(text: string, values?: unknown[]): Promise<void>;
  /** Returns the row of a turn. All clients belong to one scope. */
  turn(id: string): Promise<TurnRow | null>;
  /** Makes other workers declare this one dead; it learns of that and registers under another id. */
  bury(): Promise<void>;
  /** Makes another worker claim a session after its owner was declared dead. */
  rob(sessionId: string): Promise<string>;
  /** Ends everything that still runs, and removes all rules and holds. */
  tidy(clients: readonly Client[]): Promise<void>;
  close(): Promise<void>;
}

export async function openRealWorld(watches: readonly Watch<AnyStateMachine>[]): Promise<RealWorld> {
  const clock = createDeadlineClock();
  const gate = createGate();
  const at = await startTestBridge({
    clock,
    random: () => 0.5,
    inspect: (event: InspectionEvent) => {
      for (const watch of watches) watch.observe(event);
    },
    wrapStore: gate.store,
    simulator: { eventGapMs: 0 },
    // Only with this transport is a failed handshake retried; with `auto` its turn would use HTTP.
    env: {
      ...deadlineEnv,
      HOLDFAST_UPSTREAM_TRANSPORT: 'websocket',
      HOLDFAST_DRAIN_MS: String(DRAIN),
      HOLDFAST_LAME_DUCK_MS: '0',
    },
  });
  const database = new pg.Client({ connectionString: at.databaseUrl });
  await database.connect();
  const { simulator } = at;
  const openOnes = () => simulator.connections.filter(({ open }) => open);

  /** Returns the value of a gauge from the bridge's metrics. */
  async function gauge(name: string): Promise<number> {
    const text = await (await fetch(`${at.url}/metrics`)).text();
    return Number(new RegExp(`^holdfast_${name}(?:\\{[^}]*\\})? (\\d+)`, 'm').exec(text)?.[1]);
  }
  const isServing = async (id: string) =>
    (await at.store.workers()).some((worker) => worker.id === id && worker.state === 'serving');

  const world: RealWorld = {
    at,
    clock,
    gate,
    ask(body, headers) {
      const control = new AbortController();
      let answered = false;
      const answer = post(at.url, body, headers, control.signal).then(
        (given) => {
          answered = true;
          return given;
        },
        () => null,
      );
      return {
        body,
        answer,
        get answered() {
          return answered;
        },
        hangUp: () => control.abort(),
      };
    },
    onUpgrade: (fault) => fault && simulator.script.onUpgrade({}, fault),
    onTurn: (faults) => simulator.script.onTurn({}, faults),
    connection: () => openOnes().at(-1)!,
    get open() {
      return openOnes().length;
    },
    async cut() {
      for (const connection of openOnes()) connection.reset();
      await until(async () => (await gauge('upstream_sockets')) === 0);
    },
    opened: () => until(async () => (await gauge('upstream_sockets')) === 1),
    async operator(id, action) {
      const { status, body } = await fetch(`${at.url}/admin/sessions/${id}/${action}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
      });
      await body?.cancel();
      return status;
    },
    async sql(text, values = []) {
      await database.query(text, values);
    },
    async turn(id) {
      const [session] = await at.store.sessions(1);
      return session ? at.store.turn(session.scope, id) : null;
    },
    async bury() {
      const before = at.bridge.workerId;
      await at.store.declareDead(before);
      await until(() => clock.fire('heartbeat'));
      await until(async () => at.bridge.workerId !== before && (await isServing(at.bridge.workerId)));
    },
    async rob(sessionId) {
      const rival = randomUUID();
      const row = (await at.store.sessionById(sessionId))!;
      if (row.ownerWorkerId !== null) await at.store.declareDead(row.ownerWorkerId);
      const means = { internalUrl: null, livenessPath: null, version: 'rival', leaseMs: 600_000 };
      await at.store.register({ id: rival, ...means });
      const claimed = await at.store.claim({
        me: rival,
        nonce: randomUUID(),
        scope: row.scope,
        sessionId,
        epochRead: row.epoch,
        revisionRead: row.revision,
      });
      if (claimed.verdict !== 'row') throw new Error(`the rival was answered ${claimed.verdict}`);
      return rival;
    },
    async tidy(clients) {
      simulator.script.clear();
      for (const client of clients) client.hangUp();
      gate.open('create', 'start', 'settle', 'lookup', 'lineage');
      await Promise.all(clients.map(({ answer }) => answer));
      simulator.dropAll();
      await until(async () => {
        for (const name of ['connect', 'grace', 'redial', 'idle'])
          for (let left = clock.armed(name); left > 0; left -= 1) clock.fire(name);
        simulator.dropAll();
        return at.bridge.sessions().length === 0 && (await gauge('turns_in_flight')) === 0;
      });
      await until(() => openOnes().length === 0);
    },
    async close() {
      await database.end();
      await at.close();
    },
  };
  return world;
}
