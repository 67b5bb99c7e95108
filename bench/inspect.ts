import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { loadavg, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as wait } from 'node:timers/promises';
import { Agent, request } from 'undici';
import { WebSocket } from 'ws';
import { freePort, startWorker } from '../test/support/worker-process.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures what watching costs a worker. One worker runs BENCH_SESSIONS conversations, each with a turn running
 * all the time, under four conditions: no viewer, one viewer of the inspector with the default sample, one viewer that
 * receives every session, and three pages of the explorer with the overview's charts, which ask as often as these do. The conditions alternate window by window over the same running sessions, in a rotating order; the flight
 * recorder is always on. The viewer lives in this process, beside the clients, and reads everything.
 */
const SESSIONS = Number(process.env.BENCH_SESSIONS ?? 1_000);
const WINDOWS = Number(process.env.BENCH_WINDOWS ?? 5);
const WINDOW_MS = Number(process.env.BENCH_WINDOW_MS ?? 6_000);
const DELTAS = 40;
const GAP_MS = 400;
const TURN_MS = DELTAS * GAP_MS;
/** Clock ticks per second in /proc. */
const TICKS = 100;

const arms = ['no viewer', 'a viewer of 50', 'a viewer of all', 'three overviews'] as const;
/** Pages with charts, and the time between two requests of one, in milliseconds: that of the span of 15 minutes. */
const PAGES = 3;
const PAGE_EVERY_MS = 5_000;
type Arm = (typeof arms)[number];
interface Window {
  round: number;
  arm: Arm;
  cpuMs: number;
  turns: number;
  frames: number;
  firsts: number[];
}

const upstream = spawn(
  process.execPath,
  [
    'src/testing/simulator/main.ts',
    '--exit-with-stdin',
    ...['--deltas', String(DELTAS), '--event-gap-ms', String(GAP_MS)],
  ],
  { stdio: ['pipe', 'pipe', 'ignore'] },
);
const [upstreamUrl] = (await once(createInterface(upstream.stdout!), 'line')) as [string];
const dataDir = await mkdtemp(join(tmpdir(), 'hf-bench-'));
const port = await freePort();
const worker = await startWorker({
  PORT: String(port),
  HOLDFAST_DATA_DIR: dataDir,
  HOLDFAST_UPSTREAM_URL: upstreamUrl,
  HOLDFAST_LOG_LEVEL: 'silent',
  HOLDFAST_INSPECT_SESSIONS: String(SESSIONS),
});
const agent = new Agent({ connections: SESSIONS + 10, keepAliveTimeout: 60_000 });

let stopping = false;
let refused = 0;
let cutOff = 0;
let current: Window | null = null;

/** Runs one turn. Its time to the first event that shows progress counts for the window in which the turn began. */
async function turn(session: number, anchor: string | null): Promise<string> {
  if (stopping) return anchor ?? '';
  const window = current;
  const startedAt = performance.now();
  const answer = await request(`http://127.0.0.1:${port}/v1/responses`, {
    dispatcher: agent,
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-bench', 'thread-id': `busy-${session}` },
    body: JSON.stringify({
      ...{ model: 'm', stream: true, store: false, input: 'go on' },
      ...(anchor ? { previous_response_id: anchor } : {}),
    }),
  });
  let tail = '';
  let isShown = false;
  for await (const chunk of answer.body.setEncoding('utf8')) {
    tail = (tail + chunk).slice(-20_000);
    if (isShown || !tail.includes('event: response.in_progress')) continue;
    isShown = true;
    window?.firsts.push(performance.now() - startedAt);
  }
  const id = /"id":"(resp_[^"]+)"/.exec(tail.slice(tail.lastIndexOf('event: response.completed')))?.[1];
  if (answer.statusCode === 503 || answer.statusCode === 409) {
    // On a shared machine the database may be slow: repeat the request, and report the count below.
    refused += 1;
    await new Promise((again) => setTimeout(again, 1_000));
    return anchor ?? turn(session, null);
  }
  if (answer.statusCode !== 200 || !id) throw new Error(`a turn failed: ${answer.statusCode} ${tail.slice(-500)}`);
  if (current) current.turns += 1;
  return id;
}

async function converse(session: number): Promise<void> {
  // Spread the starts over the length of one turn, so that turns begin evenly.
  await new Promise((begin) => setTimeout(begin, (session / SESSIONS) * TURN_MS));
  let anchor: string | null = null;
  while (!stopping) anchor = await turn(session, anchor);
}

/** Returns the CPU time that the worker has used, in milliseconds. */
async function cpuMs(): Promise<number> {
  const stat = await readFile(`/proc/${worker.pid}/stat`, 'utf8');
  const [utime, stime] = stat
    .slice(stat.lastIndexOf(')') + 2)
    .split(' ')
    .slice(11, 13) as [string, string];
  return ((Number(utime) + Number(stime)) / TICKS) * 1_000;
}

/** Asks for the overview as the pages do, each at its own time. */
function overviews(onAnswer: () => void): () => Promise<void> {
  const control = new AbortController();
  const asking = Array.from({ length: PAGES }, async (_, page) => {
    const pause = (ms: number) => wait(ms, undefined, { signal: control.signal });
    await pause((page / PAGES) * PAGE_EVERY_MS);
    for (;;) {
      const answer = await request(`http://127.0.0.1:${port}/admin/overview?window=15m`, { signal: control.signal });
      await answer.body.dump();
      onAnswer();
      await pause(PAGE_EVERY_MS);
    }
  });
  return async () => {
    control.abort();
    await Promise.allSettled(asking);
  };
}

async function viewer(arm: Arm, onFrame: () => void): Promise<() => Promise<void>> {
  if (arm === 'no viewer') return async () => {};
  if (arm === 'three overviews') return overviews(onFrame);
  const sample = arm === 'a viewer of 50' ? 50 / SESSIONS : 1;
  const ws = new WebSocket(`ws://127.0.0.1:${port}/inspect/socket?sample=${sample}`);
  ws.on('message', onFrame);
  await once(ws, 'message');
  // A new viewer first receives all running actors in one burst; that burst is not part of the window.
  await new Promise((settled) => setTimeout(settled, 2_000));
  return async () => {
    if (ws.readyState === ws.OPEN) {
      ws.close();
      await once(ws, 'close');
    } else cutOff += 1;
  };
}

const windows: Window[] = [];
try {
  const talking = Promise.all(Array.from({ length: SESSIONS }, (_, session) => converse(session)));
  talking.catch(() => {});
  await Promise.race([talking, new Promise((warm) => setTimeout(warm, TURN_MS * 2))]);
  for (let round = 0; round < WINDOWS; round += 1) {
    for (const index of arms.keys()) {
      const arm = arms[(index + round) % arms.length]!;
      const window: Window = { round, arm, cpuMs: 0, turns: 0, frames: 0, firsts: [] };
      const leave = await viewer(arm, () => {
        if (current === window) window.frames += 1;
      });
      const before = await cpuMs();
      current = window;
      await Promise.race([talking, new Promise((over) => setTimeout(over, WINDOW_MS))]);
      current = null;
      window.cpuMs = (await cpuMs()) - before;
      await leave();
      windows.push(window);
      if (process.env.BENCH_VERBOSE)
        console.error(round, arm, Math.round(performance.now()), window.turns, window.frames);
    }
  }
  stopping = true;
  await talking;
} finally {
  await worker.kill();
  await agent.destroy();
  upstream.kill('SIGKILL');
  await rm(dataDir, { recursive: true, force: true });
}

const spread = (values: number[], format: (value: number) => string) =>
  `${format(percentile(values, 0.5))} (${format(Math.min(...values))} to ${format(Math.max(...values))})`;
const alone = (round: number) => windows.find((window) => window.round === round && window.arm === arms[0])!.cpuMs;
const seconds = WINDOW_MS / 1_000;
const total = windows.reduce((sum, { turns }) => sum + turns, 0);
console.log(
  `${thisMachine()}; load ${loadavg()[0]!.toFixed(1)}; ${SESSIONS} sessions with a turn of about ${TURN_MS / 1_000} s running in each, ` +
    `events ${GAP_MS} ms apart (so much of the first event's time is the upstream's), ` +
    `${(total / windows.length / seconds).toFixed(0)} turns/s; ${WINDOWS} windows of ${seconds} s each, interleaved; median (least to most); ` +
    `${refused} requests were refused with 409 or 503 and repeated, ${cutOff} viewers were cut off for reading too slowly`,
);
console.table(
  arms.map((arm) => {
    const mine = windows.filter((window) => window.arm === arm);
    return {
      inspection: arm,
      'worker CPU': spread(
        mine.map((window) => (window.cpuMs / WINDOW_MS) * 100),
        (value) => `${value.toFixed(1)} %`,
      ),
      'against no viewer': spread(
        mine.map(({ round, cpuMs: used }) => ((used - alone(round)) / WINDOW_MS) * 100),
        (value) => `${value.toFixed(1)} %`,
      ),
      'CPU a turn': spread(
        mine.map((window) => window.cpuMs / window.turns),
        show,
      ),
      'first event p50': spread(
        mine.map(({ firsts }) => percentile(firsts, 0.5)),
        show,
      ),
      'first event p99': spread(
        mine.map(({ firsts }) => percentile(firsts, 0.99)),
        show,
      ),
      'frames or answers/s': spread(
        mine.map(({ frames }) => frames / seconds),
        (value) => value.toFixed(1),
      ),
    };
  }),
);
