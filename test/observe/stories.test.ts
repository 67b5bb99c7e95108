import { pino } from 'pino';
import { afterEach, expect, it } from 'vitest';
import { tellStory } from '../../src/ask.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

let at: TestBridge;
afterEach(() => at.close());

const asked = () => ({ url: at.url, adminToken: null });

it('A story by session or response id describes the events and why the client got its answer', async () => {
  at = await startTestBridge();
  const first = await post(at.url, { model: 'm', stream: true, store: false, input: 'one' }, { 'thread-id': 't' });
  const story = await tellStory(first.body.id, asked());
  expect(story).toContain('The upstream ended the turn');
  expect(story).toMatch(/Replayed, it ends in \{"live":"idle"\}/);
  await expect(tellStory('resp_unknown', asked())).rejects.toThrow('There is no such session or response.');
});

it('The story of a turn that ended badly is stored and available after a restart', async () => {
  at = await startTestBridge();
  at.simulator.script.onTurn({}, { kind: 'reset', at: { deltas: 1 } });
  const cut = await post(at.url, { model: 'm', stream: true, store: false, input: 'one' }, { 'thread-id': 't' });
  const session = String(cut.headers['x-holdfast-session']);
  await until(async () => (await at.store.story(session)) !== null);
  await at.restart();
  const story = await tellStory(session, asked());
  expect(story).toContain('bridge_upstream_lost');
  expect(story).not.toContain('"one"');
});

it('A story names cause and host when the upstream could not be reached, with or without a row of the session', async () => {
  const sessions: string[] = [];
  const logger = pino({ level: 'info' }, { write: (line) => void sessions.push(JSON.parse(line).session) });
  const port = await freePort();
  at = await startTestBridge({ logger, env: { HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${port}/v1?key=secret` } });
  await post(at.url, { model: 'm', stream: true, store: false, input: 'one' });
  const story = await tellStory(sessions.findLast((id) => id !== undefined)!, asked());
  expect(story).toContain(`ECONNREFUSED at 127.0.0.1:${port}`);
  expect(story).not.toContain('secret');
});

it('Stories need the admin token where there is one', async () => {
  at = await startTestBridge({ env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
  const first = await post(at.url, { model: 'm', stream: true, input: 'one' });
  await expect(tellStory(first.body.id, asked())).rejects.toThrow('API key');
  expect(await tellStory(first.body.id, { ...asked(), adminToken: 'operator' })).toContain('Session');
});
