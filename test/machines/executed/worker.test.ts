import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import type { WorkerMachine } from '../../../machines/worker.ts';
import { startMembership } from '../../../src/cluster/membership.ts';
import type { SessionStore } from '../../../src/store/port.ts';
import { openPostgresStore } from '../../../src/store/postgres/index.ts';
import { randomIds } from '../../../src/system.ts';
import {
  explore,
  type Path,
  transitionCover,
  transitionNames,
  transitionsTaken,
  type World,
  workerModel,
} from '../../../src/testing/index.ts';
import { type FreshDatabase, freshDatabase } from '../../support/database.ts';
import { until } from '../../support/until.ts';
import { createDeadlineClock, DRAIN } from './deadline-clock.ts';
import { createGate } from './gate.ts';
import { watchMachine } from './watch.ts';

/** Unanswered heartbeats: a worker that begins to drain sends one more at once. */
interface WorkerFacts {
  beats: number;
}

const { machine } = workerModel;
const names = transitionNames(machine);
const isDraining = (snapshot: SnapshotFrom<WorkerMachine>) => snapshot.matches('draining');

const can: Record<string, (facts: WorkerFacts, snapshot: SnapshotFrom<WorkerMachine>) => boolean> = {
  'heartbeat.confirmed': ({ beats }) => beats > 0,
  'heartbeat.unanswered': ({ beats }) => beats > 0,
  'heartbeat.answered_dead': ({ beats }) => beats > 0,
  'stop.requested': (_, snapshot) => !isDraining(snapshot),
};

const world: World<WorkerMachine, WorkerFacts> = {
  facts: { beats: 0 },
  allows: (facts, before, variant) =>
    transitionsTaken(machine, names, before, variant.event(before.context)).length > 0 &&
    (can[variant.name]?.(facts, before) ?? true),
  learn: ({ beats }, { variant, actions }) => ({
    beats:
      beats + actions.filter(({ type }) => type === 'beat').length - (variant.name.startsWith('heartbeat.') ? 1 : 0),
  }),
};

/** Transitions that no world can cause, each with its reason. */
const uncausable: Record<string, string> = {
  'worker.serving on heartbeat.confirmed':
    'One heartbeat at a time is under way while a worker serves, and until it is answered the worker does not rest.',
  'worker.serving on heartbeat.unanswered': 'As above.',
  'worker.draining on stop.requested':
    'The caller that stops a draining worker reports that the drain is finished; a second signal ends the process itself.',
};

const graph = explore(workerModel, { world });
const paths = transitionCover(graph, {
  maxLength: 8,
  goals: ({ from, variant }) => [`${from.configuration} × ${variant.name}`],
});
const watch = watchMachine(explore(workerModel));
const deadlines = { heartbeat: 110_000_000, lease: 400_000_000, selfFence: 300_000_000, drain: DRAIN };

let database: FreshDatabase;
let store: SessionStore;
beforeAll(async () => {
  database = await freshDatabase();
  store = await openPostgresStore({ url: database.url });
});
afterAll(async () => {
  await store?.shutdown();
  await database?.drop();
});

const rowOf = async (id: string) => (await store.workers()).find((row) => row.id === id)?.state ?? null;

/** Returns a membership that was declared dead and whose second registration is pending. */
async function rebornMembership() {
  const clock = createDeadlineClock();
  const gate = createGate();
  const membership = await startMembership({
    store: gate.store(store),
    clock,
    ids: randomIds,
    deadlines,
    version: 'test',
    internalUrl: null,
    livenessPath: null,
    onDead() {},
    log: { info() {}, warn() {} },
    inspect: { step() {}, xstate: (event) => watch.observe(event) },
  });
  const first = membership.id;
  gate.hold('register');
  await until(() => clock.armed('heartbeat') > 0);
  await store.declareDead(first);
  const cursor = watch.seen.length;
  clock.fire('heartbeat');
  await watch.next(cursor, ({ before, actor }) => before === null && actor !== `worker:${first}`);
  gate.hold('heartbeat');
  return { membership, clock, gate };
}

async function drive({ steps }: Path<WorkerMachine, WorkerFacts>): Promise<void> {
  const { membership, clock, gate } = await rebornMembership();
  const { id } = membership;
  /** State reported by the last heartbeat that arrived: one that was sent before the drain still reports `serving`. */
  let said = 'serving';
  /** The lease is in doubt: nothing is started until a heartbeat is confirmed. */
  let doubted = false;
  const nothing = { verdict: 'unknown', reason: 'no connection' } as const;
  const causes: Record<string, () => unknown> = {
    'registration.confirmed': async () => (await gate.next('register')).pass(),
    'registration.failed': async () => (await gate.next('register')).answer(nothing),
    'heartbeat.confirmed': async () => {
      const call = await gate.next('heartbeat');
      said = call.args[1];
      doubted = false;
      await call.pass();
    },
    'heartbeat.wanted': () => {
      doubted = true;
      membership.doubt();
    },
    'heartbeat.unanswered': async () => (await gate.next('heartbeat')).answer(nothing),
    'heartbeat.answered_dead': async () => {
      await store.declareDead(id);
      await (await gate.next('heartbeat')).pass();
    },
    'drain.requested': () => membership.drain(),
    'drain.finished': () => void membership.stop(),
    'stop.requested': () => void membership.stop(),
    'deadline.heartbeat': () => clock.fire('heartbeat'),
    'deadline.register': () => clock.fire('register'),
    'deadline.drain': () => clock.fire('drain'),
  };
  let model = initialTransition(machine)[0] as SnapshotFrom<WorkerMachine>;
  try {
    for (const { variant, to } of steps) {
      const cursor = watch.seen.length;
      await causes[variant.name]!();
      const seen = watch.seen[await watch.next(cursor, ({ actor }) => actor === `worker:${id}`)]!;
      model = transition(machine, model, variant.event({} as never))[0] as SnapshotFrom<WorkerMachine>;
      expect(seen.event.type).toBe(variant.name);
      expect(seen.after.value).toEqual(model.value);
      expect(seen.after.value).toEqual(to.snapshot.value);
      await compare();
    }
  } finally {
    gate.open('register', 'heartbeat');
    await membership.stop();
  }

  /** Compares what others can read of this worker, and what it considers itself allowed to do, with the model. */
  async function compare(): Promise<void> {
    const [top] = JSON.stringify(model.value).match(/\w+/)!;
    if (top === 'starting') expect(await rowOf(id)).toBeNull();
    if (top === 'serving' || top === 'draining') {
      expect(await rowOf(id)).toBe(said);
      expect([membership.id, membership.mayStart()]).toEqual([id, !doubted]);
    } else expect(membership.mayStart()).toBe(false);
    if (top === 'dead') expect([membership.id === id, await rowOf(id)]).toEqual([false, 'dead']);
    if (top === 'stopped') {
      await until(async () => (await rowOf(id)) === 'dead' || (await rowOf(id)) === null);
      expect(membership.draining).toBe(true);
    }
  }
}

describe('a real worker', () => {
  it.each(paths)('A real worker follows its machine: $name', (path) => drive(path));

  it('The paths take every worker transition that a world can cause', () => {
    const { transitions, states, line } = watch.coverage.report();
    console.log(`executed, ${line}; ${paths.length} paths`);
    expect(states.missing).toEqual([]);
    expect(transitions.missing.toSorted()).toEqual(Object.keys(uncausable).toSorted());
  });
});
