import { execFileSync, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { digestOf, expectedDigest, startSimulator } from '../../src/testing/index.ts';
import { startProgram } from '../support/program.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';
import { startAppServer } from './app-server.ts';
import { type CodexProvider, codexExec, prepareCodexHome } from './codex.ts';
import { openaiForPython, pythonIn } from './python.ts';
import { startWebSocketTap } from './websocket-tap.ts';

const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');
/** Returns the ids of a supervisor's worker processes. */
const workersOf = (supervisor: number): number[] =>
  execFileSync('ps', ['-A', '-o', 'pid=,ppid=,command='], { encoding: 'utf8' })
    .split('\n')
    .map((line) => /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line))
    .filter((found) => Number(found?.[2]) === supervisor && found![3]!.includes('cli.'))
    .map((found) => Number(found![1]));
const command = (text: string) => `[call:exec_command ${JSON.stringify({ cmd: text })}]`;

/** Two workers behind one port, in front of a simulated upstream. */
async function startWorkers(home: string, upstreamUrl: string) {
  const port = await freePort();
  const bridge = startProgram(process.execPath, [CLI, 'serve', '--workers', '2'], {
    env: {
      PORT: String(port),
      HOLDFAST_DATA_DIR: join(home, 'holdfast'),
      HOLDFAST_UPSTREAM_URL: upstreamUrl,
      HOLDFAST_LAME_DUCK_MS: '0',
    },
  });
  await bridge.says('"msg":"registered"', 2);
  const url = `http://127.0.0.1:${port}`;
  await until(async () => (await fetch(`${url}/ready`)).ok);
  return { bridge, url };
}

/**
 * Runs the real Codex client over WebSockets through two workers behind one port: tools, a resume, several user turns in one
 * process, an interrupt, a fork, a compaction, and turns in the middle of which each of the workers is killed.
 */
export async function codexOverWebSocket(
  program: string,
  home: string,
  provider: Exclude<CodexProvider, 'http'>,
  check: (label: string, ok: boolean, detail?: string) => void,
): Promise<void> {
  const name = provider === 'built-in' ? 'the built-in provider' : 'a provider of its own';
  const simulator = await startSimulator({ reasoning: true, turnState: 'both' });
  const { bridge, url } = await startWorkers(home, simulator.url);
  const tap = await startWebSocketTap(() => url);
  await prepareCodexHome(home, `${tap.url}/v1`, provider);
  /** Waits until a turn is held at the upstream that was not held before. */
  const held = async () => until(async () => simulator.journal.of('held').length > holds);
  let holds = 0;
  const summary = () => JSON.stringify(tap.seen.slice(-12));
  try {
    const first = await codexExec(program, home, `Run two commands. [${command('echo one')}${command('echo two')}]`);
    check(`over WebSocket, ${name}: exec with two tool rounds exits 0`, first.code === 0, first.output.slice(-600));
    const run = tap.seen.map(({ warmUp, anchored, items }) => [warmUp, anchored, items]);
    check(
      'a warm-up, then only new items, on one connection',
      JSON.stringify(run.map(([warm, anchored]) => [warm, anchored])) ===
        '[[true,false],[false,true],[false,true],[false,true]]' &&
        new Set(tap.seen.map((each) => each.connection)).size === 1,
      JSON.stringify(run),
    );
    const resumed = await codexExec(program, home, 'And once more.', true);
    check('resume exits 0', resumed.code === 0, resumed.output.slice(-600));

    const server = await startAppServer(program, home);
    const thread = await server.startThread();
    const mark = tap.seen.length;
    await server.turn(thread, `First. ${command('echo three')}`);
    await server.turn(thread, `Second. ${command('echo four')}`);
    const turns = tap.seen.slice(mark);
    check(
      'two user turns in one process share one connection, and the second is one new item',
      new Set(turns.map(({ connection }) => connection)).size === 1 && turns.at(-2)?.items === 1,
      summary(),
    );

    const pids = workersOf(bridge.pid);
    check('there are two workers', pids.length === 2, pids.join());
    let broken = 0;
    let killed = 0;
    for (const pid of pids) {
      const before = tap.seen.length;
      const text = `Survive the end of ${pid}.`;
      const hold = simulator.script.onTurn({ input: text }, { kind: 'hold', at: { deltas: 1 } }, { times: 1 });
      holds = simulator.journal.of('held').length;
      const turn = server.turn(thread, `${text} ${command('echo alive')}`);
      await held();
      process.kill(pid, 'SIGKILL');
      hold.release();
      await turn;
      if (tap.seen.slice(before).some(({ end }) => end !== 'response.completed')) broken += 1;
      // The supervisor starts another one.
      killed += 1;
      await bridge.says('"msg":"registered"', pids.length + killed);
    }
    check('both workers were killed in the middle of a turn, and all turns ended', broken > 0, summary());

    const hold = simulator.script.onTurn({ input: 'Take long' }, { kind: 'hold', at: { deltas: 1 } });
    holds = simulator.journal.of('held').length;
    const ended = await server.interrupted(thread, 'Take long over this.', held);
    check('an interrupt ends the turn', ended === 'interrupted', ended);
    await server.turn(thread, 'Something else instead.');
    hold.release();
    const copy = await server.fork(thread);
    await server.turn(copy, `On the other branch. ${command('echo five')}`);
    await server.turn(thread, 'On the first branch.');
    await server.compact(thread);
    await server.turn(thread, `After the compaction. ${command('echo six')}`);
    await server.close();

    const whole = tap.seen.filter(({ exact }) => exact !== null);
    check(
      `every one of ${whole.length} answers was given the context its client meant`,
      whole.length > 12 && whole.every(({ exact }) => exact),
      summary(),
    );
    check(
      'the client never fell back to HTTP',
      tap.plain.filter((line) => line.endsWith('/responses')).length === 0,
      tap.plain.join(),
    );
    console.log(
      `     ${tap.seen.length} creates on ${new Set(tap.seen.map(({ connection }) => connection)).size} connections, ` +
        `${tap.seen.filter(({ anchored }) => anchored).length} with an anchor, ` +
        `${tap.seen.reduce((sum, { deltas }) => sum + deltas, 0)} deltas`,
    );
  } finally {
    await tap.close();
    bridge.signal('SIGTERM');
    await bridge.gone;
    await simulator.close();
  }
}

/**
 * Runs a tool conversation on the WebSocket of Python's openai package through two workers, which are both killed in the middle
 * of a turn.
 */
export async function pythonOverWebSocket(
  scratch: string,
  home: string,
  check: (label: string, ok: boolean, detail?: string) => void,
): Promise<void> {
  try {
    await openaiForPython.install(scratch);
  } catch (error) {
    return console.log(`     the openai package for Python is skipped: ${error}`);
  }
  const python = pythonIn(scratch, 'openai');
  const simulator = await startSimulator();
  const { bridge, url } = await startWorkers(home, simulator.url);
  const script = join(import.meta.dirname, 'responses_websocket.py');
  const client = spawn(python, [script, `${url}/v1`, '5'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const history: object[] = [];
  const again: string[] = [];
  let right = 0;
  let turns = 0;
  try {
    const hold = simulator.script.onTurn({ input: 'Turn 2.' }, { kind: 'hold', at: { deltas: 1 } }, { times: 1 });
    for await (const line of createInterface({ input: client.stdout })) {
      const told = JSON.parse(line) as { input?: object[]; output: object[]; tools: object[]; again?: string };
      if (!told.input) {
        again.push(line);
        continue;
      }
      history.push(...told.input);
      if (digestOf({ output: told.output } as never) === expectedDigest({ items: history as never, tools: told.tools }))
        right += 1;
      history.push(...told.output);
      turns += 1;
      client.stdin.write('\n');
      if (turns !== 2) continue;
      await until(async () => simulator.journal.of('held').length > 0);
      for (const pid of workersOf(bridge.pid)) process.kill(pid, 'SIGKILL');
      hold.release();
    }
    check(
      'over WebSocket, the openai package for Python: five turns, with all workers killed in the third',
      turns === 5 && right === 5 && again.length > 0,
      `${turns} turns, ${right} right\n     ${again.slice(0, 3).join('\n     ')}`,
    );
  } finally {
    client.kill('SIGKILL');
    bridge.signal('SIGTERM');
    await bridge.gone;
    await simulator.close();
  }
}
