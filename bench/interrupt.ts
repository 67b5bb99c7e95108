import { ownDatabase } from '../test/chaos/world.ts';
import { startTestBridge } from '../test/support/bridge.ts';
import { openLive } from '../test/support/live-client.ts';
import { user } from '../test/support/messages.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures an interrupt: time from the arrival of the client's new prompt to its frame at the provider. The old socket
 * is retired, so the figure includes a handshake with the simulated upstream on loopback.
 */
const ROUNDS = Number(process.env.BENCH_ROUNDS ?? 200);

const database = await ownDatabase();
process.env.TEST_DATABASE_URL = database.server().url;
const at = await startTestBridge({ simulator: { deltaCount: 5, journalBodies: false } });
const waits: number[] = [];
try {
  for (let round = 0; round < ROUNDS; round += 1) {
    const headers = { 'thread-id': `interrupt-${round}` };
    const body = { model: 'm', store: false, input: [user('one')] };
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
    const first = await openLive(at.url, body, headers);
    await first.until('response.output_text.delta');
    first.hangUp();
    const turn = at.simulator.journal.of('create').length + 1;
    const startedAt = performance.now();
    const [second] = await Promise.all([
      openLive(at.url, { ...body, input: [user('one'), user('two')] }, headers),
      at.simulator
        .waitFor('create', (create) => create.turn >= turn)
        .then(() => {
          waits.push(performance.now() - startedAt);
        }),
    ]);
    if (second.headers['x-holdfast-outcome'] !== 'superseded') throw new Error('not superseded');
    await second.rest();
    held.release();
    held.remove();
  }
} finally {
  await at.close();
  await database.close();
}
console.log(`${thisMachine()}; ${ROUNDS} interrupts`);
console.table([
  {
    figure: 'new prompt to its frame, handshake included',
    p50: show(percentile(waits, 0.5)),
    p99: show(percentile(waits, 0.99)),
  },
]);
