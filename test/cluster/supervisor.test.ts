import { execFileSync } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { digestOf, expectedDigest, type Simulator, startSimulator } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import { freePort, startWorker, type WorkerProcess } from '../support/worker-process.ts';

/** Longer than any run of this file: whatever is taken over here did not wait for the lease. */
const LEASE_MS = 24 * 3_600_000;
/** Generous bound of one wait, in milliseconds, for busy machines. */
const PATIENCE_MS = 120_000;
let dataDir: string;
let simulator: Simulator;
let supervisor: WorkerProcess;
let url: string;

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'hf-workers-'));
  simulator = await startSimulator();
  const port = await freePort();
  url = `http://127.0.0.1:${port}`;
  supervisor = await startWorker({
    PORT: String(port),
    HOLDFAST_WORKERS: '3',
    HOLDFAST_LEASE_MS: String(LEASE_MS),
    HOLDFAST_DATA_DIR: dataDir,
    HOLDFAST_UPSTREAM_URL: simulator.url,
  });
}, 600_000);
afterAll(async () => {
  await supervisor?.kill();
  await simulator?.close();
  await rm(dataDir, { recursive: true, force: true });
});

const body = (input: object[]) => ({ model: 'm', stream: true, store: false, input });

/** Returns the worker processes, without the database server. */
const children = () =>
  execFileSync('ps', ['-A', '-o', 'pid=,ppid=,command='], { encoding: 'utf8' })
    .split('\n')
    .map((line) => /^ *(\d+) +(\d+) +(.*)$/.exec(line))
    .filter((found) => Number(found?.[2]) === supervisor.pid && found![3]!.includes('cli.'))
    .map((found) => Number(found![1]));

/** Returns the owners of all sessions by worker id. */
async function workers(): Promise<{ id: string; state: string }[]> {
  const answer = await fetch(`${url}/admin/workers`);
  return ((await answer.json()) as { workers: { id: string; state: string }[] }).workers;
}

it('Several workers behind one port continue each other’s conversations, and the session of one that is killed during a turn is taken over long before its lease ends', async () => {
  await until(async () => (await workers()).filter(({ state }) => state === 'serving').length === 3, PATIENCE_MS);
  const before = children();
  expect(before).toHaveLength(3);

  // One connection each: any of the three workers may accept it, and the owner's socket answers.
  const talks = Array.from({ length: 6 }, (_, n) => ({
    headers: { 'thread-id': `t${n}`, connection: 'close' },
    input: [] as object[],
  }));
  for (let turn = 0; turn < 3; turn += 1) {
    for (const talk of talks) {
      talk.input.push(user(`turn ${turn}`));
      const answer = await post(url, body(talk.input), talk.headers);
      expect(digestOf(answer.body)).toBe(expectedDigest({ items: talk.input as never }));
      talk.input.push(...answer.body.output);
    }
  }
  expect(simulator.journal.of('upgrade')).toHaveLength(talks.length);

  const held = simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
  const talk = talks[0]!;
  const cut = await openLive(url, body([...talk.input, user('cut')]), talk.headers);
  await cut.until('response.output_item.added');
  held.remove();
  // All workers are killed, whichever runs the turn; only their supervisor can report that: the lease outlives this test.
  for (const pid of before) process.kill(pid, 'SIGKILL');
  await cut.rest();
  const ready = () =>
    fetch(`${url}/ready`).then(
      ({ ok }) => ok,
      () => false,
    );
  await until(async () => (await ready()) && children().every((pid) => !before.includes(pid)), PATIENCE_MS);
  const input = [...talk.input, user('cut')];
  const again = await post(url, body(input), talk.headers);
  expect(again.headers['x-holdfast-outcome']).toBe('stale_recovery');
  expect(digestOf(again.body)).toBe(expectedDigest({ items: input as never }));
  held.release();
  await until(() => children().length === 3, PATIENCE_MS);
}, 600_000);

it('Several workers drain together on SIGTERM, and stop the embedded database', async () => {
  const running = children();
  await supervisor.stop();
  const alive = (pid: number) => {
    try {
      process.kill(pid, 0);
      return true;
    } catch {
      return false;
    }
  };
  expect(running.filter(alive)).toEqual([]);
  await expect(fetch(`${url}/health`)).rejects.toThrow();
}, 600_000);
