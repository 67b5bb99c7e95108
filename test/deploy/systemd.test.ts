import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { longestShutdown } from '../../src/worker.ts';
import { run, which } from './tools.ts';

const UNITS = 'deploy/systemd';
const text = (name: string) => readFile(join(UNITS, name), 'utf8');

/** Returns the values of a unit, with the last one of each name. */
const values = (unit: string): Record<string, string> =>
  Object.fromEntries([...unit.matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name!, value!]));

/** Returns the variables that the unit sets, for this instance. */
const environment = (unit: string, instance: string): Record<string, string> =>
  Object.fromEntries(
    values(unit)
      .Environment!.replaceAll('%i', instance)
      .split(' ')
      .map((each) => each.split('=') as [string, string]),
  );

describe.each(['holdfast.service', 'holdfast@.service'])('%s', (name) => {
  it('has valid settings, and time for a whole drain', async () => {
    const unit = await text(name);
    const file = { DATABASE_URL: 'postgres://127.0.0.1/holdfast', HOLDFAST_SECRETS: `k1:${'5'.repeat(64)}` };
    const { deadlines, limits } = readConfig({ ...environment(unit, '8791'), ...file });
    const { TimeoutStopSec, LimitNOFILE, KillMode } = values(unit);
    expect(Number(TimeoutStopSec) * 1_000).toBeGreaterThanOrEqual(longestShutdown(deadlines));
    expect(Number(LimitNOFILE)).toBeGreaterThan(limits.connections + limits.sockets);
    expect(KillMode).toBe('mixed');
  });

  it('satisfies systemd', async ({ skip }) => {
    const analyze = await which('systemd-analyze');
    if (!analyze) return skip('systemd is not installed');
    const dir = await mkdtemp(join(tmpdir(), 'holdfast-units-'));
    try {
      // A template is checked as one of its instances, and with a program that exists.
      const file = join(dir, name.replace('@.', '@8787.'));
      await writeFile(file, (await text(name)).replace('/usr/bin/node ', `${process.execPath} `));
      const verified = await run(analyze, ['verify', '--man=no', '--recursive-errors=no', file]);
      expect(verified.stderr.split('\n').filter((line) => line.includes('holdfast'))).toEqual([]);
      const rated = await run(analyze, ['security', '--offline=true', '--threshold=25', file]);
      expect(rated.code, rated.stdout.split('\n').at(-2)).toBe(0);
    } finally {
      await rm(dir, { recursive: true, force: true });
    }
  });
});

it('Both units are hardened alike', async () => {
  const hardening = async (name: string) => /^CapabilityBoundingSet=[\s\S]*?\n\n/m.exec(await text(name))![0];
  expect(await hardening('holdfast@.service')).toBe(await hardening('holdfast.service'));
});
