import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { type Commands, commandNames, runCommand } from '../../src/command-line.ts';
import { version } from '../../src/version.ts';
import { renderCommands } from '../support/commands-page.ts';

/** Runs a command line whose commands only record how they were called. */
async function run(line: string, code?: number) {
  const called: unknown[] = [];
  let out = '';
  let err = '';
  const commands = new Proxy({} as Commands, {
    get:
      (_, name) =>
      async (...given: unknown[]) => {
        called.push([name, ...given]);
        return code;
      },
  });
  const exitCode = await runCommand(
    line.split(' ').filter((each) => each !== ''),
    commands,
    { writeOut: (text) => void (out += text), writeErr: (text) => void (err += text) },
  );
  return { code: exitCode, out, err, called };
}

it.each(['--help', ...commandNames.map((name) => `${name} --help`), 'config --help', 'migrate --help'])(
  '`holdfast %s` prints what it did at the last release',
  async (line) => {
    const { code, out, err, called } = await run(line);
    expect([code, err, called]).toEqual([0, '', []]);
    expect(out).toMatchSnapshot();
  },
);

it.each(commandNames)('`holdfast %s` has examples that its own command line accepts, and exit codes', async (name) => {
  const { out } = await run(`help ${name}`.replace(/^help (\w+) (\w+)$/, '$1 $2 --help'));
  const [, examples] = /^Examples:\n((?: {2}holdfast .*\n)+)/m.exec(out)!;
  for (const [, line] of examples!.matchAll(/^ {2}holdfast (.*?)(?: {2}.*)?$/gm)) {
    const { code, called } = await run(line!);
    expect([line, code, called.length]).toEqual([line, 0, 1]);
    expect(line!.startsWith(name)).toBe(true);
  }
  expect(out).toContain('\nExit codes: 0: done.');
});

it.each(['--version', '-v', 'serve -v'])('`holdfast %s` prints the version', async (line) => {
  expect(await run(line)).toEqual({ code: 0, out: `${version}\n`, err: '', called: [] });
});

it.each([
  'serv',
  'explan x',
  'serve --prot 1',
  '--prot 1',
  'explain',
  'explain a b',
  'serve extra',
  'serve --port',
  'serve --port 99999',
  'serve --port http',
  '--port 99999',
  'serve --workers 0',
  'serve --url http://127.0.0.1:1',
  'serve --json',
  'doctor --force',
  'sessions --state running',
  'sessions --limit 0',
  'sessions --url 127.0.0.1:8787',
  'top --interval 0',
  'config',
  'config prin',
  'migrate',
  'migrate up',
  'backup',
  'restore a b',
])('`holdfast %s` is a usage error: it exits with 2, and says what is wrong and how to go on', async (line) => {
  const { code, out, err, called } = await run(line);
  expect([code, out, called]).toEqual([2, '', []]);
  expect(err).toMatchSnapshot();
});

it.each<[string, unknown[]]>([
  ['', ['serve', {}]],
  ['-p 1 --host h', ['serve', { port: 1, host: 'h' }]],
  ['serve --port=1 -w 2', ['serve', { port: 1, workers: 2 }]],
  ['--port 1 serve', ['serve', { port: 1 }]],
  ['explain x', ['explain', 'x', {}]],
  ['explain x --url http://a', ['explain', 'x', { url: 'http://a' }]],
  ['--port 1 explain x --json', ['explain', 'x', { port: 1, json: true }]],
  ['inspect', ['inspect', [], {}]],
  ['inspect a b --port 1', ['inspect', ['a', 'b'], { port: 1 }]],
  ['sessions --busy --limit 5', ['sessions', { busy: true, limit: 5 }]],
  ['config print --changed', ['configPrint', { changed: true }]],
  ['config check --env-file f', ['configCheck', { envFile: 'f' }]],
  ['migrate status', ['migrate', 'status', {}]],
  ['migrate apply --json', ['migrate', 'apply', { json: true }]],
  ['backup d --force --env-file f', ['backup', 'd', { force: true, envFile: 'f' }]],
  ['restore d --data-dir e', ['restore', 'd', { dataDir: 'e' }]],
])('`holdfast %s` runs the command with its options', async (line, call) => {
  expect(await run(line)).toEqual({ code: 0, out: '', err: '', called: [call] });
});

it('The exit code is that of the command', async () => {
  expect((await run('doctor', 1)).code).toBe(1);
});

it('docs/commands.md holds the help of every command (npm run docs:readme writes it)', async () => {
  expect(await readFile('docs/commands.md', 'utf8')).toBe(await renderCommands());
});
