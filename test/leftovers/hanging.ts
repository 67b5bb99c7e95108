import { mkdtemp, readFile, rename, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it } from 'vitest';
import { startProgram } from '../support/program.ts';
import { freePort } from '../support/worker-process.ts';

/** Run by `leftovers.test.ts`: starts the processes that tests start, reports them in a file, and never ends. */
it('This test hangs until its run is ended', { timeout: 3_600_000 }, async () => {
  const dataDir = await mkdtemp(join(tmpdir(), 'hf-left-'));
  const pids = [process.pid];
  if (process.env.LEFTOVERS_OF === 'a worker') {
    const program = startProgram(process.execPath, [join(import.meta.dirname, '..', '..', 'src', 'cli.ts'), 'serve'], {
      env: { PORT: String(await freePort()), HOLDFAST_DATA_DIR: dataDir },
    });
    await program.says('Operators:');
    pids.push(program.pid, Number((await readFile(join(dataDir, 'pg', 'postmaster.pid'), 'utf8')).split('\n')[0]));
  } else {
    const deaf = `for (const s of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(s, () => {}); console.log('up'); setInterval(() => {}, 1e6)`;
    const program = startProgram(process.execPath, ['-e', deaf]);
    await program.says('up');
    pids.push(program.pid);
  }
  const file = process.env.LEFTOVERS_FILE!;
  await writeFile(`${file}.new`, JSON.stringify({ pids, dataDir }));
  await rename(`${file}.new`, file);
  await new Promise(() => {});
});
