import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { request } from 'undici';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { createMetricsMerger, type MetricsOrder } from '../../src/observe/metrics/merged.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { type Program, startProgram } from '../support/program.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');
const FAILED = 8;
let dataDir: string;
let program: Program;
let url: string;
let closed: number;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'hf-together-'));
  const port = await freePort();
  closed = await freePort();
  url = `http://127.0.0.1:${port}`;
  program = startProgram(process.execPath, [CLI, 'serve', '--workers', '2'], {
    env: {
      PORT: String(port),
      HOLDFAST_DATA_DIR: dataDir,
      HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${closed}/v1`,
    },
  });
  await program.says('"msg":"registered"', 2);
  await until(async () => (await page()).includes('holdfast_build_info'), 60_000);
});
afterAll(async () => {
  program?.signal('SIGTERM');
  await program?.gone;
  await rm(dataDir, { recursive: true, force: true });
});

/** Fetches a page on a new connection, which any of the workers may accept. */
async function page(path = '/metrics'): Promise<string> {
  const answer = await request(url + path, { headers: { connection: 'close' } });
  return answer.body.text();
}
const value = (text: string, series: string) =>
  Number(
    text
      .split('\n')
      .find((line) => line.startsWith(`${series} `))
      ?.slice(series.length + 1),
  );
const FAULTS = 'holdfast_turn_faults_total{fault="bridge_upstream_unreachable"}';
const COUNT = 'holdfast_turn_total_milliseconds_count{terminal="failed"}';

async function failSome(): Promise<string[]> {
  const requests: string[] = [];
  for (let n = 0; n < FAILED; n += 1) {
    const answer = await post(url, { model: 'm', stream: true, input: 'one' }, { connection: 'close' });
    expect(answer.status).toBe(502);
    requests.push(answer.headers['x-request-id']!);
  }
  return requests;
}

it('Metrics and failures are those of all workers whichever answers, and the counts of a killed worker are kept', async () => {
  const requests = await failSome();
  for (let asked = 0; asked < 6; asked += 1) {
    const text = await page();
    expect([value(text, FAULTS), value(text, COUNT)]).toEqual([FAILED, FAILED]);
    expect(value(text, 'holdfast_upstream_failures_total{cause="refused"}')).toBe(FAILED);
    // Metrics that must not be summed appear as those of one process.
    expect(text).toMatch(/^holdfast_build_info\{version="[^"]+"\} 1$/m);
  }
  for (const id of requests)
    expect(await page(`/admin/stories/${id}`)).toContain(`ECONNREFUSED at 127.0.0.1:${closed}`);

  const workers = JSON.parse(await page('/admin/workers')) as { workers: { id: string; state: string }[] };
  expect(workers.workers.filter(({ state }) => state === 'serving')).toHaveLength(2);
  const { execFileSync } = await import('node:child_process');
  const children = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,command='], { encoding: 'utf8' })
    .split('\n')
    .map((line) => /^ *(\d+) +(\d+) +(.*)$/.exec(line))
    .filter((found) => Number(found?.[2]) === program.pid && found![3]!.includes('cli.'))
    .map((found) => Number(found![1]));
  expect(children).toHaveLength(2);
  for (const pid of children) process.kill(pid, 'SIGKILL');
  // Both workers are replaced: no current count was made by a running process.
  await program.says('"msg":"registered"', 4);
  let text = '';
  await until(async () => (text = await page().catch(() => '')).includes(FAULTS), 60_000);
  expect([value(text, FAULTS), value(text, COUNT)]).toEqual([FAILED, FAILED]);
  await failSome();
  text = await page();
  expect([value(text, FAULTS), value(text, COUNT)]).toEqual([2 * FAILED, 2 * FAILED]);
});

it('A worker that does not answer is counted with its last known values, and its gauges are left out', async () => {
  const clock = createManualClock();
  const merger = createMetricsMerger((ms, run) => clock.after(ms, run));
  const metrics = (total: number) =>
    [
      { name: 'a_total', help: 'A.', type: 'counter', aggregator: 'sum', values: [{ value: total, labels: {} }] },
      { name: 'held', help: 'H.', type: 'gauge', aggregator: 'sum', values: [{ value: total, labels: {} }] },
    ] as never;
  const answers = (worker: number, total: number) => (order: MetricsOrder) => {
    if (order.kind === 'measure')
      merger.measured(worker, { kind: 'metrics', round: order.round, metrics: metrics(total) });
  };
  const both = new Map([
    [1, answers(1, 3)],
    [2, answers(2, 4)],
  ]);
  const read = (text: string) => [value(text, 'a_total'), value(text, 'held')];
  expect(read(await merger.page(both))).toEqual([7, 7]);
  const stuck = merger.page(new Map([...both, [2, () => {}]]));
  clock.advance(60_000);
  expect(read(await stuck)).toEqual([7, 3]);
  // The worker exits while the merger waits for it: that ends the wait.
  const ending = merger.page(new Map([...both, [2, () => {}]]));
  merger.ended(2);
  expect(read(await ending)).toEqual([7, 3]);
  merger.ended(1);
  expect(read(await merger.page(new Map()))[0]).toBe(7);
  // The last report of a worker may arrive after the news of its exit: it replaces the known values.
  merger.measured(1, { kind: 'metrics', round: null, metrics: metrics(5) });
  expect(read(await merger.page(new Map()))[0]).toBe(9);
  // Many workers come and go: their counts are summed, and count once.
  for (let worker = 3; worker < 30; worker += 1) {
    merger.measured(worker, { kind: 'metrics', round: null, metrics: metrics(1) });
    merger.ended(worker);
  }
  merger.measured(1, { kind: 'metrics', round: null, metrics: metrics(5) });
  expect(read(await merger.page(new Map()))[0]).toBe(9 + 27);
});
