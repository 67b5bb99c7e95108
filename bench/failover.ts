import { startSimulator } from '../src/testing/index.ts';
import { type FleetWorker, startFleet } from '../test/chaos/fleet.ts';
import { ownDatabase } from '../test/chaos/world.ts';
import { post } from '../test/support/client.ts';
import { openLive } from '../test/support/live-client.ts';
import { user } from '../test/support/messages.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures how long the next request waits after the owner of its session was killed or stopped (SIGSTOP): once while
 * the session was idle, and once while a turn ran (then until the repeated request is answered).
 */
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 8);
const SESSIONS = Number(process.env.BENCH_SESSIONS ?? 12);
const BUSY_ROUNDS = Number(process.env.BENCH_BUSY_ROUNDS ?? 3);

const database = await ownDatabase();
const simulator = await startSimulator({ journalBodies: false });
const fleet = await startFleet({ workers: 2, databaseUrl: database.server().url, upstreamUrl: simulator.url });
const ask = async (worker: FleetWorker, thread: string, input: object[]) => {
  const startedAt = performance.now();
  const answer = await post(worker.url, { model: 'm', stream: true, store: false, input }, { 'thread-id': thread });
  if (answer.status !== 200) throw new Error(answer.text);
  return {
    ms: performance.now() - startedAt,
    outcome: answer.headers['x-holdfast-outcome'],
    output: answer.body.output,
  };
};

const figures: Record<string, number[]> = { warm: [], killed: [], stopped: [] };
const busy: Record<string, number[]> = { killed: [], stopped: [] };
try {
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const how of ['killed', 'stopped'] as const) {
      const [victim, other] = fleet.workers as [FleetWorker, FleetWorker];
      const talks = Array.from({ length: SESSIONS }, (_, index) => `${how}-${round}-${index}`);
      const histories = new Map<string, object[]>();
      for (const thread of talks) {
        const { output } = await ask(victim, thread, [user('one')]);
        const second = [user('one'), ...output, user('two')];
        const warm = await ask(victim, thread, second);
        figures.warm!.push(warm.ms);
        histories.set(thread, [...second, ...warm.output, user('three')]);
      }
      if (how === 'killed') await victim.kill();
      else victim.pause();
      for (const thread of talks) {
        const { ms, outcome } = await ask(other, thread, histories.get(thread)!);
        if (outcome !== 'stale_recovery') throw new Error(`outcome ${outcome}`);
        figures[how]!.push(ms);
      }
      if (how === 'stopped') {
        victim.resume();
        await victim.kill();
      }
      await victim.start();
    }
  }
  for (let round = 0; round < BUSY_ROUNDS; round += 1) {
    for (const how of ['killed', 'stopped'] as const) {
      const [victim, other] = fleet.workers as [FleetWorker, FleetWorker];
      const thread = `busy-${how}-${round}`;
      const held = simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
      const body = { model: 'm', store: false, input: [user('one')] };
      const client = await openLive(victim.url, body, { 'thread-id': thread });
      await client.until('response.output_text.delta');
      held.remove();
      const startedAt = performance.now();
      if (how === 'killed') await victim.kill();
      else victim.pause();
      const { outcome } = await ask(other, thread, [user('one')]);
      if (outcome !== 'stale_recovery') throw new Error(`outcome ${outcome}`);
      busy[how]!.push(performance.now() - startedAt);
      held.release();
      client.hangUp();
      if (how === 'stopped') {
        victim.resume();
        await victim.kill();
      }
      await victim.start();
    }
  }
} finally {
  await fleet.close();
  await simulator.close();
  await database.close();
}

console.log(`${thisMachine()}; ${ROUNDS} rounds of ${SESSIONS} sessions each way, whole turns`);
const warm = figures.warm!;
console.table(
  Object.entries(figures).map(([name, values]) => ({
    'owner of the session': name === 'warm' ? 'alive (its own client)' : name,
    p50: show(percentile(values, 0.5)),
    p99: show(percentile(values, 0.99)),
    'added p50': show(percentile(values, 0.5) - percentile(warm, 0.5)),
    'added p99': show(percentile(values, 0.99) - percentile(warm, 0.99)),
  })),
);
console.table(
  Object.entries(busy).map(([name, values]) => ({
    'owner of the running turn': name,
    rounds: values.length,
    'answered elsewhere after, median': show(percentile(values, 0.5)),
    'at most': show(Math.max(...values)),
  })),
);
