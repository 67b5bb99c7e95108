import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { expect, it } from 'vitest';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';
import { extractExample, replaceOnce } from './snippets.ts';

it('docs/observability.md documents every field of a turn’s log line, and no other', async () => {
  const lines: Record<string, unknown>[] = [];
  const logger = pino({ level: 'info', base: null }, { write: (text) => void lines.push(JSON.parse(text)) });
  const at = await startTestBridge({ logger });
  await post(at.url, { model: 'm', stream: true, store: false, input: 'one' });
  await at.close();
  const logged = Object.keys(lines.find(({ msg }) => msg === 'turn')!);
  const text = await readFile('docs/observability.md', 'utf8');
  const [table] = /<!-- turn line -->[\s\S]*<!-- \/turn line -->/.exec(text)!;
  const told = [...table.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, fields]) =>
    [...fields!.matchAll(/`(\w+)`/g)].map(([, name]) => name!),
  );
  expect(told.toSorted()).toEqual(logged.filter((name) => !['level', 'time', 'msg'].includes(name)).toSorted());
});

it('The program of docs/observability.md gives its spans to the tracer provider of the application', async () => {
  const at = await startTestBridge();
  const port = await freePort();
  const { file, remove } = await extractExample('docs/observability.md', 'own tracer', (code) =>
    replaceOnce(replaceOnce(code, '8787', String(port)), 'https://api.openai.com/v1', at.simulator.url),
  );
  const child = spawn(process.execPath, [fileURLToPath(file)], {
    env: {
      ...process.env,
      DATABASE_URL: at.databaseUrl,
      HOLDFAST_SECRETS: 'docs:0123456789abcdef0123456789abcdef',
      HOLDFAST_LOG_LEVEL: 'silent',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (more) => (output += more));
  try {
    const url = `http://127.0.0.1:${port}`;
    await until(
      () =>
        fetch(`${url}/health`).then(
          ({ ok }) => ok,
          () => false,
        ),
      120_000,
    );
    await post(url, { model: 'm', input: 'one' });
    await until(() => ['turn', 'chat m', 'POST /v1/responses'].every((name) => output.includes(`name: '${name}'`)));
  } finally {
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
    await remove();
    await at.close();
  }
}, 180_000);
