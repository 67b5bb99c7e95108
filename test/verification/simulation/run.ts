import { readSource } from '../../../src/intake/read.ts';
import { checkAtRest, checkDurable, checkFrame } from './checks.ts';
import { createClient, type SimulatedClient } from './client.ts';
import type { Plan, ScheduledFault } from './plan.ts';
import { createWorld, type Slot, type Violation, type World } from './world.ts';

/** Result of a run. */
export interface Run {
  seed: number;
  violations: readonly Violation[];
  /** Hex digest of everything that happened, in order. Equal plans give equal digests. */
  hash: string;
  steps: number;
  /** Simulated time, in milliseconds. */
  simulatedMs: number;
  /** Number of turns that were answered as their client intended. */
  answered: number;
  /** Number of faults by kind. */
  misfortunes: Readonly<Record<string, number>>;
  outcomes: Readonly<Record<string, number>>;
  /** Names of the faults that occurred, for `Plan.without`. */
  struck: readonly string[];
}

/** Longer than all waits of one request in sequence, in milliseconds. */
const LONGEST_REQUEST = 240_000;
/** Time after which every idle socket has been closed, in milliseconds. */
const EVERYTHING_IDLE = 100_000;

/** Runs a plan to its end. Equal plans give equal runs, independent of the machine's load. */
export async function simulate(plan: Plan, trace?: (line: string) => void): Promise<Run> {
  const world = createWorld(plan, trace);
  const { agenda, luck } = world;
  const outcomes: Record<string, number> = {};
  const asked = new Map<string, Set<string>>();
  world.onCreate = (create, slot) => checkFrame(world, create, slot, asked);

  const clients = plan.clients.map((each, index) =>
    createClient({
      world,
      plan: each,
      name: `c${index}`,
      onAsk(text, body) {
        const prints = asked.get(text) ?? new Set();
        asked.set(text, prints.add(readSource(JSON.stringify(body), 'body').request.requestFp));
      },
      onHeard({ head, kind }) {
        const outcome = head?.outcome ?? kind;
        outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
      },
    }),
  );
  for (const fault of plan.faults) agenda.add(fault.at, `fault ${fault.kind}`, () => strike(world, fault));
  agenda.add(plan.calmAt, 'calm', () => calm(world));

  let busy = clients.length;
  for (const client of clients) void client.run().then(() => void (busy -= 1));
  const failed = () => world.violations.length > 0;
  await agenda.run(plan.calmAt + LONGEST_REQUEST * 8, () => failed() || (busy === 0 && agenda.now > plan.calmAt));
  if (!failed()) await rest(world, clients, () => busy);

  return {
    seed: plan.seed,
    violations: world.violations,
    hash: world.hash(),
    steps: agenda.steps,
    simulatedMs: agenda.now,
    answered: clients.reduce((sum, client) => sum + client.answered, 0),
    misfortunes: Object.fromEntries(luck.counts),
    outcomes,
    struck: luck.struck,
  };
}

/** Checks after the last fault that the system comes to rest and that every conversation can continue. */
async function rest(world: World, clients: readonly SimulatedClient[], busy: () => number): Promise<void> {
  const { agenda } = world;
  if (busy() > 0) {
    const hung = clients.filter(({ waiting }) => waiting).map(({ name }) => name);
    return world.violate('a request without an end', hung.join(', '));
  }
  let left = clients.length;
  const served = async (client: SimulatedClient) => {
    if (!(await client.once())) world.violate('a conversation that does not go on', client.name);
    left -= 1;
  };
  for (const client of clients) void served(client);
  await agenda.run(agenda.now + LONGEST_REQUEST * 4, () => left === 0 || world.violations.length > 0);
  if (left > 0 && world.violations.length === 0) world.violate('a request without an end', 'when all was calm');
  // First let the deadlines end what disconnected clients have left running.
  await agenda.run(agenda.now + 15_000);
  checkAtRest(world);
  for (const { name, responseId } of clients) {
    const kept = [...world.database.turns.values()].some((turn) => turn.responseId === responseId);
    if (!kept) world.violate('an answer that was not kept', name);
  }
  await agenda.run(agenda.now + EVERYTHING_IDLE);
  await checkDurable(world);
}

function strike(world: World, fault: ScheduledFault): void {
  if (world.plan.without.includes(`at ${fault.at}`)) return;
  const { agenda, luck, slots, network, upstream, plan } = world;
  const slot = 'worker' in fault ? slots[fault.worker] : undefined;
  const until = 'lasts' in fault ? Math.min(agenda.now + fault.lasts, plan.calmAt) : 0;
  const afterwards = (undo: () => void) => void agenda.add(until, 'undo', undo);
  const cutOff = (which: readonly Slot[]) => {
    for (const each of which) each.storeReachable = false;
    afterwards(() => {
      for (const each of which) each.storeReachable = true;
    });
  };
  world.note(`fault: ${JSON.stringify(fault)}`);
  luck.count(fault.kind);
  switch (fault.kind) {
    case 'crash':
      if (!slot!.process.alive) return;
      world.crash(slot!);
      return afterwards(() => {
        if (!slot!.process.alive) world.restart(slot!);
      });
    case 'pause': {
      const { process } = slot!;
      if (fault.frozen) slot!.frozen = true;
      process.pause(fault.frozen);
      return afterwards(() => {
        world.note(`${process.name} goes on`);
        process.resume();
      });
    }
    case 'starved': {
      const { process } = slot!;
      const random = luck.random(`starved ${fault.at}`);
      const stop = () => {
        if (agenda.now >= until || !process.alive) return;
        process.pause(false);
        agenda.add(Math.min(until, agenda.now + random.between(50, 1_500)), 'a slice of time', () => {
          process.resume();
          agenda.add(agenda.now + random.between(1, 150), 'its end', stop);
        });
      };
      return stop();
    }
    case 'row lost': {
      const { worker } = slot!;
      if (worker && world.database.workers.get(worker.membership.id)?.state !== 'dead') {
        world.database.workers.delete(worker.membership.id);
      }
      return;
    }
    case 'store cut off':
      return cutOff([slot!]);
    case 'store down':
      return cutOff(slots);
    case 'peers cut off':
      for (const other of slots) if (other !== slot) network.hold(slot!.process, other.process, until);
      return;
    case 'upstream down':
      upstream.down = true;
      upstream.dropAll();
      return afterwards(() => {
        upstream.down = false;
      });
    case 'sockets dropped':
      return upstream.dropAll();
    case 'caches expired':
      return upstream.expireCaches();
    case 'drain':
      return world.drain(slot!);
    case 'operator': {
      const ids = [...world.database.sessions.values()].map(({ id }) => id);
      if (ids.length > 0) world.operate(fault.action, luck.random(`operator ${fault.at}`).pick(ids), slot!);
    }
  }
}

function calm(world: World): void {
  world.note('calm');
  world.luck.stop();
  world.upstream.down = false;
  for (const slot of world.slots) {
    slot.storeReachable = true;
    slot.process.resume();
    if (!slot.process.alive) world.restart(slot);
  }
}
