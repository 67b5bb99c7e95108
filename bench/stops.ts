import { mkdtemp, rm } from 'node:fs/promises';
import { Session } from 'node:inspector/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { startEmbeddedPostgres } from '../src/store/embedded/index.ts';
import { testBridge } from '../src/testing/index.ts';
import { post } from '../test/support/client.ts';
import { user } from '../test/support/messages.ts';

/**
 * `node bench/stops.ts [--files] [--database URL]`: how many source files and functions one turn passes through, by V8's precise
 * coverage: a warm turn (the session's socket is open) and a recovery (the session is claimed after a restart). The
 * simulated upstream, the test kit and timers of the worker's heartbeat are left out. Exits with 1 when a warm turn passes
 * more than `MOST_FILES`.
 *
 * Without `--database` it starts an embedded database.
 */
const ROOT = join(import.meta.dirname, '..');
/** Most files that a warm turn may pass. */
const MOST_FILES = 40;
const LEFT_OUT = /^src\/(?:testing|cluster\/(?:membership|janitor)|observe\/metrics\/(?:catalogue|merged))/;

const { values: given } = parseArgs({ options: { files: { type: 'boolean' }, database: { type: 'string' } } });
const dataDir = await mkdtemp(join(tmpdir(), 'hf-stops-'));
const server = given.database ? null : await startEmbeddedPostgres({ dataDir, settings: ['fsync=off'] });
const at = await testBridge({ databaseUrl: given.database ?? server!.url });
let tooMany = false;
const history: object[] = [];

async function turn(text: string): Promise<string> {
  history.push(user(text));
  const {
    status,
    text: answer,
    headers,
    body,
  } = await post(at.url, { model: 'm', stream: true, store: false, input: history }, { 'thread-id': 'stops' });
  if (status !== 200) throw new Error(answer);
  history.push(...(body.output as object[]));
  return String(headers['x-holdfast-outcome']);
}

const session = new Session();
session.connect();
await session.post('Profiler.enable');

/** Files and functions that ran while `act` did. */
async function passed(act: () => Promise<unknown>): Promise<Map<string, number>> {
  await session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false });
  await act();
  const { result } = await session.post('Profiler.takePreciseCoverage');
  await session.post('Profiler.stopPreciseCoverage');
  const files = new Map<string, number>();
  for (const { url, functions } of result) {
    if (!url.startsWith('file:')) continue;
    const path = fileURLToPath(url);
    const file = path.startsWith(`${ROOT}/`) ? path.slice(ROOT.length + 1) : '';
    if (!/^(?:src|machines)\//.test(file) || LEFT_OUT.test(file)) continue;
    // The first entry is the module itself.
    const ran = functions.filter(({ functionName, ranges }) => functionName !== '' && ranges[0]!.count > 0).length;
    if (ran > 0) files.set(file, ran);
  }
  return files;
}

try {
  for (const text of ['one', 'two', 'three']) await turn(text);
  // A heartbeat of the worker may fall into one turn; it does not fall into all of them.
  let warm = await passed(() => turn('four'));
  for (let again = 0; again < 4 && warm.size > MOST_FILES; again += 1) {
    const next = await passed(() => turn('more'));
    if (next.size < warm.size) warm = next;
  }
  await at.restart();
  const recovery = await passed(() => turn('five'));
  const row = (files: Map<string, number>) => ({
    files: files.size,
    functions: [...files.values()].reduce((sum, each) => sum + each, 0),
  });
  console.table({ 'a warm turn': row(warm), 'a recovery after a restart': row(recovery) });
  tooMany = warm.size > MOST_FILES;
  if (tooMany) console.log(`A warm turn passes ${warm.size} files; at most ${MOST_FILES} are allowed.`);
  if (given.files || tooMany) for (const [file, ran] of [...warm].sort()) console.log(file, ran);
} finally {
  await at.close();
  await server?.stop();
  await rm(dataDir, { recursive: true, force: true });
}
process.exit(tooMany ? 1 : 0);
