import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { createTemplate } from './database.ts';
import { endTogether } from './end-together.ts';

/**
 * Starts one real PostgreSQL for the whole run, without fsync, which matters only to data that must survive the run, and
 * migrates the database that the tests copy. Several projects of one run share both.
 */
export default async function setup(): Promise<() => Promise<void>> {
  // Each project of the run calls this; the first call serves them all. A run within a run makes its own template.
  if (process.env.TEST_PREPARED === String(process.pid)) return async () => {};
  process.env.TEST_PREPARED = String(process.pid);
  const endAll = await endTogether();
  // A caller that runs the tests repeatedly may provide its own server.
  if (process.env.TEST_DATABASE_URL) {
    // Code that differs from test to test must migrate each database by itself.
    if (process.env.TEST_MIGRATES_EACH) return endAll;
    const drop = await createTemplate();
    return async () => {
      await drop();
      await endAll();
    };
  }
  const dataDir = await mkdtemp(join(tmpdir(), 'holdfast-test-'));
  const server = await startEmbeddedPostgres({
    dataDir,
    settings: ['fsync=off', 'max_connections=300', 'full_page_writes=off'],
  });
  process.env.TEST_DATABASE_URL = server.url;
  await createTemplate();
  return async () => {
    await server.stop();
    await rm(dataDir, { recursive: true, force: true });
    await endAll();
  };
}
