import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Agent, request } from 'undici';
import { freePort, startMeasuredWorker } from '../test/support/worker-process.ts';
import { thisMachine } from './machine.ts';
import { packagedProgram } from './package.ts';

/**
 * Measures the memory of one worker of the built package that keeps BENCH_SESSIONS idle sessions, each with its socket, or
 * with BENCH_LANES that many on one socket: what it needs (live), and what the kernel counts, which depends on what V8 keeps
 * in reserve. Beside other work only the live memory can be compared. BENCH_FLAGS are flags of Node for the worker.
 */
const SESSIONS = Number(process.env.BENCH_SESSIONS ?? 10_000);
const LANES = process.env.BENCH_LANES ?? '0';
const AT_ONCE = 32;

const upstream = spawn(process.execPath, ['src/testing/simulator/main.ts', '--exit-with-stdin'], {
  stdio: ['pipe', 'pipe', 'inherit'],
});
const [url] = (await once(createInterface(upstream.stdout!), 'line')) as [string];
const dataDir = await mkdtemp(join(tmpdir(), 'hf-bench-'));
const port = await freePort();
const worker = await startMeasuredWorker(
  {
    PORT: String(port),
    HOLDFAST_DATA_DIR: dataDir,
    HOLDFAST_UPSTREAM_URL: url,
    HOLDFAST_UPSTREAM_LANES: LANES,
    HOLDFAST_LOG_LEVEL: 'silent',
    // As the program itself sets it; it cannot in a process that its parent talks to.
    NODE_OPTIONS: process.env.BENCH_FLAGS ?? '--max-semi-space-size=8',
  },
  await packagedProgram(join(import.meta.dirname, '..')),
);
const agent = new Agent({ connections: AT_ONCE });

/** Returns the memory of the worker in bytes: resident before a garbage collection, and live after it. */
async function measure(): Promise<{ resident: number; live: number }> {
  const { residentBefore, heapUsed, external } = await worker.memory();
  return { resident: residentBefore, live: heapUsed + external };
}

async function ask(index: number): Promise<void> {
  const answer = await request(`http://127.0.0.1:${port}/v1/responses`, {
    dispatcher: agent,
    method: 'POST',
    headers: {
      'content-type': 'application/json',
      authorization: 'Bearer sk-bench',
      'thread-id': `idle-${index}`,
    },
    body: JSON.stringify({ model: 'm', stream: true, store: false, input: `question ${index}` }),
  });
  await answer.body.dump();
  if (answer.statusCode !== 200) throw new Error(`status ${answer.statusCode}`);
}

const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
/** Sessions that come first, so that code is compiled and pools have grown. */
const FIRST = 50;

try {
  const rest = await measure();
  let next = 0;
  const askUntil = async (end: number) => {
    const caller = async () => {
      while (next < end) await ask(next++);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, caller));
  };
  await askUntil(FIRST);
  const before = await measure();
  await askUntil(SESSIONS);
  const after = await measure();
  const metrics = await (await request(`http://127.0.0.1:${port}/metrics`)).body.text();
  const sockets = Number(/^holdfast_upstream_sockets(?:\{[^}]*\})? (\d+)/m.exec(metrics)?.[1]);
  const row = (name: 'live' | 'resident') => ({
    'at rest': mib(rest[name]),
    [`with ${FIRST} sessions`]: mib(before[name]),
    [`with ${SESSIONS}`]: mib(after[name]),
    'a session': `${((after[name] - before[name]) / (SESSIONS - FIRST) / 1024).toFixed(1)} KiB`,
  });
  console.log(thisMachine());
  console.log(`${SESSIONS} idle live sessions on ${sockets} upstream sockets`);
  console.table({ live: row('live'), resident: row('resident') });
} finally {
  await worker.stop();
  await agent.close();
  upstream.kill('SIGKILL');
  await rm(dataDir, { recursive: true, force: true });
}
