import { afterAll, beforeAll, expect, it } from 'vitest';
import { type Simulator, startSimulator } from '../../src/testing/simulator/index.ts';
import { freshDatabase } from '../support/database.ts';
import { freePort, type MeasuredWorker, startMeasuredWorker } from '../support/worker-process.ts';

const KIB = 1024;
const LETTERS = 500_000;

let url: string;
let worker: MeasuredWorker;
let simulator: Simulator;
let drop: () => Promise<void>;

beforeAll(async () => {
  const database = await freshDatabase();
  drop = database.drop;
  simulator = await startSimulator();
  const port = await freePort();
  url = `http://127.0.0.1:${port}/v1/responses`;
  worker = await startMeasuredWorker({
    PORT: String(port),
    DATABASE_URL: database.url,
    HOLDFAST_SECRETS: 'k:0123456789abcdef0123456789abcdef',
    HOLDFAST_UPSTREAM_URL: simulator.url,
    HOLDFAST_SOFT_IDLE_MS: '900000',
  });
});

afterAll(async () => {
  await worker?.stop();
  await simulator?.close();
  await drop?.();
});

/** Runs a first turn whose input has half a million letters in that many items, in several new conversations. */
async function converse(name: string, conversations: number, items: number): Promise<void> {
  for (let nth = 0; nth < conversations; nth += 1) {
    const input = Array.from({ length: items }, (_, at) => ({
      type: 'message',
      role: 'user',
      content: `${name} ${nth} ${at} `.padEnd(LETTERS / items, 'x'),
    }));
    const answer = await fetch(url, {
      method: 'POST',
      // Without a key: the last bodies of a keyed conversation are remembered, up to a limit over all of them.
      headers: { 'content-type': 'application/json', authorization: 'Bearer sk-rest' },
      body: JSON.stringify({ model: 'm', stream: true, store: false, input }),
    });
    expect(answer.status).toBe(200);
    expect(await answer.text()).toContain('response.completed');
  }
}

const live = async () => {
  const { heapUsed, external } = await worker.memory();
  return heapUsed + external;
};

it.each([
  ['one long item', 1],
  ['many items', 500],
])(
  'A session at rest keeps nothing of the size of its last request: %s',
  async (_, items) => {
    // Code that runs for the first time is compiled, and pools grow.
    await converse(`warm ${items}`, 8, items);
    const before = await live();
    await converse(`rest ${items}`, 16, items);
    // A session needs about 20 KiB, and 23 bytes for each item; the rest is room for code that is compiled meanwhile.
    expect((await live()) - before).toBeLessThan(16 * 256 * KIB);
  },
  120_000,
);
