import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { WebSocket } from 'ws';
import type { AskOptions } from '../command-line.ts';
import { UpstreamUnreachable } from '../upstream/port.ts';
import { readProxies } from '../upstream/proxies.ts';
import { createUpstreamTransport } from '../upstream/transport.ts';
import { type Asked, asked, baseUrl } from './admin.ts';
import { type Finding, fault, note, ok, printFindings } from './doctor/finding.ts';
import { CommandFailed, EXIT, type Output, printJson, standardOutput } from './output.ts';

const openers: Partial<Record<NodeJS.Platform, [string, ...string[]]>> = {
  darwin: ['open'],
  win32: ['cmd', '/c', 'start', ''],
};

/** Time for an answer of the Stately inspector's host, and for the connection of a viewer, in milliseconds. */
const WAIT_MS = 5_000;

interface WorkerAnswer {
  workers: { id: string; here: boolean; version: string }[];
}
interface SessionAnswer {
  owner: { id: string; here: boolean } | null;
}

/** Checks that the viewer's page is served, and that this command is accepted as a viewer. */
async function checkViewer(at: Asked): Promise<Finding[]> {
  const page = await at.text('/inspect');
  const script = /<script type="module" src="\.\/([^"]+)"/.exec(page)?.[1];
  if (script === undefined) {
    return [fault('viewer', `${at.url}/inspect is not the inspector's page`, 'check --url, and what is before it')];
  }
  const bytes = (await at.text(`/${script}`)).length;
  const { ticket } = await at.json<{ ticket: string }>('/inspect/ticket', 'POST');
  const ws = new WebSocket(`${at.url.replace(/^http/, 'ws')}/inspect/socket?ticket=${ticket}`, {
    headers: at.headers,
    handshakeTimeout: WAIT_MS,
  });
  const refusal = await Promise.race([
    once(ws, 'open').then(() => null),
    new Promise<string>((refused) => {
      ws.once('unexpected-response', (_, { statusCode }) => refused(String(statusCode)));
      ws.once('error', ({ message }) => refused(message));
    }),
  ]);
  ws.on('error', () => {});
  ws.terminate();
  const served = ok('viewer', `the page and its script (${bytes} bytes) are served; it needs no other host`);
  if (refusal === null) return [served, ok('feed', 'this command was accepted as a viewer')];
  const mend =
    refusal === '503'
      ? 'close other viewers, or raise HOLDFAST_INSPECT_VIEWERS'
      : 'let what is between here and there pass WebSockets at /inspect/socket';
  return [served, fault('feed', `a viewer is refused: ${refusal}`, mend)];
}

async function checkSession(at: Asked, id: string): Promise<Finding> {
  try {
    const { owner } = await at.json<SessionAnswer>(`/admin/sessions/${encodeURIComponent(id)}`);
    if (owner?.here) return ok('session', `${id} runs at the worker that answers`);
    return owner === null
      ? note('session', `${id} runs at no worker`, 'its machine is shown when its next request comes')
      : note('session', `${id} runs at worker ${owner.id}`, 'inspect at the address of that worker');
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    return fault('session', error.message.replace(/\.$/, ''), 'look its id up with `holdfast sessions`');
  }
}

/** Checks the page on the internet that `/inspect/stately` frames. Nothing depends on it. */
async function checkStately(at: Asked): Promise<Finding> {
  const framed = /<iframe [^>]*src="([^"]*)"/.exec(await at.text('/inspect/stately'))?.[1] ?? '';
  const address = URL.parse(framed.replace(/&#(\d+);/g, (_, code) => String.fromCharCode(Number(code))));
  const mend = 'nothing needs it: the local inspector shows the same events';
  if (address === null) return note('stately', 'the worker names no Stately inspector', mend);
  const problems: string[] = [];
  const proxies = readProxies(process.env, problems);
  if (problems.length > 0) return note('stately', `${address.origin} was not asked: ${problems.join('; ')}`, mend);
  const transport = createUpstreamTransport({ proxies, connectTimeoutMs: WAIT_MS });
  const signal = AbortSignal.timeout(WAIT_MS);
  try {
    const { status, body } = await transport.call({
      target: { id: 'stately', baseUrl: address.origin },
      method: 'GET',
      path: address.pathname,
      headers: {},
      body: null,
      signal,
    });
    body.on('error', () => {});
    body.resume();
    return status < 400
      ? ok('stately', `${address.origin} answers with ${status}: /inspect/stately frames it`)
      : note('stately', `${address.origin} answers with ${status}`, mend);
  } catch (error) {
    if (signal.aborted) return note('stately', `${address.origin} gives no answer within ${WAIT_MS} ms`, mend);
    if (error instanceof UpstreamUnreachable)
      return note('stately', `${address.origin} is not reached: ${error.message}`, mend);
    throw error;
  } finally {
    await transport.shutdown();
  }
}

/** Checks the way from this machine to the inspector, in the order in which a browser takes it. */
async function check(at: Asked, sessions: readonly string[]): Promise<Finding[]> {
  const { workers } = await at.json<WorkerAnswer>('/admin/workers');
  const here = workers.find((each) => each.here);
  const named = here ? `worker ${here.id.slice(0, 8)}, version ${here.version},` : 'a worker that is not registered';
  return [
    ok('worker', `${named} answers at ${at.url}`),
    ok('token', at.tokenFrom === null ? 'the worker asks for none' : `the worker accepts that of ${at.tokenFrom}`),
    ...(await checkViewer(at)),
    ...(await Promise.all(sessions.map((id) => checkSession(at, id)))),
    await checkStately(at),
  ];
}

/** Returns what is wrong where no check could be completed. */
function unusable({ message, exitCode }: CommandFailed): Finding {
  const [, says = message, mend = 'look at the log of the worker'] =
    /^(.*): ([^:]*)$/.exec(message.replace(/\.$/, '')) ?? [];
  return fault(exitCode === EXIT.unreachable ? 'worker' : 'token', says, mend);
}

/** Opens an address in a browser. Returns false where no program does that. */
async function opens(address: string): Promise<boolean> {
  const [command, ...args] = openers[process.platform] ?? ['xdg-open'];
  const child = spawn(command, [...args, address], { stdio: 'ignore', detached: true });
  child.unref();
  return Promise.race([once(child, 'spawn').then(() => true), once(child, 'error').then(() => false)]).catch(
    () => false,
  );
}

/**
 * Checks that the inspector of a running Holdfast can be used from here, prints what was checked and the address, and opens
 * it in a browser, if there is one.
 *
 * @returns exit code: 0 when the local inspector works, whether or not the Stately inspector is reached
 */
export async function inspect(
  sessions: readonly string[],
  options: AskOptions,
  output: Output = standardOutput,
): Promise<number> {
  const page = new URL(`${baseUrl(options)}/inspect`);
  for (const session of sessions) page.searchParams.append('session', session);
  const { findings, code } = await check(await asked(options), sessions).then(
    (found) => ({ findings: found, code: found.some(({ level }) => level === 'fault') ? EXIT.failed : EXIT.done }),
    (error: Error) => {
      if (!(error instanceof CommandFailed)) throw error;
      return { findings: [unusable(error)], code: error.exitCode };
    },
  );
  const faults = findings.filter(({ level }) => level === 'fault').length;
  if (options.json) printJson(output, { url: page.href, faults, findings });
  else {
    printFindings(findings, output);
    const isOpened = code === EXIT.done && output.terminal && (await opens(page.href));
    output.out(`\n${page.href}\n`);
    if (code === EXIT.done && output.terminal && !isOpened)
      output.err('No browser could be opened here: open it yourself.\n');
  }
  return code;
}
