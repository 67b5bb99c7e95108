import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { startSimulator } from '../../src/testing/index.ts';
import { freePort, startWorker } from '../support/worker-process.ts';
import { codexExec, prepareCodexHome } from './codex.ts';

/** What a client made of four turns, one process each, without what differs from run to run. */
export interface FourTurns {
  codes: number[];
  /** The lines of `codex exec --json`. */
  lines: unknown[];
  /** What the client wrote down of tokens and rate limits after each answer. */
  counts: unknown[];
  /** Requests as they reached the upstream: those that named a response, and those that did not. */
  deltas: number;
  requests: number;
  sockets: number;
  bytes: number;
}

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

/** Ids, times and the digests that ids are part of. Whether a digest is the right one is for the tap to say. */
const plain = (text: string): unknown =>
  JSON.parse(
    text
      .replaceAll(UUID, 'uuid')
      .replaceAll(/digest=[0-9a-f]{16}/g, 'digest')
      .replaceAll(/"(timestamp|resets_at|started_at|duration_ms)":("[^"]*"|\d+)/g, '"$1":0'),
  );

async function countsIn(home: string): Promise<unknown[]> {
  const sessions = join(home, 'codex', 'sessions');
  const files = (await readdir(sessions, { recursive: true })).filter((name) => name.endsWith('.jsonl')).sort();
  const counts: unknown[] = [];
  for (const file of files)
    for (const line of (await readFile(join(sessions, file), 'utf8')).split('\n'))
      if (line.includes('"token_count"')) counts.push(plain(line));
  return counts;
}

/** Four turns of the real client against the simulator, by itself or through a bridge. */
async function fourTurns(program: string, home: string, through: 'nothing' | 'holdfast'): Promise<FourTurns> {
  const simulator = await startSimulator({ seed: 61, reasoning: true });
  const port = await freePort();
  const worker =
    through === 'holdfast'
      ? await startWorker({
          PORT: String(port),
          HOLDFAST_DATA_DIR: join(home, 'holdfast'),
          HOLDFAST_UPSTREAM_URL: simulator.url,
        })
      : null;
  try {
    // The same folders both times: they are part of what the client says.
    await rm(join(home, 'codex'), { recursive: true, force: true });
    await prepareCodexHome(home, worker ? `http://127.0.0.1:${port}/v1` : simulator.url);
    const runs = [];
    for (const prompt of ['Hello.', 'Go on.', 'And on.', 'Enough.'])
      runs.push(await codexExec(program, home, prompt, runs.length > 0));
    const lines = runs.flatMap(({ output }) => output.split('\n').filter((line) => line.startsWith('{')));
    const creates = simulator.journal.of('create');
    return {
      codes: runs.map(({ code }) => code),
      lines: lines.map(plain),
      counts: await countsIn(home),
      deltas: creates.filter(({ previousResponseId }) => previousResponseId !== null).length,
      requests: creates.length,
      sockets: new Set(creates.map(({ connection }) => connection)).size,
      bytes: creates.reduce((sum, { bytes }) => sum + bytes, 0),
    };
  } finally {
    await worker?.stop();
    await simulator.close();
  }
}

/** The first difference of two lists, in words; null when there is none. */
function differs(direct: readonly unknown[], bridged: readonly unknown[]): string | null {
  const length = Math.max(direct.length, bridged.length);
  for (let at = 0; at < length; at += 1) {
    const [one, other] = [JSON.stringify(direct[at]), JSON.stringify(bridged[at])];
    if (one !== other) return `${at} of ${length}: alone ${one}; through the bridge ${other}`;
  }
  return null;
}

/** The same four turns with and without the bridge: what goes up, and what the client makes of what comes down. */
export async function compareTurns(
  program: string,
  home: string,
  check: (label: string, ok: boolean, detail?: string) => void,
): Promise<void> {
  const direct = await fourTurns(program, home, 'nothing');
  const bridged = await fourTurns(program, home, 'holdfast');
  for (const run of [direct, bridged]) check('four turns exit 0', run.codes.join() === '0,0,0,0', run.codes.join());
  check(
    'three of four turns go out as deltas, on one socket',
    bridged.requests === 4 && bridged.deltas === 3 && bridged.sockets === 1,
    JSON.stringify({ ...bridged, lines: undefined, counts: undefined }),
  );
  console.log(`     bytes up: alone ${direct.bytes}, through the bridge ${bridged.bytes}`);
  const lines = differs(direct.lines, bridged.lines);
  check(`the ${direct.lines.length} lines of codex exec are the same`, lines === null, lines ?? '');
  const counts = differs(direct.counts, bridged.counts);
  check(
    `so are its ${direct.counts.length} counts of tokens and rate limits`,
    counts === null && direct.counts.length > 0 && JSON.stringify(direct.counts).includes('"used_percent":1'),
    counts ?? JSON.stringify(direct.counts.at(-1)),
  );
}
