import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ReleaseCall, SavedState, SettleCall, StartCall, TurnEnd, TurnResult } from '../../src/store/port.ts';
import { createManualClock } from '../../src/testing/manual-clock.ts';
import { createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { createModelRows, defaultBounds, type ModelRows } from '../verification/model/index.ts';

const WORKERS = 3;
const TURNS = 4;
const LEASE = 1_000;
const SCOPE = 'scope';
const SESSION = 'session';
const SEED = Number(process.env.MODEL_SEED ?? Math.floor(Math.random() * 2 ** 31));
const ENDS: readonly TurnEnd[] = ['completed', 'failed', 'cancelled', 'lost'];

const saved: SavedState = { state: 'live', snapshot: {}, machineVersion: 1 };
const worker = (w: number) => `w${w}`;
const turnId = (r: number) => `t${r}`;
const nonceOf = (n: number) => `n${n}`;
const start = (r: number) => ({
  id: turnId(r),
  parentTurnId: null,
  shape: 'full' as const,
  requestFp: 'fp',
  contextFp: 'fp',
  storedUpstream: false,
  credentialFp: 'fp',
  clientTurnId: null,
});
const result = (state: TurnEnd, r: number): TurnResult => ({
  state,
  responseId: state === 'completed' ? `r${r}` : null,
  items: null,
  transcriptFp: null,
  clientFp: null,
  secondFp: null,
  thirdFp: null,
  forms: null,
  itemIds: [],
  replay: 'never',
  usage: null,
  error: null,
});

/** The row and its turns as both sides show them. */
interface Seen {
  row: { epoch: number; owner: string | null; nonce: string | null; active: string | null; head: string | null } | null;
  turns: ({ state: string; author: string; epoch: number } | null)[];
  workers: boolean[];
}

interface Sides {
  model: ModelRows;
  store: ReturnType<typeof createMemoryStore>;
  clock: ReturnType<typeof createManualClock>;
  /** Epoch and revision of the row, and write count of the model, at the last read. */
  read: { epoch: number; revision: number; writes: number }[];
}

/** Arguments of a caller: small numbers, so that valid and invalid holds are both frequent. */
const hold = fc.record({
  me: fc.nat(WORKERS - 1),
  nonce: fc.integer({ min: 1, max: 3 }),
  epoch: fc.integer({ min: 1, max: 4 }),
});
/** The current hold of the row, or a made-up one. */
const caller = fc.oneof({ weight: 3, arbitrary: fc.constant('owner' as const) }, { weight: 1, arbitrary: hold });
const turn = fc.nat(TURNS - 1);
const commands = fc.array(
  fc.oneof(
    fc.record({ call: fc.constant('create' as const), by: hold, turn }),
    fc.record({ call: fc.constant('start' as const), by: caller, turn, head: fc.option(turn) }),
    fc.record({ call: fc.constant('start' as const), by: caller, turn, head: fc.constant('head' as const) }),
    fc.record({ call: fc.constant('settle' as const), by: caller, turn, end: fc.constantFrom(...ENDS) }),
    fc.record({ call: fc.constant('read' as const) }),
    fc.record({
      call: fc.constant('claim' as const),
      me: fc.nat(WORKERS - 1),
      nonce: fc.integer({ min: 1, max: 3 }),
      read: fc.nat(3),
    }),
    fc.record({ call: fc.constant('release' as const), by: caller }),
    fc.record({ call: fc.constant('expire' as const), worker: fc.nat(WORKERS - 1), judge: fc.boolean() }),
  ),
  { minLength: 5, maxLength: 40 },
);
type Command = typeof commands extends fc.Arbitrary<(infer C)[]> ? C : never;

async function begin(): Promise<Sides> {
  const clock = createManualClock();
  const store = createMemoryStore({ clock });
  for (let w = 0; w < WORKERS; w += 1) {
    await store.register({ id: worker(w), internalUrl: null, livenessPath: null, version: '1', leaseMs: LEASE });
  }
  return { model: createModelRows({ ...defaultBounds, workers: WORKERS, turns: TURNS }), store, clock, read: [] };
}

async function seenInStore({ store }: Sides): Promise<Seen> {
  const session = await store.session(SCOPE, SESSION);
  const workers = await store.workers();
  return {
    row: session && {
      epoch: session.epoch,
      owner: session.ownerWorkerId,
      nonce: session.ownerNonce,
      active: session.activeTurnId,
      head: session.headTurnId,
    },
    turns: await Promise.all(
      Array.from({ length: TURNS }, async (_, r) => {
        const row = await store.turn(SCOPE, turnId(r));
        return row && { state: row.state, author: row.authorWorkerId, epoch: row.epoch };
      }),
    ),
    workers: workers.map(({ state }) => state === 'dead'),
  };
}

function seenInModel({ model }: Sides): Seen {
  const { row, turns, dead } = model.look();
  return {
    row: row && {
      epoch: row.epoch,
      owner: row.owner === null ? null : worker(row.owner),
      nonce: row.nonce === null ? null : nonceOf(row.nonce),
      active: row.active === null ? null : turnId(row.active),
      head: row.head === null ? null : turnId(row.head),
    },
    turns: turns.map((each) => each && { ...each, author: worker(each.author) }),
    workers: [...dead],
  };
}

/** Performs one command on both sides; returns the two verdicts. */
async function perform(sides: Sides, command: Command): Promise<[model: unknown, store: unknown]> {
  const { model, store, clock } = sides;
  const { row } = model.look();
  const holdOf = (by: 'owner' | { me: number; nonce: number; epoch: number }) =>
    by === 'owner' ? { me: row?.owner ?? 0, nonce: row?.nonce ?? 1, epoch: row?.epoch ?? 1 } : by;
  const writer = ({ me, nonce, epoch }: { me: number; nonce: number; epoch: number }) => ({
    me: worker(me),
    nonce: nonceOf(nonce),
    epoch,
    scope: SCOPE,
    sessionId: SESSION,
    saved,
  });
  switch (command.call) {
    case 'create': {
      const by = { ...command.by, epoch: 1 };
      // The model names its session by the nonce that created it: another nonce is another session under the same key.
      const made = model.look().sid;
      const sessionId = made === null || made === by.nonce ? SESSION : `other-${by.nonce}`;
      const answer = await store.create({
        ...writer(by),
        sessionId,
        keys: [{ kind: 'thread', hash: 'key' }],
        upstreamId: 'u',
        model: null,
        headTurnId: null,
        turn: start(command.turn),
      });
      return [model.rows.create(by, command.turn), answer.verdict];
    }
    case 'start': {
      const by = holdOf(command.by);
      const head = command.head === 'head' ? (row?.head ?? null) : command.head;
      const call: StartCall = {
        ...writer(by),
        expectedHead: head === null ? null : turnId(head),
        turn: start(command.turn),
      };
      return [model.rows.start(by, command.turn, head === null ? 0 : head + 1), (await store.start(call)).verdict];
    }
    case 'settle': {
      const by = holdOf(command.by);
      const call: SettleCall = {
        ...writer(by),
        turnId: turnId(command.turn),
        result: result(command.end, command.turn),
      };
      return [model.settle(by, command.turn, command.end), (await store.settle(call)).verdict];
    }
    case 'read': {
      const session = await store.session(SCOPE, SESSION);
      if (session) sides.read.unshift({ epoch: session.epoch, revision: session.revision, writes: model.writes });
      return [null, null];
    }
    case 'claim': {
      const read = sides.read[command.read];
      if (!read) return [null, null];
      const answer = await store.claim({
        me: worker(command.me),
        nonce: nonceOf(command.nonce),
        scope: SCOPE,
        sessionId: SESSION,
        epochRead: read.epoch,
        revisionRead: read.revision,
      });
      const unchanged = read.writes === model.writes;
      return [model.rows.claim({ me: command.me, nonce: command.nonce }, read.epoch, unchanged), answer.verdict];
    }
    case 'release': {
      const by = holdOf(command.by);
      const call: ReleaseCall = writer(by);
      return [model.rows.release(by), (await store.release(call)).verdict];
    }
    case 'expire': {
      // The heartbeats of all other workers arrive in time.
      clock.advance(LEASE + 1);
      for (let w = 0; w < WORKERS; w += 1) {
        if (w === command.worker) continue;
        const { verdict } = await store.heartbeat(worker(w), 'serving', LEASE);
        expect(verdict).toBe(model.rows.isDead(w) ? 'dead' : 'ok');
      }
      if (!command.judge) {
        const { verdict } = await store.heartbeat(worker(command.worker), 'serving', LEASE);
        return [model.rows.isDead(command.worker) ? 'dead' : 'ok', verdict];
      }
      model.die(command.worker);
      return ['dead', (await store.declareExpired(worker(command.worker))).verdict];
    }
  }
}

describe('the rows of the model', () => {
  it(`The rows of the model answer and change as the store in memory does (seed ${SEED})`, async () => {
    const verdicts = new Map<string, number>();
    await fc.assert(
      fc.asyncProperty(commands, async (list) => {
        const sides = await begin();
        for (const command of list) {
          const [model, store] = await perform(sides, command);
          expect([command.call, model]).toEqual([command.call, store]);
          expect(seenInModel(sides)).toEqual(await seenInStore(sides));
          const name = `${command.call} ${store}`;
          verdicts.set(name, (verdicts.get(name) ?? 0) + 1);
        }
      }),
      { seed: SEED, numRuns: Number(process.env.MODEL_RUNS ?? 1_500) },
    );
    // Every verdict of the port occurred, so that the comparison is meaningful.
    const all = {
      create: ['ok', 'already', 'key_taken', 'fenced'],
      start: ['ok', 'already', 'ended', 'busy', 'head_moved', 'fenced'],
      settle: ['ok', 'already', 'branch'],
      claim: ['row', 'busy', 'lost_race', 'fenced'],
      release: ['ok', 'already', 'busy', 'fenced'],
    };
    const missing = Object.entries(all).flatMap(([call, names]) =>
      names.map((name) => `${call} ${name}`).filter((name) => !verdicts.has(name)),
    );
    expect(missing).toEqual([]);
  });
});
