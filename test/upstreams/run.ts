import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual, parseArgs } from 'node:util';
import { ownDatabase } from '../chaos/world.ts';
import { type Answer, doneItems, post, type ResponseObject } from '../support/client.ts';
import { endTogether } from '../support/end-together.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { connectSocket } from '../support/websocket.ts';
import { freePort, startWorker, type WorkerProcess } from '../support/worker-process.ts';
import { startAimock } from './aimock.ts';
import { startFastApi } from './fastapi.ts';
import { startLiteLLM } from './litellm.ts';
import type { ForeignUpstream, StartUpstream } from './upstream.ts';

/**
 * `npm run test:upstreams -- [--only NAME]`: servers of others in the place of the provider, each behind two workers: conversations
 * with tools, streamed and not, over HTTP and over a client's WebSocket; refusals; a worker killed in the middle of an answer.
 * They are installed into `TEST_UPSTREAMS_DIR`, by default a folder for temporary files, once.
 */
const upstreams: Record<string, StartUpstream> = {
  aimock: startAimock,
  litellm: startLiteLLM,
  fastapi: startFastApi,
};

const failures: string[] = [];
const rows: object[] = [];

/** Checks of one upstream over one transport. */
class Checks {
  #done = 0;
  #failed = 0;
  readonly #where: string;

  constructor(where: string) {
    this.#where = where;
  }

  check(label: string, ok: boolean, detail = ''): void {
    this.#done += 1;
    if (!ok) {
      this.#failed += 1;
      failures.push(`${this.#where}: ${label}`);
    }
    console.log(`${ok ? 'ok  ' : 'FAIL'} ${this.#where}: ${label}${ok || detail === '' ? '' : `\n     ${detail}`}`);
  }

  get summary(): string {
    return this.#failed === 0 ? `${this.#done} checks held` : `${this.#failed} of ${this.#done} checks failed`;
  }
}

/** One way for a client to ask. Returns the response. */
type Ask = (body: object) => Promise<{ response: ResponseObject; shown: string }>;

const shown = ({ status, text }: Answer) => `${status} ${text.slice(0, 600)}`;

/** Runs a conversation with a call of a tool, and checks that the model was given all of it each time. */
async function converse(upstream: ForeignUpstream, checks: Checks, label: string, ask: Ask, anchors: boolean) {
  const history: object[] = [];
  let covered = 0;
  let previous: string | undefined;
  let exact = 0;
  for (const text of ['First.', `Second. ${upstream.callsTool}`, 'Third.']) {
    history.push(user(`${label}: ${text}`));
    for (;;) {
      const input = anchors ? history.slice(covered) : history;
      const body = { model: upstream.model, input, ...(anchors && previous ? { previous_response_id: previous } : {}) };
      const { response, shown } = await ask(body);
      const { output = [], id } = response;
      const called = output.filter(({ type }) => type === 'function_call');
      const isExact = called.length > 0 || upstream.sawExactly(response, history);
      if (output.length === 0 || !isExact) return checks.check(label, false, shown);
      exact += 1;
      history.push(...output);
      previous = id;
      covered = history.length;
      if (called.length === 0) break;
      for (const { call_id } of called) history.push({ type: 'function_call_output', call_id, output: 'Seen.' });
    }
  }
  checks.check(`${label}: ${exact} answers to the whole conversation`, exact === 4, `${exact} answers`);
}

async function tryWith(upstream: ForeignUpstream, transport: ForeignUpstream['transports'][number]): Promise<void> {
  const checks = new Checks(`${upstream.name} (${transport})`);
  const database = await ownDatabase();
  const ports = [await freePort(), await freePort()] as const;
  const urls = ports.map((port) => `http://127.0.0.1:${port}`);
  const envOf = (port: number) => ({
    PORT: String(port),
    DATABASE_URL: database.server().url,
    HOLDFAST_SECRETS: 'upstreams:0123456789abcdef0123456789abcdef',
    HOLDFAST_UPSTREAM_URL: upstream.url,
    HOLDFAST_UPSTREAM_TRANSPORT: transport,
    ...upstream.env,
  });
  const workers: WorkerProcess[] = [];
  for (const port of ports) workers.push(await startWorker(envOf(port)));
  let turn = 0;
  let repeated = 0;
  /** Each turn goes to the other worker. */
  const next = () => urls[turn++ % 2]!;
  const http =
    (fields: object, headers: Record<string, string> = {}): Ask =>
    async (body) => {
      let answer = await post(next(), { ...body, ...fields }, headers);
      // The upstream's own failures are repeated, as the SDKs do; those of the bridge are not.
      for (let again = 0; again < 2 && answer.status >= 500 && !answer.text.includes('"bridge_code"'); again += 1) {
        repeated += 1;
        answer = await post(next(), { ...body, ...fields }, headers);
      }
      const items = doneItems(answer);
      const response = answer.body.output?.length ? answer.body : { ...answer.body, output: items };
      return { response, shown: shown(answer) };
    };
  try {
    await converse(
      upstream,
      checks,
      'everything resent, streamed',
      http({ stream: true, store: false }, { 'thread-id': 'a' }),
      false,
    );
    await converse(upstream, checks, 'everything resent, as JSON', http({ store: false }), false);
    await converse(upstream, checks, 'anchored, streamed', http({ stream: true, store: true }), true);
    await converse(upstream, checks, 'anchored, as JSON', http({ store: true }), true);
    await converse(upstream, checks, 'anchored, not stored', http({ stream: true, store: false }), true);
    const socket = await connectSocket(urls[0]!);
    const overSocket: Ask = async (body) => {
      const events = await socket.create({ ...body, store: false });
      return { response: (events.at(-1)!.response ?? {}) as ResponseObject, shown: JSON.stringify(events.at(-1)) };
    };
    await converse(upstream, checks, "anchored, on a client's WebSocket", overSocket, true);
    socket.close();

    const direct = await post(upstream.url.replace(/\/v1$/, ''), upstream.refused);
    for (const stream of [true, false]) {
      const through = await post(next(), { ...upstream.refused, stream });
      const [own, passed] = [direct, through].map(
        ({ text }) => JSON.parse(text) as { error?: Record<string, unknown> },
      );
      // An error in another form than OpenAI's, from a frame, keeps its members within an error that clients understand.
      const isKept = own!.error
        ? isDeepStrictEqual(own!.error, passed!.error)
        : Object.entries(own!).every(([name, value]) =>
            isDeepStrictEqual((passed!.error ?? passed!)[name as never], value),
          );
      checks.check(
        `a refusal is passed on as it is${stream ? '' : ', to a client that wants JSON'}`,
        direct.status === through.status && isKept,
        `${shown(direct)}\n     ${shown(through)}`,
      );
    }
    const models = await Promise.all(
      [upstream.url, `${urls[0]}/v1`].map(async (url) => {
        const answer = await fetch(`${url}/models`, { headers: { authorization: 'Bearer sk-test' } });
        return `${answer.status} ${((await answer.json()) as { data?: { id: string }[] }).data?.map(({ id }) => id)}`;
      }),
    );
    checks.check('its list of models', models[0] === models[1], models.join('\n     '));

    const thread = { 'thread-id': 'killed' };
    const question = user(`Long. ${upstream.takesLong}`);
    const body = { model: upstream.model, store: false, stream: true, input: [question] };
    const live = await openLive(urls[0]!, body, thread);
    await live.until('response.output_text.delta');
    await workers[0]!.kill();
    const { cut, events } = await live.rest();
    const broke = cut || events.every(({ type }) => type !== 'response.completed');
    const again = await post(urls[1]!, body, thread);
    checks.check(
      'a worker is killed in the middle of an answer: its client repeats, and the other worker answers',
      broke && upstream.sawExactly({ ...again.body, output: again.body.output ?? doneItems(again) }, [question]),
      shown(again),
    );
    const after = [question, ...doneItems(again), user('And after it?')];
    const last = await post(urls[1]!, { ...body, input: after }, thread);
    checks.check('and the conversation goes on there', upstream.sawExactly(last.body, after), shown(last));
  } finally {
    await Promise.all(workers.map((worker) => worker.kill()));
    await database.close();
  }
  rows.push({
    upstream: upstream.name,
    version: upstream.version,
    transport,
    result: checks.summary,
    'own errors, repeated': repeated,
  });
}

const { values } = parseArgs({ options: { only: { type: 'string' } } });
await endTogether();
const scratch = process.env.TEST_UPSTREAMS_DIR ?? join(tmpdir(), 'holdfast-upstreams');
await mkdir(scratch, { recursive: true });
for (const [name, start] of Object.entries(upstreams)) {
  if (values.only && values.only !== name) continue;
  let upstream: ForeignUpstream;
  try {
    upstream = await start(scratch);
  } catch (error) {
    rows.push({ upstream: name, version: '-', transport: '-', result: `not tried: ${(error as Error).message}` });
    continue;
  }
  try {
    for (const transport of upstream.transports) await tryWith(upstream, transport);
    if (upstream.ownChecks) {
      const checks = new Checks(upstream.name);
      const home = await mkdtemp(join(tmpdir(), 'holdfast-fastapi-'));
      await upstream.ownChecks(home, (label, ok, detail) => checks.check(label, ok, detail));
      await rm(home, { recursive: true, force: true });
      rows.push({ upstream: upstream.name, version: upstream.version, transport: 'each', result: checks.summary });
    }
  } finally {
    await upstream.close();
  }
}
console.table(rows);
process.exit(failures.length === 0 ? 0 : 1);
