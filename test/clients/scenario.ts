import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startEmbeddedPostgres } from '../../src/store/embedded/index.ts';
import { digestOf, type Simulator, startSimulator, type TurnFault } from '../../src/testing/index.ts';
import { type FleetWorker, startFleet } from '../chaos/fleet.ts';
import { until } from '../support/until.ts';
import type { Check, Client, Conversation, Mode, Row } from './client.ts';
import { type Recorder, startRecorder } from './recorder.ts';

/** Time for one user turn, in milliseconds. Loaded machines are slow; a turn that hangs must end. */
const TURN_MS = 180_000;

/** Two workers of one cluster on a real database, in front of the simulated provider and behind the recorder. */
export interface Cluster {
  readonly simulator: Simulator;
  readonly recorder: Recorder;
  /** Kills the worker that runs a turn, and starts it again. The function that is returned waits until it is ready. */
  killBusy(): Promise<() => Promise<void>>;
  close(): Promise<void>;
}

/** Starts the cluster. */
export async function startCluster(): Promise<Cluster> {
  const home = await mkdtemp(join(tmpdir(), 'holdfast-clients-'));
  const database = await startEmbeddedPostgres({ dataDir: home, settings: ['fsync=off'] });
  const simulator = await startSimulator({ reasoning: true, requireAuthorization: true });
  const fleet = await startFleet({ workers: 2, databaseUrl: database.url, upstreamUrl: simulator.url });
  const running = () => fleet.workers.filter(({ running }) => running);
  const recorder = await startRecorder(() => running().map(({ url }) => url));

  /** Returns whether a worker owns a session that runs a turn. */
  async function isBusy({ url }: FleetWorker): Promise<boolean> {
    const { sessions, unstored } = (await (await fetch(`${url}/admin/sessions?busy=1`)).json()) as Record<
      'sessions' | 'unstored',
      { owner: { here: boolean } | null }[]
    >;
    return [...sessions, ...unstored].some(({ owner }) => owner?.here);
  }

  return {
    simulator,
    recorder,
    async killBusy() {
      let busy: FleetWorker | undefined;
      await until(async () => {
        for (const worker of running()) if (await isBusy(worker)) busy = worker;
        return busy !== undefined;
      }, TURN_MS);
      await busy!.kill();
      const started = busy!.start();
      return () => started;
    },
    async close() {
      await recorder.close();
      await fleet.close();
      await simulator.close();
      await database.stop();
      await rm(home, { recursive: true, force: true });
    },
  };
}

const WEATHER = '[call:weather {"city":"Oslo"}]';

/**
 * Runs a conversation of six user turns: three with tools, and two in whose middle the worker that runs them is killed, once
 * before its first event and once after its first delta.
 */
export async function converse(
  client: Client,
  mode: Mode,
  at: { cluster: Cluster; scratch: string },
  check: Check,
): Promise<Row> {
  const { simulator, recorder } = at.cluster;
  const label = `${client.name}, ${mode.transport}${mode.name ? `, ${mode.name}` : ''}`;
  const home = await mkdtemp(join(tmpdir(), 'holdfast-client-'));
  await mkdir(home, { recursive: true });
  recorder.clear();
  simulator.journal.clear();
  simulator.script.clear();
  const apiKey = `sk-${label.replaceAll(/\W+/g, '-')}`;
  const conversation = await mode.open({ baseURL: `${recorder.url}/v1`, apiKey, scratch: at.scratch, home });
  const repeats: string[] = [];

  /** Asks until the client has an answer. */
  async function ask(text: string): Promise<string> {
    const end = Date.now() + TURN_MS;
    for (;;) {
      try {
        return await inTime(conversation, text);
      } catch (error) {
        repeats.push(String(error).slice(0, 300));
        if (Date.now() > end || repeats.length > 20) throw error;
      }
    }
  }

  /** Asks, and kills the worker that runs the turn when the simulated model has reached this point. */
  async function askAndKill(text: string, point: TurnFault & { kind: 'hold' }): Promise<string> {
    const hold = simulator.script.onTurn({ input: text.slice(0, 24) }, point, { times: 1 });
    const held = simulator.journal.next('held', () => true, { timeoutMs: TURN_MS });
    const answer = ask(text);
    answer.catch(() => undefined);
    await held;
    const ready = await at.cluster.killBusy();
    hold.release();
    try {
      return await answer;
    } finally {
      await ready();
    }
  }

  const call = client.toolCall ?? WEATHER;
  const answers: string[] = [];
  let killed: string | null = null;
  try {
    answers.push(await ask('Hello.'));
    answers.push(await ask(`How is it there? ${call}`));
    answers.push(await ask(`Twice, one after the other. [${call}${call}]`));
    const before = repeats.length;
    answers.push(await askAndKill('Survive an early end.', { kind: 'hold', at: 'before_created' }));
    const early = repeats.length - before;
    answers.push(await askAndKill(`Survive a late end. ${call}`, { kind: 'hold', at: { deltas: 1 } }));
    const late = repeats.length - before - early;
    answers.push(await ask('Goodbye.'));
    const how = (count: number) => (count === 0 ? 'unnoticed' : 'asked again');
    killed = how(early) === how(late) ? how(early) : `${how(early)} early, ${how(late)} late`;
  } catch (error) {
    check(`${label}: all turns end`, false, `${(error as Error).stack}\n     ${repeats.join('\n     ')}`);
  }
  await conversation.close();
  // Processes that the client started may still write.
  await rm(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 500 });

  const { seen } = recorder;
  const creates = simulator.journal.of('create').filter(({ generate }) => generate);
  const deltas = creates.filter(({ previousResponseId }) => previousResponseId !== null).length;
  const whole = seen.filter(({ exact }) => exact !== null);
  const summary = () =>
    seen
      .map(({ end, status, code, exact, body }) =>
        JSON.stringify([end ?? status, code, exact, body.previous_response_id ?? null]),
      )
      .join(' ');
  check(
    `${label}: all six answers are whole, with digests`,
    answers.length === 6 && answers.every((text) => digestOf(text) !== null),
    `${answers.map((text) => text.slice(0, 200)).join('\n     ')}\n     ${summary()}`,
  );
  check(
    `${label}: each of ${whole.length} answers was given the context that the client meant`,
    whole.length >= 10 && whole.every(({ exact }) => exact),
    summary(),
  );
  check(
    `${label}: only over ${mode.transport}`,
    seen.every(({ transport }) => transport === mode.transport),
    summary(),
  );
  const outputs = seen.reduce((sum, { toolOutputs }) => sum + toolOutputs, 0);
  check(`${label}: outputs of tools`, outputs >= 4, `${outputs}`);
  const streamed = seen.reduce((sum, one) => sum + one.deltas, 0);
  const streams = mode.streams || mode.transport === 'WebSocket';
  check(`${label}: ${streams ? 'streams' : 'no stream'}`, streamed > 0 === streams, `${streamed} deltas`);
  // The first request, and the first one after each of the two kills, have no socket to continue on.
  const full = creates.length - deltas;
  check(
    `${label}: ${deltas} of ${creates.length} requests to the provider are deltas`,
    full <= 3 + (client.besides ?? 0) || mode.rewrites === true,
    summary(),
  );
  if (repeats.length > 0) console.log(`     asked again after: ${repeats.join(' | ')}`);
  return {
    transport: mode.transport,
    tools: outputs >= 4,
    streams: mode.streams,
    killed,
    requests: creates.length,
    deltas,
  };
}

/** Runs what the page of a client shows, and checks that each part ends with an answer. */
export async function runPage(client: Client, at: { cluster: Cluster; scratch: string }, check: Check): Promise<void> {
  const { recorder, simulator } = at.cluster;
  const home = await mkdtemp(join(tmpdir(), 'holdfast-client-'));
  recorder.clear();
  simulator.script.clear();
  const opening = { baseURL: recorder.url, apiKey: `sk-page-${client.page}`, scratch: at.scratch, home };
  const outputs = await client.runPage!(opening).catch((error: unknown) => [String(error)]);
  check(
    `${client.name}: what docs/clients/${client.page}.md shows`,
    outputs.length > 0 && outputs.every((text) => digestOf(text) !== null) && recorder.seen.length > 0,
    outputs.join('\n     '),
  );
  await rm(home, { recursive: true, force: true, maxRetries: 10, retryDelay: 500 });
}

async function inTime(conversation: Conversation, text: string): Promise<string> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${TURN_MS} ms`)), TURN_MS);
  try {
    return await Promise.race([conversation.ask(text), late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
