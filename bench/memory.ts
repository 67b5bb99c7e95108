import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Agent, request } from 'undici';
import { freePort, startWorker } from '../test/support/worker-process.ts';
import { thisMachine } from './machine.ts';

/**
 * Measures the memory of one worker that keeps BENCH_SESSIONS idle sessions, each with its socket, or with BENCH_LANES that
 * many on one socket.
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
const worker = await startWorker({
  PORT: String(port),
  HOLDFAST_DATA_DIR: dataDir,
  HOLDFAST_UPSTREAM_URL: url,
  HOLDFAST_UPSTREAM_LANES: LANES,
  HOLDFAST_LOG_LEVEL: 'silent',
});
const agent = new Agent({ connections: AT_ONCE });

/** Returns the resident memory of a process in bytes, as the kernel counts it. */
async function resident(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
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

try {
  for (let index = 0; index < 50; index += 1) await ask(index);
  const before = await resident(worker.pid);
  let next = 50;
  const caller = async () => {
    while (next < SESSIONS) await ask(next++);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, caller));
  const after = await resident(worker.pid);
  const metrics = await (await request(`http://127.0.0.1:${port}/metrics`)).body.text();
  const sockets = Number(/^holdfast_upstream_sockets(?:\{[^}]*\})? (\d+)/m.exec(metrics)?.[1]);
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`;
  console.log(thisMachine());
  console.table([
    {
      'idle live sessions': SESSIONS,
      'upstream sockets': sockets,
      'resident with 50': mib(before),
      'resident with all': mib(after),
      'a session': `${((after - before) / (SESSIONS - 50) / 1024).toFixed(1)} KiB`,
    },
  ]);
} finally {
  await worker.stop();
  await agent.close();
  upstream.kill('SIGKILL');
  await rm(dataDir, { recursive: true, force: true });
}
