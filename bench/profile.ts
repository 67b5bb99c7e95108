import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../src/store/embedded/index.ts';
import { freePort } from '../test/support/worker-process.ts';
import { percentile, thisMachine } from './machine.ts';
import { Conversation, closeClient, codexEcho, type Script, shortScript } from './peers/load.ts';
import { type Around, holdfast, type Peer, startUpstream } from './peers/proxies.ts';
import { processorTime } from './peers/system.ts';

/**
 * Shows what a warm turn costs one worker at saturation: its processor time, and a CPU profile by module and by function.
 * With `--compare`, another tree runs beside this one, and short windows of both alternate: what else the machine does then
 * affects both alike. The code must be warm before it is measured, which takes some thousand turns.
 */
const USAGE = `npm run bench:profile -- [options]

  --codex            turns like those of Codex, eight at once; default: short turns, 16 at once
  --compare FOLDER   measure another tree beside this one, without a profile
  --rounds N         windows of each tree; default 8 with --compare, else 1
  --turns N          turns of one window; default 500, and 2000 for the profile
  --warm N           turns before the first window; default 3000
  --top N            functions shown; default 40
  --out FILE         also write the profile as a .cpuprofile
`;

const { values: options } = parseArgs({
  options: {
    codex: { type: 'boolean', default: false },
    compare: { type: 'string' },
    rounds: { type: 'string' },
    turns: { type: 'string' },
    warm: { type: 'string', default: '3000' },
    top: { type: 'string', default: '40' },
    out: { type: 'string' },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (options.help) {
  process.stdout.write(USAGE);
  process.exit(0);
}

const WINDOW_TURNS = Number(options.turns ?? 500);
const PROFILED_TURNS = Number(options.turns ?? 2_000);
const WARM_TURNS = Number(options.warm);
const ROUNDS = Number(options.rounds ?? (options.compare === undefined ? 1 : 8));
const STREAMS = options.codex ? 8 : 16;
/** Turns of one conversation of short turns, after which the client begins another. */
const SHORT_TURNS = 25;
/** Items before the first turn of each conversation like those of Codex, in turn. */
const CODEX_ITEMS = [1, 20, 100, 500];
/** Turns of one conversation like those of Codex. */
const CODEX_TURNS = 60;
const SAMPLE_MICROSECONDS = 250;

const script: Script = options.codex
  ? { reply: 'call', deltas: 12, gapMs: 0, echo: codexEcho, reasoningBytes: 1_600 }
  : shortScript;

/** Endless turns through one peer. */
function load(peer: Peer) {
  const begin = (stream: number) =>
    options.codex
      ? new Conversation(peer, 'codex', { items: CODEX_ITEMS[stream % CODEX_ITEMS.length]! })
      : new Conversation(peer, 'short');
  const conversations = Array.from({ length: STREAMS }, (_, stream) => begin(stream));
  /** Runs turns until `over` returns true, and returns their number. */
  return async (over: (turns: number) => boolean): Promise<number> => {
    let turns = 0;
    await Promise.all(
      conversations.map(async (_, stream) => {
        while (!over(turns)) {
          if (conversations[stream]!.turns >= (options.codex ? CODEX_TURNS : SHORT_TURNS)) {
            conversations[stream] = begin(stream);
          }
          await conversations[stream]!.turn();
          turns += 1;
        }
      }),
    );
    return turns;
  };
}

/** Runs a window of turns. Times are milliseconds of a processor, for each turn: of all threads, and of the main one. */
async function measure(peer: Peer, run: ReturnType<typeof load>, least: number) {
  const spent = processorTime(peer.pid);
  const main = () => Number(readFileSync(`/proc/${peer.pid}/task/${peer.pid}/schedstat`, 'utf8').split(' ')[0]) / 1e6;
  const mainBefore = main();
  const from = performance.now();
  const turns = await run((done) => done >= least);
  const seconds = (performance.now() - from) / 1_000;
  return { turns, perSecond: turns / seconds, cpu: spent().own / turns, main: (main() - mainBefore) / turns };
}

interface ProfileNode {
  id: number;
  callFrame: { functionName: string; url: string; lineNumber: number };
  children?: number[];
}
interface Profile {
  nodes: ProfileNode[];
  samples: number[];
  timeDeltas: number[];
}

/** Talks to the debugger of a process that was started with `--inspect`. */
async function debuggerAt(port: number) {
  const [target] = (await (await fetch(`http://127.0.0.1:${port}/json`)).json()) as { webSocketDebuggerUrl: string }[];
  const socket = new WebSocket(target!.webSocketDebuggerUrl);
  await new Promise((opened) => socket.addEventListener('open', opened, { once: true }));
  let last = 0;
  return {
    call: <T>(method: string, params: object = {}) =>
      new Promise<T>((done, failed) => {
        const id = (last += 1);
        const take = ({ data }: MessageEvent) => {
          const answer = JSON.parse(String(data)) as { id: number; result: T; error?: { message: string } };
          if (answer.id !== id) return;
          socket.removeEventListener('message', take);
          if (answer.error) failed(new Error(answer.error.message));
          else done(answer.result);
        };
        socket.addEventListener('message', take);
        socket.send(JSON.stringify({ id, method, params }));
      }),
    close: () => socket.close(),
  };
}

/** Returns the part of the program to which a function belongs. */
function moduleOf({ functionName, url }: ProfileNode['callFrame']): string {
  if (functionName === '(garbage collector)') return 'garbage collection';
  if (functionName === '(program)') return 'program (V8, libuv, system calls)';
  if (functionName === '(idle)') return 'idle';
  if (url.startsWith('node:')) return 'node internals';
  const library = /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(url)?.[1];
  if (library) return library;
  const own = /\/(src\/[^/]+|machines)(?:\/|$)/.exec(url)?.[1];
  return own ?? (url === '' ? 'native functions' : basename(url));
}

const titleOf = ({ functionName, url, lineNumber }: ProfileNode['callFrame']) => {
  const file = url.replace(/^.*\/node_modules\//, '').replace(/^.*\/(src|machines)\//, '$1/');
  return `${functionName || '(anonymous)'}${url === '' ? '' : `  ${file}:${lineNumber + 1}`}`;
};

/** Prints the largest sums, each as a share of all and as microseconds of one turn. */
function print(title: string, sums: ReadonlyMap<string, number>, all: number, turnUs: number, most: number): void {
  console.log(`\n${title}\n`);
  for (const [name, sum] of [...sums].sort(([, a], [, b]) => b - a).slice(0, most)) {
    const share = sum / all;
    console.log(`${(100 * share).toFixed(1).padStart(6)} %${(turnUs * share).toFixed(1).padStart(9)} us  ${name}`);
  }
}

/** @param turnUs processor time of the main thread for one turn, in microseconds */
function report({ nodes, samples, timeDeltas }: Profile, turnUs: number): void {
  const self = new Map<number, number>();
  samples.forEach((id, nth) => {
    // Where other processes take the processor, one sample stands for the whole wait.
    const us = Math.min(timeDeltas[nth + 1] ?? 0, 2 * SAMPLE_MICROSECONDS);
    self.set(id, (self.get(id) ?? 0) + us);
  });
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const [modules, functions, whole, wholeModules] = [0, 1, 2, 3].map(() => new Map<string, number>()) as [
    Map<string, number>,
    Map<string, number>,
    Map<string, number>,
    Map<string, number>,
  ];
  const add = (sums: Map<string, number>, name: string, us: number) => sums.set(name, (sums.get(name) ?? 0) + us);
  let busy = 0;
  const visit = (node: ProfileNode, above: readonly string[], modulesAbove: readonly string[]): number => {
    const us = self.get(node.id) ?? 0;
    const [title, module] = [titleOf(node.callFrame), moduleOf(node.callFrame)];
    if (module !== 'idle') {
      busy += us;
      add(modules, module, us);
      add(functions, title, us);
    }
    const [below, modulesBelow] = [
      [...above, title],
      [...modulesAbove, module],
    ];
    let total = us;
    for (const child of node.children ?? []) total += visit(byId.get(child)!, below, modulesBelow);
    if (!above.includes(title)) add(whole, title, total);
    if (!modulesAbove.includes(module)) add(wholeModules, module, total);
    return total;
  };
  visit(nodes[0]!, [], []);
  for (const sums of [whole, wholeModules]) for (const name of ['(root)', '(idle)', 'idle']) sums.delete(name);
  const most = Number(options.top);
  print('Self time by module', modules, busy, turnUs, 40);
  print('Time by module, with everything that it calls', wholeModules, busy, turnUs, 25);
  print('Self time by function', functions, busy, turnUs, most);
  print('Time by function, with everything that it calls', whole, busy, turnUs, 2 * most);
}

const home = await mkdtemp(join(tmpdir(), 'hf-profile-'));
const postgres = await startEmbeddedPostgres({ dataDir: join(home, 'database'), settings: ['max_connections=300'] });
const upstream = await startUpstream();
const around: Around = { upstream: upstream.port, postgres: postgres.url, home };
const here = resolve(import.meta.dirname, '..');
const peers: Peer[] = [];
try {
  await fetch(`http://127.0.0.1:${upstream.port}/__script`, { method: 'POST', body: JSON.stringify(script) });
  const debugPort = await freePort();
  const trees = options.compare === undefined ? [here] : [here, resolve(options.compare)];
  for (const [nth, tree] of trees.entries()) {
    const flags = options.compare === undefined ? { flags: [`--inspect=127.0.0.1:${debugPort}`] } : {};
    peers.push(await holdfast(around, nth === 0 ? 'this tree' : 'other tree', 1, { tree, ...flags }).start());
  }
  const runs = peers.map(load);
  for (const run of runs) await run((turns) => turns >= WARM_TURNS);
  console.log(`${thisMachine()}; ${options.codex ? 'Codex-like' : 'short'} turns, ${STREAMS} at once`);
  const seen = peers.map(() => [] as Awaited<ReturnType<typeof measure>>[]);
  for (let round = 0; round < ROUNDS; round += 1) {
    for (const [nth, peer] of peers.entries()) seen[nth]!.push(await measure(peer, runs[nth]!, WINDOW_TURNS));
  }
  for (const [nth, { name }] of peers.entries()) {
    const middle = (of: 'cpu' | 'main' | 'perSecond') =>
      percentile(
        seen[nth]!.map((each) => each[of]),
        0.5,
      );
    const all = seen[nth]!.map(({ main }) => main.toFixed(2)).join(' ');
    console.log(
      `${name}: ${middle('main').toFixed(3)} ms of the main thread a turn, ${middle('cpu').toFixed(3)} ms of all threads, ` +
        `${middle('perSecond').toFixed(0)} turns/s (medians); main thread by window: ${all}`,
    );
  }
  if (options.compare === undefined) {
    const debug = await debuggerAt(debugPort);
    await debug.call('Profiler.enable');
    await debug.call('Profiler.setSamplingInterval', { interval: SAMPLE_MICROSECONDS });
    await debug.call('Profiler.start');
    const { main } = await measure(peers[0]!, runs[0]!, PROFILED_TURNS);
    const { profile } = await debug.call<{ profile: Profile }>('Profiler.stop');
    debug.close();
    if (options.out !== undefined) await writeFile(options.out, JSON.stringify(profile));
    report(profile, 1_000 * main);
  }
} finally {
  await Promise.all(peers.map((peer) => peer.stop()));
  await closeClient();
  await upstream.stop();
  await postgres.stop();
  await rm(home, { recursive: true, force: true });
}
