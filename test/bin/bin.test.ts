import { execFile } from 'node:child_process';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { version } from '../../src/version.ts';
import { startProgram } from '../support/program.ts';

const ROOT = join(import.meta.dirname, '..', '..');
vi.setConfig({ testTimeout: 180_000, hookTimeout: 180_000 });

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'hf-bin-'));
  await cp(join(ROOT, 'bin'), join(home, 'bin'), { recursive: true });
  await writeFile(join(home, 'package.json'), '{"type":"module"}');
});
afterEach(() => rm(home, { recursive: true, force: true }));

/** Arguments that make the program see another Node version. */
const pretends = (node: string) => [
  '--no-experimental-strip-types',
  '--import',
  `data:text/javascript,${encodeURIComponent(
    `Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '${node}' } })`,
  )}`,
];

function run(bin: string, as: string | null, args: string[] = ['--version']) {
  return new Promise<{ code: number; out: string; err: string }>((resolve) => {
    const options = as === null ? [] : pretends(as);
    execFile(process.execPath, ['--no-warnings', ...options, bin, ...args], (error, out, err) =>
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, out, err }),
    );
  });
}
it('The program runs from the sources of a clone that was never built', async () => {
  expect(await run(join(ROOT, 'bin', 'holdfast.js'), null)).toEqual({ code: 0, out: `${version}\n`, err: '' });
});

it('A usage error makes the program exit with 2', async () => {
  const { code, out, err } = await run(join(ROOT, 'bin', 'holdfast.js'), null, ['serv']);
  expect([code, out]).toEqual([2, '']);
  expect(err).toMatch(/^holdfast: unknown command 'serv'\n/);
});

it.each<[string, string, RegExp]>([
  ['a Node that is too old', '20.20.2', /^holdfast: Node 22\.19 or newer is needed; this is 20\.20\.2 .*npm ci.*\n$/],
  ['a Node without TypeScript', '23.2.0', /^holdfast: this Node \(23\.2\.0\) does not run TypeScript: .*npm ci.*\n$/],
])('The program explains in one line what to do with %s', async (_, as, says) => {
  await mkdir(join(home, 'src'));
  await writeFile(join(home, 'src', 'cli.ts'), '');
  const { code, out, err } = await run(join(home, 'bin', 'holdfast.js'), as);
  expect([code, out]).toEqual([1, '']);
  expect(err).toMatch(says);
});

it.each(['20.20.2', '23.2.0'])(
  'Under Node %s, the program of a clone runs under the Node that npm ci has installed',
  async (as) => {
    await mkdir(join(home, 'src'));
    await writeFile(
      join(home, 'src', 'cli.ts'),
      'const seen: string[] = [process.versions.node, ...process.argv.slice(2)]; console.log(JSON.stringify(seen)); process.exit(3);',
    );
    await mkdir(join(home, 'node_modules', 'node', 'bin'), { recursive: true });
    await symlink(process.execPath, join(home, 'node_modules', 'node', 'bin', 'node'));
    const { code, out, err } = await run(join(home, 'bin', 'holdfast.js'), as, ['explain', 'a b']);
    expect([code, out, err]).toEqual([3, `${JSON.stringify([process.versions.node, 'explain', 'a b'])}\n`, '']);
  },
);

it.each<[string, string[], string[], string | undefined, string[]]>([
  ['is limited in a process that serves', [], ['serve', '--port', '1'], undefined, ['--max-semi-space-size=8']],
  ['is left to the flags of Node', ['--max_semi_space_size=3'], ['serve'], undefined, ['--max_semi_space_size=3']],
  ['is left to NODE_OPTIONS', [], ['serve'], '--max-semi-space-size=3', []],
  ['is not limited for another command', [], ['doctor', 'serve'], undefined, []],
])('The space for new objects %s', async (_, flags, args, options, seen) => {
  await mkdir(join(home, 'src'));
  const tells =
    'console.log(JSON.stringify({ pid: process.pid, flags: process.execArgv, args: process.argv.slice(2) }))';
  await writeFile(join(home, 'src', 'cli.ts'), tells);
  const command = ['--no-warnings', ...flags, join(home, 'bin', 'holdfast.js'), ...args];
  const program = startProgram(process.execPath, command, { env: { NODE_OPTIONS: options } });
  await program.says('}');
  expect(JSON.parse(program.text())).toEqual({ pid: program.pid, flags: ['--no-warnings', ...seen], args });
  expect(await program.gone).toEqual({ code: 0, signal: null });
});

it('A signal to the program reaches the one that runs under the bundled Node, and both end alike', async () => {
  await mkdir(join(home, 'src'));
  const told = "process.on('SIGTERM', () => { console.log('drained'); process.exit(0); }); setInterval(() => {}, 1e6);";
  await writeFile(join(home, 'src', 'cli.ts'), `${told} console.log('up');`);
  await mkdir(join(home, 'node_modules', 'node', 'bin'), { recursive: true });
  await symlink(process.execPath, join(home, 'node_modules', 'node', 'bin', 'node'));
  const program = startProgram(process.execPath, [...pretends('20.20.2'), join(home, 'bin', 'holdfast.js')]);
  await program.says('up');
  program.signal('SIGTERM');
  expect(await program.gone).toEqual({ code: 0, signal: null });
  expect(program.text()).toContain('drained');
});

it('The program reports an incomplete package in one line', async () => {
  const { code, err } = await run(join(home, 'bin', 'holdfast.js'), null);
  expect([code, err]).toEqual([
    1,
    'holdfast: this package is not complete: neither dist nor src is there. Install it again.\n',
  ]);
});
