import { execFileSync } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../src/store/embedded/index.ts';
import { percentile, thisMachine } from './machine.ts';
import {
  Conversation,
  closeClient,
  codexEcho,
  type Script,
  type Seen,
  shortConversations,
  shortScript,
} from './peers/load.ts';
import {
  type Around,
  codexLb,
  direct,
  holdfast,
  litellm,
  type Offer,
  type Peer,
  portkey,
  relay,
  startUpstream,
  treeOf,
} from './peers/proxies.ts';
import { Results, ratiosOf, tablesOf } from './peers/report.ts';
import { memoryOf, pinned, processorTime } from './peers/system.ts';

/**
 * Measures Holdfast beside other proxies, and beside a relay that does nothing but relay, in interleaved rounds against one
 * scripted upstream. Everything is on loopback; where the machine allows, the proxy that is measured has one processor, and
 * the client, the upstream and PostgreSQL have another. A figure is what a peer adds to the same request sent directly, or
 * what it does in a second. Prints markdown, and writes every round as JSON.
 */
const USAGE = `node bench/peers.ts [options]

  --quick            one short round, which shows that every peer runs; its figures say little
  --rounds N         default 3
  --only NAMES       peers whose names begin so, separated by commas; direct and relay always run
  --compare REV      this tree beside that of another commit, without the other proxies
  --json FILE        default: bench-peers.json in the folder for temporary files

Environment: BENCH_CACHE (folder of installed peers), BENCH_PYTHON (Python of at least 3.13).
`;

const { values: options } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    rounds: { type: 'string' },
    only: { type: 'string' },
    compare: { type: 'string' },
    json: { type: 'string', default: join(tmpdir(), 'bench-peers.json') },
    help: { type: 'boolean', short: 'h', default: false },
  },
});
if (options.help) {
  process.stdout.write(USAGE);
  process.exit(0);
}
const { quick } = options;
const ROUNDS = Number(options.rounds ?? (quick ? 1 : 3));
/** Numbers of simultaneous streams. */
const STREAMS = quick ? [1, 8] : [1, 8, 32, 128];
/** Turns of each stream that are measured, by the number of streams: fewer of more, but enough for a p99. */
const TURNS = new Map(
  quick
    ? [
        [1, 3],
        [8, 2],
      ]
    : [
        [1, 60],
        [8, 30],
        [32, 20],
        [128, 8],
      ],
);
const GAP_MS = 20;
const PACED_DELTAS = 8;
/** Items before the first turn of a conversation like those of Codex. */
const ITEMS = quick ? [1, 100] : [1, 20, 100, 500];
const WARM_TURNS = quick ? 2 : 10;
const GROWN_TURNS = quick ? 20 : 200;
/** Most turns, and longest time in milliseconds, of a peer before the first round. */
const WARM_UP_TURNS = quick ? 100 : 4_000;
const WARM_LIMIT_MS = quick ? 2_000 : 15_000;
/** Time for what is repeated as often as possible, in milliseconds. */
const WINDOW_MS = quick ? 800 : 2_500;
/** Longest time of one peer in one measurement, in milliseconds. What is not finished then is given up and noted. */
const LIMIT_MS = quick ? 60_000 : 30_000;
/** A turn this slow, in milliseconds, at fewer streams leaves out the larger numbers of streams. */
const TOO_SLOW_MS = 5_000;
const IDLE_CONVERSATIONS = quick ? 20 : 100;

const results = new Results();
const codex: Script = { reply: 'call', deltas: 12, gapMs: 0, echo: codexEcho, reasoningBytes: 1_600 };

const home = await mkdtemp(join(tmpdir(), 'hf-bench-'));
const postgres = await startEmbeddedPostgres({ dataDir: join(home, 'database'), settings: ['max_connections=300'] });
const upstream = await startUpstream();
const around: Around = { upstream: upstream.port, postgres: postgres.url, home };

async function play(script: Script): Promise<void> {
  await fetch(`http://127.0.0.1:${upstream.port}/__script`, { method: 'POST', body: JSON.stringify(script) });
}

/** Peers by name that could not keep up; they are left out of measurements with more streams. */
const overloaded = new Map<string, number>();
/** Measurements that a peer did not finish, with its name; they are not tried again. */
const unfinished = new Set<string>();

/** Share of a processor below which a peer counts as quiet, and the time over which that is measured, in milliseconds. */
const QUIET = { share: 0.05, ms: 250 };
/** Longest time to wait for a peer that is not quiet, in milliseconds. */
const QUIET_LIMIT_MS = 60_000;

/** Waits until a peer has done what it still does for requests that were given up: it would take the time of the next one. */
async function quiet({ name, pid }: Peer): Promise<void> {
  if (pid === null) return;
  const until = performance.now() + QUIET_LIMIT_MS;
  for (;;) {
    const spent = processorTime(pid);
    await new Promise((over) => setTimeout(over, QUIET.ms));
    // Where processor time is not known, nothing can be waited for.
    if (!(spent().own > QUIET.share * QUIET.ms)) return;
    if (performance.now() > until)
      return void results.notes.push(`${name}: still busy ${QUIET_LIMIT_MS / 1_000} s later`);
  }
}

/** Runs one measurement of one peer. What it rejects with becomes a note, and its figures are missing. */
async function attempt(what: string, peer: Peer, measure: (stop: AbortSignal) => Promise<void>): Promise<void> {
  const name = `${peer.name}, ${what}`;
  if (unfinished.has(name)) return;
  const limit = AbortSignal.timeout(LIMIT_MS);
  try {
    await measure(limit);
  } catch (error) {
    if (limit.aborted) unfinished.add(name);
    const reason = limit.aborted
      ? `not finished in ${LIMIT_MS / 1_000} s`
      : error instanceof Error
        ? error.message
        : error;
    results.notes.push(`${name}: ${reason}`);
  }
  await quiet(peer);
}

const p = (values: readonly number[], share: number) => percentile(values.filter(Number.isFinite), share);

function setTimes(table: string, peer: Peer, round: number, seen: readonly Seen[], suffix = ''): void {
  const firsts = seen.map(({ first }) => first);
  const delays = seen.flatMap((each) => each.delays);
  const terminals = seen.map(({ terminal }) => terminal);
  const figures: [string, number[]][] = [
    ['first event', firsts],
    ['event', delays],
    ['terminal', terminals],
  ];
  for (const [name, values] of figures) {
    results.set(table, `${name} p50${suffix} ms`, peer.name, round, p(values, 0.5));
    results.set(table, `${name} p99${suffix} ms`, peer.name, round, p(values, 0.99));
  }
}

/** Conversations like those of Codex, one at a time: the first turn of a history that is new to the proxy, then warm turns. */
async function realistic(peer: Peer, round: number): Promise<void> {
  const table = 'Codex-like turns, one at a time';
  await attempt(table, peer, async (stop) => {
    let turns = 0;
    let cpu = { own: 0, postgres: 0 };
    for (const items of ITEMS) {
      const conversation = new Conversation(peer, 'codex', { items });
      const cold = await conversation.turn(stop);
      results.set(table, `first event of a new history of ${items} items ms`, peer.name, round, cold.first);
      await conversation.turn(stop);
      const spent = processorTime(peer.pid);
      const seen: Seen[] = [];
      while (seen.length < WARM_TURNS) seen.push(await conversation.turn(stop));
      const { own, postgres } = spent();
      cpu = { own: cpu.own + own, postgres: cpu.postgres + postgres };
      turns += seen.length;
      const firsts = seen.map(({ first }) => first);
      results.set(table, `first event after ${items} items p50 ms`, peer.name, round, p(firsts, 0.5));
    }
    if (peer.pid === null) return;
    results.set(table, 'CPU ms a warm turn', peer.name, round, cpu.own / turns);
    if (peer.usesPostgres) results.set(table, 'PostgreSQL CPU ms a warm turn', peer.name, round, cpu.postgres / turns);
  });
}

/** Runs turns in `streams` loops until the time is over. */
async function saturate(
  streams: number,
  ms: number,
  next: (stream: number) => Promise<Seen>,
): Promise<{ seen: Seen[]; seconds: number }> {
  const seen: Seen[] = [];
  const from = performance.now();
  await Promise.all(
    Array.from({ length: streams }, async (_, stream) => {
      while (performance.now() - from < ms) seen.push(await next(stream));
    }),
  );
  return { seen, seconds: (performance.now() - from) / 1_000 };
}

/** Eight conversations like those of Codex at once, of all lengths. */
async function realisticLoad(peer: Peer, round: number): Promise<void> {
  const table = 'Codex-like turns, eight at once';
  await attempt(table, peer, async (stop) => {
    const conversations = Array.from(
      { length: 8 },
      (_, nth) => new Conversation(peer, 'codex', { items: ITEMS[nth % ITEMS.length]! }),
    );
    await Promise.all(conversations.map((each) => each.turn(stop)));
    const spent = processorTime(peer.pid);
    const { seen, seconds } = await saturate(8, WINDOW_MS, (stream) => conversations[stream]!.turn(stop));
    const { own, postgres } = spent();
    results.set(table, 'turns/s', peer.name, round, seen.length / seconds);
    setTimes(table, peer, round, seen);
    if (peer.pid === null) return;
    results.set(table, 'CPU ms a turn', peer.name, round, own / seen.length);
    if (peer.usesPostgres) results.set(table, 'PostgreSQL CPU ms a turn', peer.name, round, postgres / seen.length);
  });
}

/** One conversation that is sent whole in each of many turns: what a turn costs early and late. */
async function growth(peer: Peer, round: number): Promise<void> {
  const table = `A conversation of ${GROWN_TURNS} turns, sent whole`;
  await attempt(table, peer, async (stop) => {
    const conversations = [1, 2, 3].map(() => new Conversation(peer, 'codex', { items: 1, outputBytes: 2_000 }));
    const windows = [
      { name: 'turn 10', from: 6, to: 15 },
      { name: `turn ${GROWN_TURNS}`, from: GROWN_TURNS - 9, to: GROWN_TURNS },
    ];
    const within = windows.map(() => [] as Seen[]);
    const spent = windows.map(() => () => ({ own: Number.NaN, postgres: Number.NaN }));
    for (let turn = 1; turn <= GROWN_TURNS; turn += 1) {
      windows.forEach(({ from }, nth) => {
        if (turn === from) spent[nth] = processorTime(peer.pid);
      });
      for (const conversation of conversations) {
        const seen = await conversation.turn(stop);
        windows.forEach(({ from, to }, nth) => {
          if (turn >= from && turn <= to) within[nth]!.push(seen);
        });
      }
      windows.forEach(({ name, to }, nth) => {
        if (turn !== to) return;
        const { own } = spent[nth]!();
        const firsts = within[nth]!.map(({ first }) => first);
        results.set(table, `first event at ${name} p50 ms`, peer.name, round, p(firsts, 0.5));
        if (peer.pid !== null) results.set(table, `CPU ms at ${name}`, peer.name, round, own / within[nth]!.length);
      });
    }
  });
}

/** Streams whose events come one each 20 ms. */
async function paced(peer: Peer, round: number, streams: number): Promise<void> {
  const table = `Short turns paced ${GAP_MS} ms, ${streams} at once`;
  if (streams > (overloaded.get(peer.name) ?? Number.POSITIVE_INFINITY)) return;
  await attempt(table, peer, async (stop) => {
    await play(shortScript);
    const turn = shortConversations(peer, streams);
    const each = Array.from({ length: streams }, (_, stream) => stream);
    await Promise.all(each.map((stream) => turn(stream, stop)));
    await play({ ...shortScript, deltas: PACED_DELTAS, gapMs: GAP_MS });
    const seen: Seen[] = [];
    await Promise.all(
      each.map(async (stream) => {
        // Spread over one gap, so that the streams do not all ask and get their events together.
        await new Promise((next) => setTimeout(next, (stream / streams) * GAP_MS * PACED_DELTAS));
        for (let nth = 0; nth < TURNS.get(streams)!; nth += 1) seen.push(await turn(stream, stop));
      }),
    );
    setTimes(table, peer, round, seen);
    if (
      p(
        seen.map(({ whole }) => whole),
        0.5,
      ) > TOO_SLOW_MS
    )
      overloaded.set(peer.name, streams);
  });
}

/** Frames a second of each peer, as measured; it says how many one visit may send. */
const speeds = new Map<string, number>();

/** Streams whose events come as fast as they are taken. */
async function unpaced(peer: Peer, round: number, streams: number): Promise<void> {
  const table = `Frames without pause, ${streams} at once`;
  if (streams > (overloaded.get(peer.name) ?? Number.POSITIVE_INFINITY)) return;
  await attempt(table, peer, async (stop) => {
    await play({ ...shortScript, deltas: 100 });
    const turn = shortConversations(peer, streams);
    const each = Array.from({ length: streams }, (_, stream) => stream);
    const from = performance.now();
    const warm = await Promise.all(each.map((stream) => turn(stream, stop)));
    const known =
      speeds.get(peer.name) ?? (1_000 * warm.reduce((sum, { events }) => sum + events, 0)) / (performance.now() - from);
    const budget = (known * WINDOW_MS) / 1_000;
    // Two turns of each stream, so that starts and ends of turns are a small part.
    const deltas = Math.min(20_000, Math.max(50, Math.round(budget / streams / 2)));
    await play({ ...shortScript, deltas });
    const spent = processorTime(peer.pid);
    const begun = performance.now();
    const seen = (
      await Promise.all(each.map(async (stream) => [await turn(stream, stop), await turn(stream, stop)]))
    ).flat();
    const seconds = (performance.now() - begun) / 1_000;
    const { own } = spent();
    const events = seen.reduce((sum, each) => sum + each.events, 0);
    speeds.set(peer.name, events / seconds);
    results.set(table, 'frames/s', peer.name, round, events / seconds);
    if (peer.pid !== null) results.set(table, 'CPU ms of 1,000 frames', peer.name, round, (1_000 * own) / events);
    const delays = seen.flatMap((one) => one.delays);
    results.set(table, 'event p50 ms', peer.name, round, p(delays, 0.5));
    results.set(table, 'event p99 ms', peer.name, round, p(delays, 0.99));
    results.set(
      table,
      'terminal p50 ms',
      peer.name,
      round,
      p(
        seen.map(({ terminal }) => terminal),
        0.5,
      ),
    );
  });
}

/** Short turns before the first round: a process that has compiled little yet takes several times as long for each. */
async function warmUp(peer: Peer): Promise<void> {
  const limit = AbortSignal.timeout(WARM_LIMIT_MS);
  const turn = shortConversations(peer, 16);
  let left = WARM_UP_TURNS;
  const streams = Array.from({ length: 16 }, async (_, stream) => {
    while (left > 0 && !limit.aborted) {
      left -= 1;
      await turn(stream, limit).catch(() => {});
    }
  });
  await Promise.all(streams);
  await quiet(peer);
}

/** As many short turns as the peer does. */
async function saturation(peer: Peer, round: number): Promise<void> {
  const table = 'Short turns, 16 at once';
  await attempt(table, peer, async (stop) => {
    await play(shortScript);
    const turn = shortConversations(peer, 16);
    await Promise.all(Array.from({ length: 16 }, (_, stream) => turn(stream, stop)));
    const spent = processorTime(peer.pid);
    const { seen, seconds } = await saturate(16, WINDOW_MS, (stream) => turn(stream, stop));
    const { own, postgres } = spent();
    results.set(table, 'turns/s', peer.name, round, seen.length / seconds);
    setTimes(table, peer, round, seen);
    if (peer.pid === null) return;
    results.set(table, 'CPU ms a turn', peer.name, round, own / seen.length);
    if (peer.usesPostgres) results.set(table, 'PostgreSQL CPU ms a turn', peer.name, round, postgres / seen.length);
  });
}

/** Memory of conversations that have had one turn and are idle. */
async function memory(peer: Peer): Promise<void> {
  const table = 'Memory';
  if (peer.pid === null) return;
  results.set(table, 'MiB at rest', peer.name, 0, atRest.get(peer)!);
  await attempt(table, peer, async (stop) => {
    await play(shortScript);
    const before = memoryOf(peer.pid!);
    const conversations = Array.from({ length: IDLE_CONVERSATIONS }, () => new Conversation(peer, 'short'));
    for (const conversation of conversations) await conversation.turn(stop);
    results.set(
      table,
      `KiB a conversation, of ${IDLE_CONVERSATIONS}`,
      peer.name,
      0,
      (1_024 * (memoryOf(peer.pid!) - before)) / IDLE_CONVERSATIONS,
    );
  });
}

/** Peers in the order of one round: each round begins with another one. */
const inOrder = (peers: readonly Peer[], round: number) => peers.map((_, nth) => peers[(nth + round) % peers.length]!);

async function offers(): Promise<Offer[]> {
  const common = [direct(around), relay(around), holdfast(around, 'Holdfast', 1)];
  if (options.compare !== undefined) {
    const { tree, commit } = await treeOf(options.compare);
    return [...common, holdfast(around, `Holdfast ${commit}`, 1, { tree })];
  }
  const all = [
    ...common,
    holdfast(around, 'Holdfast, 2 workers', 2),
    portkey(around, true),
    portkey(around, false),
    litellm(around),
    codexLb(around),
  ];
  const wanted = options.only?.toLowerCase().split(',');
  return all.filter(
    ({ name }) =>
      !wanted || ['direct', 'relay'].includes(name) || wanted.some((each) => name.toLowerCase().startsWith(each)),
  );
}

const commitOf = () =>
  execFileSync('git', ['describe', '--always', '--dirty', '--abbrev=12'], { encoding: 'utf8' }).trim();

const peers: Peer[] = [];
const atRest = new Map<Peer, number>();
const begun = performance.now();
const minutes = () => `${((performance.now() - begun) / 60_000).toFixed(1)} min`;
const about = { machine: thisMachine(), commit: commitOf(), pinned, rounds: ROUNDS, quick, loadBefore: loadavg()[0]! };

async function cleanUp(): Promise<void> {
  await Promise.all(peers.map((peer) => peer.stop()));
  await closeClient();
  await upstream.stop();
  await postgres.stop();
  await rm(home, { recursive: true, force: true });
}
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => void cleanUp().finally(() => process.exit(1)));
}

try {
  for (const { name, start } of await offers()) {
    try {
      const peer = await start();
      peers.push(peer);
      if (peer.pid !== null) {
        await new Promise((rest) => setTimeout(rest, quick ? 500 : 3_000));
        atRest.set(peer, memoryOf(peer.pid));
      }
    } catch (error) {
      results.notes.push(
        `${name}: skipped: ${error instanceof Error ? error.message.trim().replace(/\s+/g, ' ') : error}`,
      );
      console.error(results.notes.at(-1));
    }
  }
  // One turn through each, so that a peer that does not work is seen at once.
  await play(shortScript);
  for (const peer of [...peers]) {
    await new Conversation(peer, 'short').turn().catch((error) => {
      results.notes.push(`${peer.name}: left out: its first turn failed: ${error.message}`);
      console.error(results.notes.at(-1));
      peers.splice(peers.indexOf(peer), 1);
      return peer.stop();
    });
  }
  for (const peer of peers) await warmUp(peer);
  for (let round = 0; round < ROUNDS; round += 1) {
    const all = inOrder(peers, round);
    await play(codex);
    for (const peer of all) await realistic(peer, round);
    for (const peer of all) await realisticLoad(peer, round);
    for (const peer of all) await growth(peer, round);
    for (const streams of STREAMS) for (const peer of all) await paced(peer, round, streams);
    for (const streams of STREAMS) for (const peer of all) await unpaced(peer, round, streams);
    for (const peer of all) await saturation(peer, round);
    console.error(`round ${round + 1} of ${ROUNDS} done after ${minutes()}`);
  }
  for (const peer of peers) await memory(peer);
} finally {
  await cleanUp();
}

results.addDifferences('direct');
const names = peers.map(({ name }) => name);
const loadAfter = loadavg()[0]!;
const holdfasts = names.filter((name) => name.startsWith('Holdfast'));
console.log(
  [
    `${about.machine}; commit ${about.commit}; ${ROUNDS} rounds, ${minutes()}; ` +
      `${pinned ? 'proxy on one processor, everything else on another' : 'processes not pinned'}; ` +
      `load ${about.loadBefore.toFixed(1)} before, ${loadAfter.toFixed(1)} after${quick ? '; QUICK: these figures say little' : ''}`,
    'Each cell: median (least to most) of the rounds.',
    tablesOf(results, names),
    `### Ratios of ${holdfasts[0] ?? ''}`,
    holdfasts[0]
      ? ratiosOf(
          results,
          holdfasts[0],
          names.filter((name) => name !== holdfasts[0] && name !== 'direct'),
        )
      : '',
    ...(results.notes.length > 0 ? [`Notes:\n${results.notes.map((note) => `- ${note}`).join('\n')}`] : []),
  ].join('\n\n'),
);
await writeFile(
  options.json,
  `${JSON.stringify({ ...about, loadAfter, peers: names, notes: results.notes, tables: results.data() }, null, 1)}\n`,
);
console.error(`written: ${options.json}`);
