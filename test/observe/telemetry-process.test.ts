import { readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it, vi } from 'vitest';
import { type Simulator, startSimulator } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { type FreshDatabase, freshDatabase } from '../support/database.ts';
import { type Program, startProgram } from '../support/program.ts';
import { startCollector } from './collector.ts';

const CLI = join(import.meta.dirname, '..', '..', 'src', 'cli.ts');
vi.setConfig({ testTimeout: 120_000, hookTimeout: 120_000 });

let simulator: Simulator;
let database: FreshDatabase;
beforeAll(async () => {
  simulator = await startSimulator();
  database = await freshDatabase();
});
afterAll(async () => {
  await simulator.close();
  await database.drop();
});

/** Starts `holdfast serve` with a module that is loaded before it. */
function serve(env: Record<string, string>, before: string): Program {
  return startProgram(
    process.execPath,
    ['--import', `data:text/javascript,${encodeURIComponent(before)}`, CLI, 'serve'],
    {
      env: {
        DATABASE_URL: database.url,
        HOLDFAST_SECRETS: 'test:0123456789abcdef0123456789abcdef',
        HOLDFAST_UPSTREAM_URL: simulator.url,
        HOLDFAST_LAME_DUCK_MS: '0',
        PORT: '0',
        ...env,
      },
    },
  );
}

async function turnAt(program: Program): Promise<void> {
  await program.says('is ready at');
  const [, url] = /is ready at (\S+)/.exec(program.text())!;
  expect((await post(url!, { model: 'm', input: 'one' })).status).toBe(200);
}

it('Without OpenTelemetry in the environment, a worker that serves loads no module of its SDK', async () => {
  const list = join(tmpdir(), `hf-modules-${process.pid}.json`);
  const program = serve(
    {},
    `import { registerHooks } from 'node:module';
     import { writeFileSync } from 'node:fs';
     const urls = [];
     registerHooks({ load(url, context, next) { urls.push(url); return next(url, context); } });
     process.on('exit', () => writeFileSync(${JSON.stringify(list)}, JSON.stringify(urls)));`,
  );
  await turnAt(program);
  program.signal('SIGTERM');
  await program.gone;
  const urls = JSON.parse(await readFile(list, 'utf8')) as string[];
  await rm(list);
  const packages = urls.flatMap((url) => /node_modules\/(@opentelemetry\/[^/]+)/.exec(url)?.[1] ?? []);
  expect(urls.some((url) => url.includes('/src/bridge.ts'))).toBe(true);
  // Its API is part of the library of /metrics.
  expect(new Set(packages)).toEqual(new Set(['@opentelemetry/api']));
  const own = urls.flatMap((url) => /src\/observe\/telemetry\/(.*)$/.exec(url)?.[1] ?? []);
  expect(own.toSorted()).toEqual(['index.ts', 'port.ts']);
});

it('With an endpoint in the environment, a worker that ends has sent its traces and metrics as protobuf', async () => {
  const collector = await startCollector();
  const program = serve(
    {
      OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
      OTEL_SERVICE_NAME: 'my-proxy',
      OTEL_EXPORTER_OTLP_HEADERS: 'key=abc',
    },
    '',
  );
  await turnAt(program);
  program.signal('SIGTERM');
  expect(await program.gone).toMatchObject({ code: 0 });
  for (const [path, name] of [
    ['/v1/traces', 'commit start'],
    ['/v1/metrics', 'holdfast_turns_total'],
  ]) {
    const sent = collector.requests.filter((request) => request.path === path);
    expect(sent[0]!.headers).toMatchObject({ 'content-type': 'application/x-protobuf', key: 'abc' });
    const text = Buffer.concat(sent.map(({ body }) => body)).toString('latin1');
    expect(text).toContain(name);
    expect(text).toContain('my-proxy');
  }
  expect(program.text()).toMatch(/"trace_id":"[0-9a-f]{32}","span_id":"[0-9a-f]{16}"/);
  await collector.close();
});

it('With HOLDFAST_OTEL=on and without the packages, the start fails and names them', async () => {
  const program = serve(
    { HOLDFAST_OTEL: 'on' },
    `import { registerHooks } from 'node:module';
     registerHooks({
       resolve(name, context, next) {
         if (name !== '@opentelemetry/sdk-trace') return next(name, context);
         throw Object.assign(new Error('Cannot find package ' + name), { code: 'ERR_MODULE_NOT_FOUND' });
       },
     });`,
  );
  expect(await program.gone).toMatchObject({ code: 1 });
  expect(program.text()).toContain('the packages of OpenTelemetry are not installed');
  expect(program.text()).toContain('@opentelemetry/sdk-metrics');
});
