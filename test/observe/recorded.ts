import { request } from 'undici';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { type Answer, post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

/** Content of the run and its credentials: none of them may be visible anywhere. */
export const SECRETS = ['grandmother', 'lemon cake', 'sk-test', 'keep-it-closed'];

export type Stage = 'connecting' | 'live' | 'reconnecting' | 'stale' | 'elsewhere' | 'closed';

/** Two workers on one database. */
export interface Pair {
  a: TestBridge;
  b: TestBridge;
  close(): Promise<void>;
}

export async function startPair(env: Record<string, string> = {}): Promise<Pair> {
  const settings = {
    HOLDFAST_RECORDED_EVENTS: '500',
    HOLDFAST_CONNECT_MS: '20000',
    // With `auto` a refused handshake would move the turn to HTTP, and the wait for a socket would not be visible.
    HOLDFAST_UPSTREAM_TRANSPORT: 'websocket',
    HOLDFAST_LAME_DUCK_MS: '0',
    ...env,
  };
  const a = await startTestBridge({ env: settings, simulator: { deltaCount: 5 } });
  const b = await startTestBridge({ env: settings, beside: a });
  return {
    a,
    b,
    async close() {
      await b.close();
      await a.close();
    },
  };
}

const headers = { 'thread-id': 'keep-it-closed' };
const body = (input: object[]) => ({ model: 'm', store: false, input });

async function act(at: TestBridge, id: string, action: string): Promise<void> {
  const answer = await request(`${at.url}/admin/sessions/${id}/${action}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
  });
  if (answer.statusCode !== 200) throw new Error(`${action}: ${answer.statusCode} ${await answer.body.text()}`);
  await answer.body.dump();
}

/**
 * Leads one session through every state: it connects and is live on A, loses its socket during a turn, is released, is
 * live on B, and is closed. It stays in each state until `look` has seen it.
 *
 * @returns the session's id
 */
export async function run(
  { a, b }: Pair,
  look: (stage: Stage, sessionId: string | null) => Promise<void>,
): Promise<string> {
  const { script } = a.simulator;
  const stateAt = (at: TestBridge) => at.bridge.sessions()[0]?.state ?? null;
  const refused = () => script.onUpgrade({}, { kind: 'refuse', status: 503 }, { times: 'always' });

  let refusal = refused();
  const history: object[] = [user('my grandmother says hello')];
  const first = openLive(a.url, body(history), headers);
  await until(() => stateAt(a)?.startsWith('connecting') ?? false);
  await look('connecting', null);

  let held = script.onTurn({}, [
    { kind: 'hold', at: 'before_terminal' },
    { kind: 'reply', output: 'lemon cake' },
  ]);
  refusal.remove();
  const opening = await first;
  const id = String(opening.headers['x-holdfast-session']);
  await opening.until('response.output_item.done');
  await look('live', id);
  held.release();
  const { events } = await opening.rest();
  history.push(...(events.at(-1)!.data.response as Answer['body']).output, user('and my grandmother says more'));

  script.onTurn({}, { kind: 'close', at: 'before_created' });
  refusal = refused();
  const second = post(a.url, { ...body(history), stream: true }, headers);
  await until(() => stateAt(a)?.startsWith('reconnecting') ?? false);
  await look('reconnecting', id);
  refusal.remove();
  history.push(...(await second).body.output, user('that was all of my grandmother'));
  await until(() => stateAt(a) === 'live.idle');

  // The operator asks B, which does not own the session: B forwards the request to A.
  await act(b, id, 'release');
  await until(() => stateAt(a) === null);
  await look('stale', id);

  held = script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
  const third = await openLive(b.url, body(history), headers);
  await third.until('response.output_item.done');
  await look('elsewhere', id);
  held.release();
  await third.rest();
  await until(() => stateAt(b) === 'live.idle');

  await act(b, id, 'close');
  await until(() => stateAt(b) === null);
  await look('closed', id);
  return id;
}
