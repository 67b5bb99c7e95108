import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { freshDatabase } from '../support/database.ts';
import { seeded } from '../support/random.ts';
import { claimedLane, completed, key, type Lane, lane, newWorker, turnStart } from './calls.ts';
import { type Cut, type FaultyProxy, faultyProxy } from './faulty-proxy.ts';

const TRIES = 300;
const SEED = Number(process.env.TEST_SEED ?? 20_261);

let database: Awaited<ReturnType<typeof freshDatabase>>;
let proxy: FaultyProxy;
/** Connects through the proxy, over one connection. */
let store: SessionStore;
/** Connects directly, to read the actual rows. */
let witness: SessionStore;

beforeAll(async () => {
  database = await freshDatabase();
  proxy = await faultyProxy(database.url);
  witness = await openPostgresStore({ url: database.url, poolSize: 2 });
  store = await openPostgresStore({ url: proxy.url, poolSize: 1 });
});
afterAll(async () => {
  await Promise.all([store.shutdown(), witness.shutdown()]);
  await proxy.close();
  await database.drop();
});

interface Step {
  sessionId: string;
  name: string;
  call(): Promise<{ verdict: string }>;
  /** Expected verdict of a call that is carried out now, and of one that had been carried out before. */
  fresh: string;
  repeated: string;
  /** Expected session row afterwards, however often the call was made. */
  after: object;
}

/** Returns the life of one session: every fence call, in an order in which each is carried out exactly once. */
function life(workers: readonly [string, string]): readonly Step[] {
  const [me, other] = workers;
  const made = lane(me, { keys: [key()] });
  const second = turnStart({ parentTurnId: made.firstTurn.id });
  const third = turnStart({ parentTurnId: second.id });
  const nonces = [randomUUID(), randomUUID()] as const;
  const taken: Lane = claimedLane(made, other, nonces[0], 2);
  const retaken: Lane = claimedLane(made, me, nonces[1], 3);
  const results = [completed(), completed(), completed()] as const;
  const { scope, sessionId } = made;
  const claim = (by: string, nonce: string, epochRead: number, revisionRead: number) => () =>
    store.claim({ scope, sessionId, me: by, nonce, epochRead, revisionRead });
  return [
    {
      sessionId,
      name: 'create',
      call: () => store.create(made.create),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 1, epoch: 1, activeTurnId: made.firstTurn.id, headTurnId: null },
    },
    {
      sessionId,
      name: 'settle',
      call: () => store.settle(made.settle(made.firstTurn.id, results[0])),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 2, epoch: 1, activeTurnId: null, headTurnId: made.firstTurn.id },
    },
    {
      sessionId,
      name: 'start',
      call: () => store.start(made.start({ turn: second, expectedHead: made.firstTurn.id })),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 3, epoch: 1, activeTurnId: second.id, headTurnId: made.firstTurn.id },
    },
    {
      sessionId,
      name: 'settle',
      call: () => store.settle(made.settle(second.id, results[1])),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 4, epoch: 1, activeTurnId: null, headTurnId: second.id },
    },
    {
      sessionId,
      name: 'claim',
      call: claim(other, nonces[0], 1, 4),
      fresh: 'row',
      repeated: 'row',
      after: { revision: 5, epoch: 2, ownerWorkerId: other, ownerNonce: nonces[0] },
    },
    {
      sessionId,
      name: 'release',
      call: () => store.release(taken.hold()),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 6, epoch: 2, ownerWorkerId: null, ownerNonce: null },
    },
    {
      sessionId,
      name: 'claim',
      call: claim(me, nonces[1], 2, 6),
      fresh: 'row',
      repeated: 'row',
      after: { revision: 7, epoch: 3, ownerWorkerId: me },
    },
    {
      sessionId,
      name: 'start',
      call: () => store.start(retaken.start({ turn: third, expectedHead: second.id })),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 8, epoch: 3, activeTurnId: third.id, headTurnId: second.id },
    },
    {
      sessionId,
      name: 'settle',
      call: () => store.settle(retaken.settle(third.id, results[2])),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 9, epoch: 3, activeTurnId: null, headTurnId: third.id },
    },
    {
      sessionId,
      name: 'close',
      call: () => store.close(retaken.hold()),
      fresh: 'ok',
      repeated: 'already',
      after: { revision: 10, epoch: 3, state: 'closed', ownerWorkerId: null, headTurnId: third.id },
    },
  ];
}

test(`Calls whose connection breaks are repeated until answered, and applied once (seed ${SEED})`, async () => {
  const random = seeded(SEED);
  const workers = [await newWorker(witness), await newWorker(witness)] as const;
  const tally = { unbroken: 0, lostRequest: 0, lostAnswer: 0 };
  let tries = 0;
  while (tries < TRIES) {
    for (const step of life(workers)) {
      tries += 1;
      let unknowns = 0;
      for (;;) {
        proxy.arm(unknowns < 3 ? randomCut(random) : null);
        const { verdict } = await step.call();
        proxy.arm(null);
        if (verdict === 'unknown') {
          unknowns += 1;
          continue;
        }
        const allowed = unknowns === 0 ? [step.fresh] : [step.fresh, step.repeated];
        expect(allowed, `try ${tries}, ${step.name} after ${unknowns} lost answers`).toContain(verdict);
        if (unknowns === 0) tally.unbroken += 1;
        else if (verdict === step.fresh) tally.lostRequest += 1;
        else tally.lostAnswer += 1;
        break;
      }
      expect(await witness.sessionById(step.sessionId), `try ${tries}, ${step.name}`).toMatchObject(step.after);
    }
  }
  // Every class must have occurred, otherwise the run proves nothing.
  expect(Math.min(tally.unbroken, tally.lostRequest, tally.lostAnswer), JSON.stringify(tally)).toBeGreaterThan(20);
});

/**
 * Returns a random cut. On an open connection the first chunk is the call itself; on a new one the first few are the
 * handshake.
 */
function randomCut(random: () => number): Cut | null {
  if (random() < 0.3) return null;
  const where = (['request', 'answer', 'flight'] as const)[Math.floor(random() * 3)]!;
  return { chunk: random() < 0.7 ? 1 : 1 + Math.floor(random() * 5), where };
}
