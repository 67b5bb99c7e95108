import { afterEach, expect, it } from 'vitest';
import type { BridgeHooks, TurnReport } from '../../src/index.ts';
import { startSimulator } from '../../src/testing/index.ts';
import { startTestBridge } from '../support/bridge.ts';
import { until } from '../support/until.ts';

const undo: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

it('A forwarded request keeps the tenant, credential and upstream that the first worker’s hooks have named', async () => {
  const other = await startSimulator();
  undo.push(() => other.close());
  const turns: TurnReport[] = [];
  let asked = 0;
  const hooks: BridgeHooks = {
    authenticate({ headers }) {
      asked += 1;
      return { tenant: String(headers['x-user']), credential: `sk-of-${headers['x-user']}` };
    },
    chooseUpstream: ({ model }) => (model === 'local' ? 'local' : null),
    onTurn: (turn) => void turns.push(turn),
  };
  const options = { hooks, upstreams: { local: other.url } };
  const one = await startTestBridge(options);
  undo.push(() => one.close());
  const two = await startTestBridge({ ...options, beside: one });
  undo.push(() => two.close());
  const ask = async (url: string, body: object) => {
    const answer = await fetch(`${url}/v1/responses`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'x-user': 'ann', authorization: 'Bearer of-the-app' },
      body: JSON.stringify({ model: 'local', input: 'Say hi.', ...body }),
    });
    const { id } = (await answer.json()) as { id: string };
    return { id, status: answer.status, outcome: answer.headers.get('x-holdfast-outcome') };
  };
  const first = await ask(one.url, {});
  const more = await ask(two.url, { previous_response_id: first.id, input: 'More.' });
  expect([first, more]).toMatchObject([
    { status: 200, outcome: 'created' },
    { status: 200, outcome: 'live_reuse' },
  ]);
  const opened = other.journal.of('opened');
  expect(opened.map(({ headers }) => headers.authorization)).toEqual(['Bearer sk-of-ann']);
  expect(other.journal.of('create')).toHaveLength(2);
  expect(one.simulator.journal.of('create')).toHaveLength(0);
  expect(asked).toBe(2);
  await until(() => turns.length === 3);
  expect(new Set(turns.map(({ tenant, upstream }) => `${tenant} ${upstream}`)).size).toBe(1);
  // Each turn is counted once, by the worker that ran it.
  expect(turns.filter(({ tokens }) => tokens !== null)).toHaveLength(2);
});
