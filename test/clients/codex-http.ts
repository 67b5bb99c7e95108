import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { startSimulator } from '../../src/testing/index.ts';
import { freePort, startWorker } from '../support/worker-process.ts';
import { startAppServer } from './app-server.ts';
import type { Check } from './client.ts';
import { codexExec, prepareCodexHome } from './codex.ts';
import { startTap } from './tap.ts';

/**
 * Runs the real Codex client over HTTP through one worker: tools, several user turns in one process, a resume in another, an
 * interrupt, a broken answer, a fork and a compaction. The requests that reach the simulated provider are counted.
 */
export async function codexOverHttp(program: string, home: string, check: Check): Promise<void> {
  const simulator = await startSimulator({ reasoning: true, turnState: 'both' });
  const port = await freePort();
  const worker = await startWorker({
    PORT: String(port),
    HOLDFAST_DATA_DIR: join(home, 'holdfast'),
    HOLDFAST_UPSTREAM_URL: simulator.url,
    HOLDFAST_KEEPALIVE_MS: '500',
  });
  const tap = await startTap(() => `http://127.0.0.1:${port}`);
  await prepareCodexHome(home, `${tap.url}/v1`);
  const creates = () => simulator.journal.of('create');
  const command = (text: string) => `[call:exec_command ${JSON.stringify({ cmd: text })}]`;

  try {
    // Longer than several keepalives, so that the client has to skip the comments.
    simulator.script.onTurn({ nth: 2 }, { kind: 'drip', everyMs: 150 }, { times: 1 });
    const first = await codexExec(program, home, `Run two commands. [${command('echo one')}${command('echo two')}]`);
    check('exec with two tool rounds exits 0', first.code === 0, first.output.slice(-600));
    const run = creates();
    check('it took three requests', run.length === 3, `${run.length}`);
    check(
      'the second and later went out as the new items only',
      run.slice(1).every(({ itemsReceived, previousResponseId }) => itemsReceived === 1 && previousResponseId !== null),
      JSON.stringify(run.map(({ itemsReceived, previousResponseId }) => [itemsReceived, previousResponseId])),
    );
    check('on one socket', new Set(run.map(({ connection }) => connection)).size === 1);

    const before = creates().length;
    const resumed = await codexExec(program, home, 'And once more.', true);
    check('resume exits 0', resumed.code === 0, resumed.output.slice(-600));
    const [after] = creates().slice(before);
    check(
      'the resumed turn continues the same socket',
      after?.connection === run[0]?.connection && after?.previousResponseId != null,
      JSON.stringify({ connection: after?.connection, items: after?.itemsReceived, anchor: after?.previousResponseId }),
    );

    const mark = creates().length;
    const server = await startAppServer(program, home);
    const thread = await server.startThread();
    await server.turn(thread, `First. ${command('echo three')}`);
    const middle = creates().length;
    await server.turn(thread, `Second. ${command('echo four')}`);
    const turns = creates().slice(mark);
    check('two user turns in one process', turns.length === 4, `${turns.length}`);
    check('share one socket', new Set(turns.map(({ connection }) => connection)).size === 1);
    check(
      'every request but the first is a delta, also at the second user turn',
      turns.slice(1).every(({ previousResponseId }) => previousResponseId !== null),
      JSON.stringify(turns.map(({ itemsReceived, previousResponseId }) => [itemsReceived, previousResponseId])),
    );
    const second = creates()[middle];
    check('the second user turn is one new item', second?.itemsReceived === 1, `${second?.itemsReceived}`);

    const hold = simulator.script.onTurn({ input: 'Take long' }, { kind: 'hold', at: { deltas: 1 } });
    const ended = await server.interrupted(thread, 'Take long over this.', () => simulator.waitFor('held'));
    check('an interrupt ends the turn', ended === 'interrupted', ended);
    await server.turn(thread, 'Something else instead.');
    hold.release();
    check(
      'the prompt after it runs at once',
      tap.seen.at(-1)?.exact === true,
      JSON.stringify(tap.seen.at(-1)?.outcome),
    );
    check('its outcome says why', tap.seen.at(-1)?.outcome === 'superseded', tap.seen.at(-1)?.outcome);

    const broken = tap.seen.length;
    simulator.script.onTurn({ input: 'Broken off' }, { kind: 'reset', at: { deltas: 2 } });
    await server.turn(thread, `Broken off once. ${command('echo again')}`);
    const repeats = tap.seen.slice(broken);
    check(
      'an answer that breaks off is repeated by the client and goes on',
      repeats.length > 2 && repeats.at(-1)?.exact === true,
      JSON.stringify(repeats.map(({ outcome, exact }) => [outcome, exact])),
    );

    const copy = await server.fork(thread);
    await server.turn(copy, `On the other branch. ${command('echo five')}`);
    await server.turn(thread, 'On the first branch.');
    check(
      'both branches of a fork go on',
      tap.seen.slice(-3).every(({ exact }) => exact === true),
    );

    await server.compact(thread);
    await server.turn(thread, `After the compaction. ${command('echo six')}`);
    check(
      'a compacted thread goes on',
      tap.seen.slice(-2).every(({ exact }) => exact === true),
    );
    await server.close();

    const whole = tap.seen.filter(({ exact }) => exact !== null);
    check(
      `every one of ${whole.length} answers was given the context its client meant`,
      whole.length > 12 && whole.every(({ exact }) => exact),
      JSON.stringify(tap.seen.map(({ outcome, exact, cut }) => [outcome, exact, cut])),
    );
    console.log(
      tap.seen
        .map(({ outcome, exact, cut }) => `${outcome}${exact === null ? ' (no digest)' : ''}${cut ? ' (cut)' : ''}`)
        .join(', '),
    );
  } finally {
    await tap.close();
    await worker.stop();
    await simulator.close();
    await rm(home, { recursive: true, force: true });
  }
}
