import { afterAll, beforeAll, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
beforeAll(async () => {
  at = await startTestBridge();
});
afterAll(() => at?.close());

it('A settled turn stores how it was placed and sent, with sizes in bytes and not in characters', async () => {
  const headers = { 'thread-id': crypto.randomUUID() };
  const history: object[] = [user('Grüße aus Zürich '.repeat(200))];
  const first = await post(at.url, { model: 'm', stream: true, store: false, input: history }, headers);
  history.push(...first.body.output, user('weiß man schon'));
  await post(at.url, { model: 'm', stream: true, store: false, input: history }, headers);
  const sessionId = String(first.headers['x-holdfast-session']);
  const [second, opening] = await at.store.turnDetails(sessionId, 9);
  const sent = at.simulator.journal.of('create').map(({ bytes }) => bytes);
  expect([opening!.facts, second!.facts]).toMatchObject([
    { outcome: 'created', form: 'full', bytesSent: sent[0], creates: 1, fault: null },
    { outcome: 'live_reuse', form: 'delta', bytesSent: sent[1], creates: 1, fault: null },
  ]);
  expect(second!.facts!.bytesFromClient).toBeGreaterThan(5 * second!.facts!.bytesSent);
});

it('A failed turn stores its failure', async () => {
  at.simulator.script.onTurn({}, { kind: 'error', error: { status: 500, code: 'server_error', message: 'no' } });
  const answer = await post(
    at.url,
    { model: 'm', stream: true, store: false, input: 'one' },
    { 'thread-id': 'failing' },
  );
  const [turn] = await at.store.turnDetails(String(answer.headers['x-holdfast-session']), 9);
  expect(turn).toMatchObject({ state: 'failed', facts: { outcome: 'created', form: 'full' } });
});
