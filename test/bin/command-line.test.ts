import { expect, it } from 'vitest';
import { runCommand } from '../../src/command-line.ts';
import { version } from '../../src/version.ts';

/** Runs a command line whose commands only record how they were called. */
async function run(line: string) {
  const called: unknown[] = [];
  let out = '';
  let err = '';
  const code = await runCommand(
    line.split(' ').filter((each) => each !== ''),
    {
      serve: (options) => void called.push(['serve', options]),
      explain: (id, options) => void called.push(['explain', id, options]),
      inspect: (sessions, options) => void called.push(['inspect', sessions, options]),
    },
    { writeOut: (text) => void (out += text), writeErr: (text) => void (err += text) },
  );
  return { code, out, err, called };
}

it('--help lists the commands, and the help of a command lists its options', async () => {
  const all = await run('--help');
  expect([all.code, all.err, all.called]).toEqual([0, '', []]);
  for (const command of ['serve', 'explain', 'inspect']) expect(all.out).toMatch(new RegExp(`^  ${command} `, 'm'));
  const serve = await run('serve --help');
  expect([serve.code, serve.err, serve.called]).toEqual([0, '', []]);
  for (const option of ['-p, --port', '--host', '-w, --workers']) expect(serve.out).toContain(`  ${option} <`);
  expect(serve.out).not.toContain('--url');
  const explain = await run('explain -h');
  expect(explain.out).toMatch(/^Usage: holdfast explain \[options\] <id>/);
  expect(explain.out).toContain('--url <url>');
});

it.each(['--version', '-v', 'serve -v'])('`holdfast %s` prints the version', async (line) => {
  expect(await run(line)).toEqual({ code: 0, out: `${version}\n`, err: '', called: [] });
});

it.each<[string, RegExp]>([
  ['serv', /unknown command 'serv'\n\(Did you mean serve\?\)/],
  ['explan x', /unknown command 'explan'\n\(Did you mean explain\?\)/],
  ['serve --prot 1', /unknown option '--prot'\n\(Did you mean --port\?\)/],
  ['--prot 1', /unknown option '--prot'\n\(Did you mean --port\?\)/],
  ['explain', /missing required argument 'id'/],
  ['explain a b', /too many arguments for 'explain'/],
  ['serve extra', /too many arguments for 'serve'/],
  ['serve --port', /option '-p, --port <number>' argument missing/],
])('`holdfast %s` is a usage error: it exits with 2 and says how to go on', async (line, says) => {
  const { code, out, err, called } = await run(line);
  expect([code, out, called]).toEqual([2, '', []]);
  expect(err).toMatch(/^holdfast: /);
  expect(err).toMatch(says);
});

it.each<[string, unknown[]]>([
  ['', ['serve', {}]],
  ['-p 1 --host h', ['serve', { port: '1', host: 'h' }]],
  ['serve --port=1 -w 2', ['serve', { port: '1', workers: '2' }]],
  ['--port 1 serve', ['serve', { port: '1' }]],
  ['explain x', ['explain', 'x', {}]],
  ['explain x --url http://a', ['explain', 'x', { url: 'http://a' }]],
  ['--port 1 explain x', ['explain', 'x', { port: '1' }]],
  ['inspect', ['inspect', [], {}]],
  ['inspect a b --port 1', ['inspect', ['a', 'b'], { port: '1' }]],
])('`holdfast %s` runs the command with its options', async (line, call) => {
  expect(await run(line)).toEqual({ code: 0, out: '', err: '', called: [call] });
});
