import { once } from 'node:events';
import { afterEach, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';

let running: TestBridge | null = null;
afterEach(async () => {
  await running?.close();
  running = null;
});

interface Shown {
  type: string;
  sessionId: string;
  parentId?: string;
  event?: { type: string };
  snapshot?: { status: string; value: unknown };
}

it('A turn appears in the inspector and in the metrics without any of its content', async () => {
  running = await startTestBridge();
  const viewer = new WebSocket(`${running.url.replace('http', 'ws')}/inspect/socket`);
  const shown: Shown[] = [];
  const completed = Promise.withResolvers<void>();
  viewer.on('message', (data) => {
    const message = JSON.parse(String(data)) as Shown;
    shown.push(message);
    if (message.type === '@xstate.snapshot' && message.snapshot?.value === 'completed') completed.resolve();
  });
  await once(viewer, 'message');
  const answer = await post(running.url, { model: 'm', input: 'my grandmother’s recipe', stream: true });
  expect(answer.status).toBe(200);
  await completed.promise;
  viewer.close();
  await once(viewer, 'close');

  expect(shown[0]!.sessionId).toBe(`worker:${running.bridge.workerId}`);
  const session = shown.find(({ sessionId }) => sessionId.startsWith('session:'))!;
  const turn = shown.find(({ sessionId }) => sessionId.startsWith('turn:'))!;
  expect(turn).toMatchObject({ type: '@xstate.actor', parentId: session.sessionId });
  const events = shown.filter(({ type, sessionId }) => type === '@xstate.event' && sessionId === session.sessionId);
  expect(events.map(({ event }) => event?.type).slice(0, 4)).toEqual([
    'xstate.init',
    'socket.opened',
    'store.started',
    'upstream.progress',
  ]);
  expect(JSON.stringify(shown)).not.toMatch(/grandmother|sk-test/);

  const metrics = await (await fetch(`${running.url}/metrics`)).text();
  expect(metrics).toContain('holdfast_turns_total{outcome="created",shape="fresh",terminal="completed"} 1');
  expect(metrics).toContain('holdfast_client_turns_total{transport="http",terminal="completed"} 1');
  expect(metrics).toContain('holdfast_upstream_sockets 1');
  expect(metrics).toContain('holdfast_sessions{state="live"} 1');
  expect(metrics).toContain('holdfast_store_verdicts_total{call="create",verdict="ok"} 1');
  expect(metrics).toMatch(/holdfast_heartbeat_age_milliseconds \d/);
  expect(metrics).not.toContain(session.sessionId.slice('session:'.length));
  const other = new WebSocket(`${running.url.replace('http', 'ws')}/v1/models`);
  other.on('error', () => {});
  const [, refusal] = (await once(other, 'unexpected-response')) as [unknown, { statusCode: number }];
  expect(refusal.statusCode).toBe(426);
  other.terminate();
});

it('A viewer that does not read is disconnected, and delays no turn', async () => {
  running = await startTestBridge({ env: { HOLDFAST_INSPECT_BUFFER_BYTES: '100000' } });
  const { url } = running;
  const slow = new WebSocket(`${url.replace('http', 'ws')}/inspect/socket`);
  await once(slow, 'message');
  slow.pause();
  const count = async (name: string) =>
    Number(new RegExp(`^${name} (\\d+)$`, 'm').exec(await (await fetch(`${url}/metrics`)).text())?.[1] ?? 0);
  let turns = 0;
  // The buffers of the operating system must be full before data accumulates here.
  while ((await count('holdfast_inspect_cut_off_total')) === 0 && turns < 2_000) {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, thread) =>
        post(url, { model: 'm', input: 'x', stream: true, store: false }, { 'thread-id': `${thread}` }),
      ),
    );
    expect(answers.map(({ body, text }) => body.status ?? text)).toEqual(Array(20).fill('completed'));
    turns += 20;
  }
  expect(await count('holdfast_inspect_cut_off_total')).toBe(1);
  expect(await count('holdfast_inspect_viewers')).toBe(0);
  slow.terminate();
}, 60_000);
