import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Agent, request } from 'undici';
import { startSimulator } from '../src/testing/index.ts';
import { user } from '../test/support/messages.ts';
import { freePort, startWorker } from '../test/support/worker-process.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures the latency that Holdfast adds: time to the first event that shows progress, and the gap between events.
 * (`response.created` alone is held back until another event follows, so that a socket lost in between costs the client
 * nothing.) Each conversation alternates between the simulated upstream over HTTP and a worker, so that both run under
 * the same load. Warm sockets, loopback, embedded PostgreSQL with synchronous_commit on.
 */
const STREAMS = Number(process.env.BENCH_STREAMS ?? 32);
const TURNS = Number(process.env.BENCH_TURNS ?? 60);
const WARM_UP = Number(process.env.BENCH_WARM_UP ?? 20);
const RATE = Number(process.env.BENCH_RATE ?? 50);

const dataDir = await mkdtemp(join(tmpdir(), 'hf-bench-'));
// Without the telemetry that providers send over WebSocket only: its pace would count as added time.
const simulator = await startSimulator({ eventGapMs: 5, deltaCount: 10, journalBodies: false, telemetry: false });
const port = await freePort();
const worker = await startWorker({
  PORT: String(port),
  HOLDFAST_DATA_DIR: dataDir,
  HOLDFAST_UPSTREAM_URL: simulator.url,
  HOLDFAST_LOG_LEVEL: 'silent',
});
const agent = new Agent({ connections: STREAMS * 2, keepAliveTimeout: 60_000 });

interface Sample {
  first: number;
  gaps: number[];
}

async function ask(
  url: string,
  body: object,
  headers: Record<string, string>,
): Promise<{ sample: Sample; output: object[] }> {
  const startedAt = performance.now();
  const answer = await request(url, {
    dispatcher: agent,
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer sk-bench', ...headers },
    body: JSON.stringify(body),
  });
  const gaps: number[] = [];
  let first: number | null = null;
  let last = 0;
  let text = '';
  for await (const chunk of answer.body.setEncoding('utf8')) {
    const now = performance.now();
    text += chunk;
    if (first === null) {
      if (!text.includes('event: response.in_progress')) continue;
      first = now - startedAt;
    } else gaps.push(now - last);
    last = now;
  }
  const end = text.lastIndexOf('\ndata: ');
  const terminal = JSON.parse(text.slice(end + 7)) as { response: { output: object[] } };
  return { sample: { first: first ?? Number.NaN, gaps }, output: terminal.response.output };
}

const direct: Sample[] = [];
const bridged: Sample[] = [];

async function converse(stream: number): Promise<void> {
  const history: object[] = [];
  const headers = { 'thread-id': `bench-${stream}` };
  for (let turn = 0; turn < TURNS; turn += 1) {
    // The pace is global: STREAMS conversations together make RATE turns per second, direct and bridged turns both
    // counted.
    await new Promise((next) => setTimeout(next, ((STREAMS * 2) / RATE) * 500 * (0.5 + Math.random())));
    history.push(user(`turn ${turn} of ${stream}`));
    const body = { model: 'm', stream: true, store: false, input: history };
    const plain = await ask(`${simulator.url}/responses`, body, headers);
    const through = await ask(`http://127.0.0.1:${port}/v1/responses`, body, headers);
    // The first turns open sockets and let the JIT compile the code.
    if (turn >= WARM_UP) {
      direct.push(plain.sample);
      bridged.push(through.sample);
    }
    history.push(...through.output);
  }
}

try {
  await Promise.all(Array.from({ length: STREAMS }, (_, stream) => converse(stream)));
} finally {
  await worker.stop();
  await agent.close();
  await simulator.close();
  await rm(dataDir, { recursive: true, force: true });
}

const firsts = (samples: Sample[]) => samples.map(({ first }) => first);
const gaps = (samples: Sample[]) => samples.flatMap((sample) => sample.gaps);
console.log(`${thisMachine()}; ${STREAMS} streams, ${bridged.length} turns each way, about ${RATE} turns/s`);
console.table(
  [
    ['time to first event', firsts],
    ['gap between events', gaps],
  ].map(([name, of]) => {
    const read = of as (samples: Sample[]) => number[];
    const row = (p: number) => [percentile(read(direct), p), percentile(read(bridged), p)] as const;
    const [p50, p99] = [row(0.5), row(0.99)];
    return {
      figure: name as string,
      'direct p50': show(p50[0]),
      'through p50': show(p50[1]),
      'added p50': show(p50[1] - p50[0]),
      'direct p99': show(p99[0]),
      'through p99': show(p99[1]),
      'added p99': show(p99[1] - p99[0]),
    };
  }),
);
