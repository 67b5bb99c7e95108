import { join } from 'node:path';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import type { Check } from '../clients/client.ts';
import { installPython, pythonIn } from '../clients/python.ts';
import { type Answer, doneItems, post, type ResponseObject } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { type Program, startProgram } from '../support/program.ts';
import { until } from '../support/until.ts';
import { freePort, startWorker } from '../support/worker-process.ts';
import type { StartUpstream } from './upstream.ts';

const packages = ['fastapi==0.165.0', 'uvicorn==0.54.0', 'websockets==17.4'];
const PATIENCE_MS = 120_000;

/** Starts uvicorn with the provider of `app.py`; resolves when it answers. */
async function serve(scratch: string, port: number, env: Record<string, string> = {}): Promise<Program> {
  const program = startProgram(
    pythonIn(scratch, 'fastapi'),
    ['-m', 'uvicorn', 'app:app', '--host', '127.0.0.1', '--port', String(port), '--timeout-keep-alive', '1'],
    { cwd: import.meta.dirname, env: { PYTHONDONTWRITEBYTECODE: '1', ...env } },
  );
  await program.says('Uvicorn running');
  return program;
}

/** Starts the provider for the checks that all upstreams share. */
export const startFastApi: StartUpstream = async (scratch) => {
  const version = await installPython(scratch, 'fastapi', packages);
  const port = await freePort();
  const program = await serve(scratch, port);
  return {
    name: 'FastAPI under uvicorn',
    version,
    url: `http://127.0.0.1:${port}/v1`,
    model: 'm',
    transports: ['websocket', 'http', 'auto'],
    env: {},
    callsTool: 'please look',
    takesLong: 'slowly',
    refused: { model: 'nothing', input: 'Hi.' },
    sawExactly: (response: ResponseObject, items: readonly object[]) =>
      digestOf(response as never) === expectedDigest({ items: items as never }),
    ownChecks: (home, check) => fastApiChecks(scratch, home, check),
    async close() {
      program.signal('SIGTERM');
      await program.gone;
    },
  };
};

/**
 * Runs what is particular to such a provider: errors in FastAPI's form, events cut within characters, a provider without WebSocket,
 * and one that is shut down in the middle of a stream and comes back without any memory.
 *
 * @param scratch folder that is kept between runs
 * @param home an empty folder
 */
async function fastApiChecks(scratch: string, home: string, check: Check): Promise<void> {
  console.log(`     ${await installPython(scratch, 'fastapi', packages)}`);
  for (const [transport, isOffered] of [
    ['http', true],
    ['websocket', true],
    ['auto', false],
  ] as const) {
    const label = `FastAPI, ${transport}${isOffered ? '' : ' without a WebSocket'}`;
    const upstreamPort = await freePort();
    const start = () => serve(scratch, upstreamPort, { APP_WEBSOCKET: isOffered ? 'on' : 'off' });
    const upstream = `http://127.0.0.1:${upstreamPort}`;
    let program = await start();
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const worker = await startWorker({
      PORT: String(port),
      HOLDFAST_DATA_DIR: join(home, transport),
      HOLDFAST_UPSTREAM_URL: `${upstream}/v1`,
      HOLDFAST_UPSTREAM_TRANSPORT: transport,
    });
    try {
      const history: object[] = [];
      let exact = 0;
      let previous: string | undefined;
      let last: Answer | null = null;
      const shown = () => `${last?.status} ${last?.text.slice(0, 600)}`;
      /** Asks with the whole history or with an anchor, and notes whether the model was given exactly the history. */
      const ask = async (items: object[], fields: object) => {
        history.push(...items);
        const input = 'previous_response_id' in fields ? items : history;
        last = await post(url, { model: 'm', input, ...fields }, { 'thread-id': 'one' });
        const output = last.events.length > 0 ? doneItems(last) : (last.body.output ?? []);
        const isCall = output.some(({ type }) => type === 'function_call');
        if (output.length > 0 && (isCall || digestOf({ output }) === expectedDigest({ items: history as never })))
          exact += 1;
        history.push(...output);
        previous = last.body.id;
        return output;
      };
      await ask([user('Grüße!')], { stream: true });
      const [call] = await ask([user('Now please look.')], { stream: true });
      await ask([{ type: 'function_call_output', call_id: call?.call_id, output: '“snow” ☃' }], { stream: false });
      await ask([user('And?')], { stream: true });
      await ask([user('More.')], { previous_response_id: previous });
      await ask([user('Not to be stored.')], { stream: true, store: false });
      await ask([user('More of it.')], { previous_response_id: previous, store: false });
      check(`${label}: ${exact} answers to the whole conversation`, exact === 7, shown());
      const counts = (await (await fetch(`${upstream}/counts`)).json()) as Record<string, number>;
      // Over HTTP only the client's own anchor is sent, if the provider has stored its response. On a socket the first turn is sent
      // whole, and the one that changes `store`, because a delta must not change any other field.
      const isSocket = transport === 'websocket';
      check(
        `${label}: over the right transport, with ${counts.anchored} deltas`,
        (isSocket ? counts.http === 0 : counts.websocket === 0) && counts.anchored === (isSocket ? 5 : 1),
        JSON.stringify(counts),
      );

      for (const stream of [true, false]) {
        const refused = await post(url, { model: 'nothing', input: 'Hi.', stream });
        const message = JSON.stringify(refused.body.error ?? refused.body);
        check(
          `${label}: a refusal keeps its status and its words${stream ? '' : ', also as JSON'}`,
          refused.status === 404 &&
            message.includes('There is no such model') &&
            (isSocket || refused.headers['retry-after'] === '7'),
          `${refused.status} ${refused.text}`,
        );
      }
      const unknown = await fetch(`${url}/v1/responses/resp_unknown`);
      const told = await unknown.text();
      check(
        `${label}: what the provider does not know is 404 in the provider's words`,
        unknown.status === 404 && told === '{"detail":"Response not found"}',
        `${unknown.status} ${told}`,
      );
      const lost = await post(url, { model: 'm', input: 'Hi.', previous_response_id: 'resp_unknown', stream: true });
      check(
        `${label}: an unknown anchor is refused with the code on which clients send everything`,
        [400, 404].includes(lost.status) && lost.text.includes('resp_unknown') === false
          ? lost.text.includes('previous_response_not_found')
          : lost.text.includes('previous_response_not_found') || lost.status === 404,
        `${lost.status} ${lost.text}`,
      );

      const slow = { model: 'm', input: [...history, user('Go on slowly.')], stream: true };
      const live = await openLive(url, slow, { 'thread-id': 'one' });
      await live.until('response.output_text.delta');
      program.signal('SIGTERM');
      const ending = await live.rest();
      const end = ending.events.at(-1)?.type;
      const { code } = await program.gone;
      check(
        `${label}: a provider that is shut down in the middle of a stream: ${end}`,
        !ending.cut && (end === 'response.completed' || end === 'response.failed'),
        program.text().slice(-600),
      );
      program = await start();
      exact = 0;
      await until(async () => {
        last = await post(url, slow, { 'thread-id': 'one' });
        return last.events.at(-1)?.type === 'response.completed';
      }, PATIENCE_MS);
      history.push(user('Go on slowly.'), ...doneItems(last!));
      previous = last!.body.id;
      await ask([user('And after the restart?')], { stream: true });
      await ask([user('Only the new item.')], { previous_response_id: previous, stream: true });
      check(
        `${label}: it comes back without a memory, and the conversation goes on`,
        exact === 2,
        `${code} ${shown()}`,
      );
    } finally {
      await worker.stop();
      program.signal('SIGKILL');
      await program.gone;
    }
  }
}
