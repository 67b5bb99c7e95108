import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { createLogger, type Logger, safeLogger } from '../../src/observe/log.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** Returns what a logger of each kind writes for these fields. */
function written(fields: object): object[] {
  const lines: object[] = [];
  createLogger('info', { write: (line) => void lines.push(JSON.parse(line)) }).info(fields, 'said');
  const application = { info: (given: object) => void lines.push(JSON.parse(JSON.stringify(given))) };
  safeLogger(application as unknown as Logger).info(fields, 'said');
  return lines;
}

it('Secret fields are hidden wherever they are, and nothing else is', () => {
  const fields = {
    ...{ token: 'a', input: ['a'], tokens: { input_tokens: 3 }, output: null, list: [{ body: 'a', n: 1 }] },
    call: { authorization: 'a', path: '/p', headers: { authorization: 'a', accept: '*' } },
    headers: { authorization: 'a' },
  };
  const before = structuredClone(fields);
  for (const line of written(fields)) {
    expect(JSON.stringify(line)).not.toContain('"a"');
    expect(line).toMatchObject({
      ...{ token: '[redacted]', input: '[redacted]', output: '[redacted]', tokens: { input_tokens: 3 } },
      ...{ list: [{ body: '[redacted]', n: 1 }], call: { path: '/p', headers: { accept: '*' } } },
    });
  }
  expect(fields).toEqual(before);
});

it('An error is reduced to what may be logged', () => {
  const cause = Object.assign(new Error('inner'), { socket: { secret: 1 } });
  const err = Object.assign(new Error('outer', { cause }), { code: 'E', query: 'select 1' });
  for (const line of written({ err })) {
    expect(line).toMatchObject({ err: { type: 'Error', message: 'outer', code: 'E', cause: { message: 'inner' } } });
    expect(JSON.stringify(line)).not.toMatch(/select|socket/);
  }
});

it('Every line is on standard output when the process has ended', async () => {
  const script = `
    import { createLogger } from './src/observe/log.ts';
    const [one, other] = [createLogger('info'), createLogger('info')];
    one.info({ n: 1 }, '');
    other.info({ n: 2 }, '');
    setImmediate(() => {
      for (let n = 3; n <= 2000; n += 1) one.info({ n }, '');
      process.exit(0);
    });`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', script], { cwd: ROOT });
  const numbers = stdout
    .trimEnd()
    .split('\n')
    .map((line) => (JSON.parse(line) as { n: number }).n);
  // Lines of which the system was still writing an earlier one may come last.
  expect(numbers.sort((a, b) => a - b)).toEqual(Array.from({ length: 2000 }, (_, nth) => nth + 1));
});

it('A warning is written at once, with the lines before it', async () => {
  // The process runs nothing after its warning, not even a timer.
  const script = `
    import { createLogger } from './src/observe/log.ts';
    const log = createLogger('info');
    log.info({ n: 1 }, '');
    log.warn({ n: 2 }, '');
    log.info({ n: 3 }, '');
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);`;
  const args = ['--input-type=module', '-e', script];
  const child = spawn(process.execPath, args, { cwd: ROOT, stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const numbers: number[] = [];
    for await (const line of createInterface({ input: child.stdout })) {
      if (numbers.push((JSON.parse(line) as { n: number }).n) === 2) break;
    }
    expect(numbers).toEqual([1, 2]);
  } finally {
    child.kill('SIGKILL');
    await once(child, 'exit');
  }
});
