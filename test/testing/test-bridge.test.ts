import { expect, it } from 'vitest';
import { digestOf, expectedDigest, startSimulator, testBridge } from '../../src/testing/index.ts';
import { post } from '../support/client.ts';
import { freshDatabase } from '../support/database.ts';
import { user } from '../support/messages.ts';

const body = { model: 'm', stream: true, store: false };
const headers = { 'session-id': 'me' };

async function twice(at: { url: string; restart(): Promise<void> }) {
  const first = await post(at.url, { ...body, input: [user('one')] }, headers);
  await at.restart();
  const input = [user('one'), ...first.body.output, user('two')];
  const second = await post(at.url, { ...body, input }, headers);
  expect(second.headers['x-holdfast-outcome']).toBe('stale_recovery');
  expect(digestOf(second.body)).toBe(expectedDigest({ items: input as never }));
}

it('A test bridge keeps its conversations through a restart, in memory', async () => {
  await using at = await testBridge();
  await twice(at);
});

it('A test bridge keeps its conversations through a restart in a database of its user', async () => {
  const database = await freshDatabase();
  {
    await using at = await testBridge({ databaseUrl: database.url });
    await twice(at);
  }
  await database.drop();
});

it('A test bridge leaves a simulator open that it did not start', async () => {
  const simulator = await startSimulator();
  for (const text of ['one', 'two']) {
    await using at = await testBridge({ simulator });
    expect((await post(at.url, { ...body, input: text })).status).toBe(200);
  }
  expect(simulator.journal.of('create')).toHaveLength(2);
  await simulator.close();
});

it('A test bridge shows every step of its machines', async () => {
  const seen = new Set<string>();
  const calls: string[] = [];
  await using at = await testBridge({
    inspect: (event) => {
      if (event.type === '@xstate.snapshot') seen.add(event.event.type);
    },
    wrapStore: (store) => ({
      ...store,
      start(call) {
        calls.push('start');
        return store.start(call);
      },
    }),
  });
  const first = await post(at.url, { ...body, input: 'one' }, headers);
  await post(at.url, { ...body, previous_response_id: first.body.id, input: 'two' }, headers);
  for (const type of ['registration.confirmed', 'socket.opened', 'store.started', 'stream', 'upstream.ended']) {
    expect(seen).toContain(type);
  }
  expect(calls).toEqual(['start']);
});
