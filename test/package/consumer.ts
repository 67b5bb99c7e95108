import { join } from 'node:path';

/**
 * Module of an application that uses every entry point, sends one turn through a bridge, and prints what it saw. It is
 * compiled as ESM and as CommonJS. A misspelt option that compiles is an error, by the directives in it.
 */
const PROGRAM = `
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import * as holdfast from 'holdfast';
import {
  type Bridge, BridgeError, type BridgeHooks, type BridgeOptions, type Config, ConfigError, createBridge, type Identity,
  type Outcome, type TurnReport,
} from 'holdfast';
import * as machines from 'holdfast/machines';
import { sessionMachine } from 'holdfast/machines';
import * as testing from 'holdfast/testing';
import { type Simulator, startSimulator, testBridge } from 'holdfast/testing';

const outcomes: Outcome[] = [];
const hooks: BridgeHooks = {
  authenticate: async (req): Promise<Identity | null> => (req.headers.authorization ? { tenant: 'app', credential: 'sk-app' } : null),
  chooseUpstream: ({ model }) => (model === 'x' ? { url: 'https://x.test/v1' } : undefined),
  onTurn(turn: TurnReport) {
    outcomes.push(turn.outcome);
    const total: number | undefined = turn.tokens?.total;
    void total;
  },
};
const maybe: string | undefined = undefined;
const options: BridgeOptions = { database: { schema: maybe }, deadlines: { turnBudget: 60_000 }, logger: console };
// @ts-expect-error: a misspelt option
export const misspelt: BridgeOptions = { upstrem: 'https://api.openai.com/v1' };
// @ts-expect-error: a misspelt option of a section
export const misspeltBelow: BridgeOptions = { deadlines: { turnBudgett: 60_000 } };
// @ts-expect-error: a misspelt hook
export const misspeltHook: BridgeHooks = { onTurns() {} };
// @ts-expect-error: milliseconds are a number
export const wrongKind: BridgeOptions = { deadlines: { turnBudget: true } };
export const start: (given: BridgeOptions) => Promise<Bridge> = createBridge;
export const typed = (bridge: Bridge): Config['upstream']['url'] => bridge.config.upstream.url;
// @ts-expect-error: a bridge has no such member, so its type is not any
export const untyped = (bridge: Bridge): unknown => bridge.nothing;

async function main(): Promise<void> {
  const simulator: Simulator = await startSimulator();
  const at = await testBridge({ hooks, simulator });
  const server = createServer(at.bridge.handler).on('upgrade', at.bridge.handleUpgrade).listen(0, '127.0.0.1');
  await new Promise((listening) => server.once('listening', listening));
  const { port } = server.address() as AddressInfo;
  const answer = await fetch('http://127.0.0.1:' + port + '/v1/responses', {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: 'Bearer any' },
    body: JSON.stringify({ model: 'm', input: 'Say hi.' }),
  });
  const { status } = (await answer.json()) as { status?: string };
  const rows = await at.store.listSessions({ limit: 1 });
  const epoch: number | undefined = rows.rows[0]?.epoch;
  // @ts-expect-error: a column is typed
  const wrong: string | undefined = rows.rows[0]?.epoch;
  void [epoch, wrong, options];
  let refused = '';
  try {
    await createBridge({ ['upstrem' as 'upstream']: 'https://api.openai.com/v1' });
  } catch (error) {
    refused = error instanceof ConfigError ? error.message : String(error);
  }
  await at.close();
  await simulator.close();
  server.close();
  const seen = {
    answer: [answer.status, status, answer.headers.get('x-holdfast-outcome')],
    reported: outcomes,
    refused: refused.includes('upstrem') && refused.includes('upstream'),
    status: new BridgeError('bridge_draining').status,
    machine: sessionMachine.id,
    names: [holdfast, machines, testing].map((entry) => Object.keys(entry).filter((name) => !/^(?:default|__esModule|module\\.exports)$/.test(name)).sort()),
  };
  process.stdout.write(JSON.stringify(seen) + '\\n');
}
void main();
`;

/** What the program prints, but for the exported names. */
export const printed = {
  answer: [200, 'completed', 'created'],
  reported: ['created'],
  refused: true,
  status: 503,
  machine: 'session',
};

export type ModuleKind = 'esm' | 'cjs';

/** Names of the program and of what the compiler makes of it. */
export const files = {
  esm: { source: 'uses.mts', made: 'uses.mjs' },
  cjs: { source: 'uses.cts', made: 'uses.cjs' },
} as const;

/**
 * Returns the files of an application for one compiler.
 *
 * @param to folder for what the compiler writes, below that of the application
 * @returns text by path
 */
export function application(kind: ModuleKind, to: string): Record<string, string> {
  const { source } = files[kind];
  const compilerOptions = {
    target: 'es2023',
    module: 'nodenext',
    types: ['node'],
    strict: true,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    skipLibCheck: false,
    noEmitOnError: false,
    outDir: to,
    rootDir: '.',
  };
  return {
    [source]: PROGRAM,
    [configOf(kind, to)]: JSON.stringify({ compilerOptions, files: [source] }),
  };
}

/** Returns the path of the compiler's configuration, below the folder of the application. */
export const configOf = (kind: ModuleKind, to: string) => `tsconfig.${kind}.${to}.json`;

/** Returns the path of the compiled program, below the folder of the application. */
export const compiled = (kind: ModuleKind, to: string) => join(to, files[kind].made);

/**
 * Divides what a compiler printed: errors in declarations of other packages are not those of Holdfast.
 *
 * @returns the lines about the application and the package, and the names of the other packages with errors
 */
export function complaints(output: string): { own: string[]; others: string[] } {
  const own: string[] = [];
  const others = new Set<string>();
  for (const line of output.split('\n')) {
    if (!/error TS\d+/.test(line)) continue;
    // The last part of the path counts: package managers nest, link and zip packages.
    const name = /^.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(line.split('(')[0]!)?.[1];
    if (name === undefined || name === 'holdfast') own.push(line);
    else others.add(name);
  }
  return { own, others: [...others].sort() };
}
