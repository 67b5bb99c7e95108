import { afterAll, beforeAll, expect, it } from 'vitest';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { chance } from '../../src/testing/simulator/seeded.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { type Answer, post, terminalsOf } from '../support/client.ts';
import { user } from '../support/messages.ts';

const CONVERSATIONS = Number(process.env.SOAK_CONVERSATIONS ?? 200);
const TURNS = Number(process.env.SOAK_TURNS ?? 20);
const SEED = Number(process.env.SOAK_SEED ?? Math.floor(Math.random() * 1e9));

let at: TestBridge;
beforeAll(async () => {
  at = await startTestBridge({
    simulator: { seed: SEED, journalBodies: false, reasoning: true },
    store: { poolSize: 20 },
    env: {
      HOLDFAST_UPSTREAM_TRANSPORT: 'websocket',
      HOLDFAST_FIRST_EVENT_MS: '3000',
      HOLDFAST_STREAM_SILENCE_MS: '3000',
      HOLDFAST_REQUEST_HOLD_MS: '60000',
    },
  });
});
afterAll(() => at?.close());

const rates = {
  close_before_created: 0.02,
  close_after_created: 0.01,
  close_after_deltas: 0.01,
  close_after_item_done: 0.01,
  close_after_terminal: 0.02,
  reset_before_created: 0.02,
  reset_after_deltas: 0.01,
  error_before_created: 0.01,
  error_after_created: 0.01,
  server_error: 0.01,
  overloaded: 0.01,
  rate_limited: 0.01,
  failed: 0.01,
  incomplete: 0.01,
  refuse_anchor: 0.02,
  refuse_anchor_terse: 0.01,
  malformed: 0.01,
  unknown_events: 0.02,
  duplicate_terminal: 0.02,
  telemetry: 0.02,
  silence_before_created: 0.003,
  silence_after_created: 0.003,
  refuse_upgrade: 0.03,
  reset_upgrade: 0.03,
  close_after_upgrade: 0.03,
};

const tally = { mismatches: 0, badTerminals: 0, completed: 0, attempts: 0, outcomes: {} as Record<string, number> };

/**
 * Runs a client like those in use: it resends its history or anchors to the last response, and repeats failed requests.
 */
async function converse(conversation: number): Promise<void> {
  const keyed = chance(SEED, 'keyed', conversation) < 0.7;
  const anchored = chance(SEED, 'anchored', conversation) < 0.4;
  const store = chance(SEED, 'store', conversation) < 0.5;
  const headers: Record<string, string> = keyed ? { 'thread-id': `c-${SEED}-${conversation}` } : {};
  const history: object[] = [];
  let anchor: string | null = null;
  for (let turn = 0; turn < TURNS; turn += 1) {
    const next = user(`conversation ${conversation} turn ${turn}`);
    let useAnchor = anchored && anchor !== null;
    for (let attempt = 0; ; attempt += 1) {
      const answer: Answer = await post(
        at.url,
        {
          model: 'm',
          stream: true,
          store,
          include: ['reasoning.encrypted_content'],
          input: useAnchor ? [next] : [...history, next],
          ...(useAnchor ? { previous_response_id: anchor } : {}),
        },
        headers,
      );
      tally.attempts += 1;
      const outcome = answer.headers['x-holdfast-outcome'] ?? 'none';
      tally.outcomes[outcome] = (tally.outcomes[outcome] ?? 0) + 1;
      if (answer.status === 200 && terminalsOf(answer).length !== 1) tally.badTerminals += 1;
      if (answer.status === 200 && (answer.body.status === 'completed' || answer.body.status === 'incomplete')) {
        const digest = digestOf(answer.body);
        const expected = expectedDigest({ items: [...history, next] as never });
        if (answer.body.status === 'completed' && digest !== expected) tally.mismatches += 1;
        tally.completed += 1;
        history.push(next, ...answer.body.output);
        anchor = answer.body.id;
        break;
      }
      // Every client reacts to this code by resending the whole conversation without the anchor.
      if (answer.body.error?.code === 'previous_response_not_found') useAnchor = false;
      if (attempt > 20)
        throw new Error(`turn ${turn} of conversation ${conversation} never ended well: ${answer.text.slice(-300)}`);
    }
  }
}

it(`${CONVERSATIONS} conversations of ${TURNS} turns keep their context whatever the upstream does (seed ${SEED})`, async () => {
  console.log(`seed ${SEED}`);
  const chaos = at.simulator.chaos({ seed: SEED, rates });
  await Promise.all(Array.from({ length: CONVERSATIONS }, (_, index) => converse(index)));
  chaos.stop();
  const creates = at.simulator.journal.of('create');
  const deltas = creates.filter(({ previousResponseId }) => previousResponseId !== null).length;
  console.log({ ...tally, faults: chaos.injected.length, creates: creates.length, deltas });
  expect(tally.mismatches).toBe(0);
  expect(tally.badTerminals).toBe(0);
  expect(tally.completed).toBe(CONVERSATIONS * TURNS);
  expect(chaos.injected.length).toBeGreaterThan(CONVERSATIONS);
  const states = at.bridge.sessions().map(({ state }) => state);
  expect(states.filter((state) => !['live.idle', 'stale', 'closed'].includes(state))).toEqual([]);
}, 300_000);
