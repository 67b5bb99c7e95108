import pg from 'pg';
import { pino } from 'pino';
import { afterEach, expect, it, vi } from 'vitest';
import { type FlightRecord, recordOf } from '../../src/observe/trace.ts';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { storyOf } from '../support/command.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

let at: TestBridge;
afterEach(() => at.close());

it('A story by session or response id describes the events and why the client got its answer', async () => {
  at = await startTestBridge();
  const first = await post(at.url, { model: 'm', stream: true, store: false, input: 'one' }, { 'thread-id': 't' });
  const story = await storyOf(first.body.id, at.url);
  expect(story).toContain('The upstream ended the turn');
  expect(story).toMatch(/Replayed, it ends in \{"live":"idle"\}/);
  await expect(storyOf('resp_unknown', at.url)).rejects.toThrow('There is no such session or response.');
});

it('A story by the beginning of an id, or by a request, names what the client got', async () => {
  at = await startTestBridge();
  const first = await post(at.url, { model: 'm', stream: true, store: false, input: 'one' }, { 'thread-id': 't' });
  const session = String(first.headers['x-holdfast-session']);
  const request = String(first.headers['x-request-id']);
  const answer = `The client got the provider's answer ${first.body.id}, completed, with x-holdfast-outcome created.`;
  expect(await storyOf(first.body.id, at.url)).toContain(answer);
  expect(await storyOf(first.body.id.slice(0, -4), at.url)).toContain(answer);
  expect(await storyOf(session.slice(0, 8), at.url)).toContain(`Session ${session.slice(0, 8)}, as recorded`);
  for (const named of [request, request.slice(0, 8)]) {
    const story = await storyOf(named, at.url);
    expect(story).toContain(`Request ${request}, turn`);
    expect(story).toContain("The client got the provider's answer, completed, with x-holdfast-outcome created.");
  }
  await post(at.url, { model: 'm', stream: true, store: false, input: 'two' }, { 'thread-id': 'u' });
  await expect(storyOf('resp', at.url)).rejects.toThrow(/Several ids begin with resp: resp_\w+, resp_\w+/);
});

/** Ends a turn badly, restarts the bridge when its story is stored, and returns the session. */
async function storedAndRestarted(): Promise<string> {
  at = await startTestBridge();
  at.simulator.script.onTurn({}, { kind: 'reset', at: { deltas: 1 } });
  const cut = await post(at.url, { model: 'm', stream: true, store: false, input: 'one' }, { 'thread-id': 't' });
  const session = String(cut.headers['x-holdfast-session']);
  await until(async () => (await at.store.story(session)) !== null);
  await at.restart();
  return session;
}

it('The story of a turn that ended badly is stored and available after a restart', async () => {
  const session = await storedAndRestarted();
  const story = await storyOf(session, at.url);
  expect(story).toContain('bridge_upstream_lost');
  expect(story).not.toContain('"one"');
});

it('Stored records, facts and snapshots of another form, as damage leaves them, are left out of what operators see', async () => {
  const session = await storedAndRestarted();
  const deep = '['.repeat(6_000) + ']'.repeat(6_000);
  const { facts } = (await at.store.turnDetails(session, 1))[0]!;
  const whole = (await at.store.story(session)) as FlightRecord;
  const records: unknown[] = [
    { ...whole, events: null },
    { ...whole, events: [{ ...whole.events[0], state: '{' }] },
    { ...whole, events: [{ ...whole.events[0], t: 1e300 }] },
    { ...whole, ending: { ...whole.ending, turn: 7 } },
    `{"events": ${deep}}`,
  ];
  const client = new pg.Client({ connectionString: at.databaseUrl });
  await client.connect();
  try {
    await client.query('update turn set facts = $1', [
      `{"outcome": ${deep}, "form": "${facts!.form}", "totalMs": "x"}`,
    ]);
    await client.query('update bridge_session set snapshot = $1', [
      `{"value": "live", "context": ${'['.repeat(900)}${']'.repeat(900)}}`,
    ]);
    for (const record of records) {
      const text = typeof record === 'string' ? record : JSON.stringify(record);
      await client.query('update session_story set record = $1', [text]);
      const answer = await fetch(`${at.url}/admin/sessions/${session}`);
      const shown = (await answer.json()) as { turns: { facts: object }[]; timeline: unknown };
      expect([answer.status, shown.timeline, shown.turns[0]!.facts]).toEqual([200, null, { form: facts!.form }]);
      expect((await fetch(`${at.url}/admin/stories/${session}`)).status).toBe(404);
      expect((await fetch(`${at.url}/admin/overview`)).status).toBe(200);
    }
  } finally {
    await client.end();
  }
  expect(recordOf(whole)).toEqual(whole);
  const long = { ...whole, events: Array(5_000).fill(whole.events[0]) };
  expect(recordOf(long)).toEqual(long);
  expect(recordOf({ ...whole, extra: 'private' })).toEqual(whole);
});

it('A story names cause and host when the upstream could not be reached, with or without a row of the session', async () => {
  const sessions: string[] = [];
  const logger = pino({ level: 'info' }, { write: (line) => void sessions.push(JSON.parse(line).session) });
  const port = await freePort();
  at = await startTestBridge({ logger, env: { HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${port}/v1?key=secret` } });
  await post(at.url, { model: 'm', stream: true, store: false, input: 'one' });
  const story = await storyOf(sessions.findLast((id) => id !== undefined)!, at.url);
  expect(story).toContain(`ECONNREFUSED at 127.0.0.1:${port}`);
  expect(story).not.toContain('secret');
});

it('Stories need the admin token where there is one', async () => {
  at = await startTestBridge({ env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
  const first = await post(at.url, { model: 'm', stream: true, input: 'one' });
  await expect(storyOf(first.body.id, at.url)).rejects.toThrow('set HOLDFAST_ADMIN_TOKEN');
  vi.stubEnv('HOLDFAST_ADMIN_TOKEN', 'operator');
  expect(await storyOf(first.body.id, at.url)).toContain('Session');
  vi.unstubAllEnvs();
});
