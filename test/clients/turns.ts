import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { startSimulator } from '../../src/testing/index.ts';
import { freePort, startWorker } from '../support/worker-process.ts';
import { codexExec, prepareCodexHome } from './codex.ts';

/** Results of four client turns, one process each, without the parts that differ between runs. */
export interface FourTurns {
  codes: number[];
  /** Lines of `codex exec --json`. */
  lines: unknown[];
  /** Token counts and rate limits that the client recorded after each answer. */
  counts: unknown[];
  /** Requests that reached the upstream with an anchor, and those without. */
  deltas: number;
  requests: number;
  sockets: number;
  bytes: number;
}

const UUID = /[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g;

/** Masks ids, times, and digests that include ids. The tap checks whether a digest is right. */
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

/** Runs four turns of the real client against the simulator, directly or through a bridge. */
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
    // Both runs use the same folders, because their paths are part of what the client sends.
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

/** Returns a description of the first difference of two lists; null when there is none. */
function differs(direct: readonly unknown[], bridged: readonly unknown[]): string | null {
  const length = Math.max(direct.length, bridged.length);
  for (let at = 0; at < length; at += 1) {
    const [one, other] = [JSON.stringify(direct[at]), JSON.stringify(bridged[at])];
    if (one !== other) return `${at} of ${length}: alone ${one}; through the bridge ${other}`;
  }
  return null;
}

/** Runs the same four turns with and without the bridge, and compares what is uploaded and what the client records. */
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
