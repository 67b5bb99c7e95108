import { once } from 'node:events';
import { request } from 'node:http';
import { createWebSocketReceiver } from '@statelyai/inspect';
import { afterEach, expect, it } from 'vitest';
import { WebSocket } from 'ws';
import { createOperatorAccess } from '../../src/http/access.ts';
import { startActor } from '../../src/runtime/index.ts';
import { sessionProgram } from '../../src/session/session.ts';
import { TurnRecord } from '../../src/session/turn.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { type ServedInspection, serveInspection } from './viewer.ts';

const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

async function served(over?: Parameters<typeof serveInspection>[0]): Promise<ServedInspection> {
  const running = await serveInspection(over);
  cleanups.push(() => running.close());
  return running;
}

/** Requests an upgrade; returns its status, 101 when accepted. */
function upgrade(url: string, headers: Record<string, string> = {}): Promise<number> {
  const { host, pathname, search } = new URL(url);
  const [hostname, port] = host.split(':');
  const asked = request({
    hostname,
    port,
    path: pathname + search,
    headers: {
      host,
      connection: 'upgrade',
      upgrade: 'websocket',
      'sec-websocket-version': '13',
      'sec-websocket-key': 'dGhlIHNhbXBsZSBub25jZQ==',
      ...headers,
    },
  });
  asked.end();
  return new Promise((resolve, reject) => {
    asked.on('error', reject);
    asked.on('upgrade', (_res, socket) => {
      socket.destroy();
      resolve(101);
    });
    asked.on('response', (res) => {
      res.resume();
      resolve(res.statusCode!);
    });
  });
}

const sessionId = '6d1f6a52-2b43-4d6e-9a5e-000000000001';

const startSession = (recorder: ServedInspection['recorder']) =>
  startActor(sessionProgram, {
    id: `${sessionId}@1`,
    input: {},
    perform: () => {},
    clock: createManualClock(),
    durations: () => Number.POSITIVE_INFINITY,
    inspect: { step: recorder.observe },
  });

it('The stock receiver of the inspector protocol reads every event in order', async () => {
  const { recorder, socketUrl } = await served();
  const session = startSession(recorder);
  cleanups.push(() => session.stop());
  const received: { type: string; sessionId: string; event?: { type: string; generation?: number } }[] = [];
  const complete = Promise.withResolvers<void>();
  const joined = Promise.withResolvers<void>();
  createWebSocketReceiver({ server: socketUrl }).subscribe((event) => {
    received.push(event as never);
    joined.resolve();
    if (event.type === '@xstate.snapshot' && event.event.type === 'xstate.stop') complete.resolve();
  });
  await joined.promise;
  const turn = new TurnRecord('6d1f6a52-2b43-4d6e-9a5e-00000000000a', { step: recorder.observe });
  recorder.place(turn, sessionId);
  turn.note({ type: 'queue' });
  turn.note({ type: 'fail' });
  for (let generation = 1; generation <= 500; generation += 1)
    session.send({ type: 'socket.failed', generation: -generation });
  session.stop();
  await complete.promise;
  const order = received.map(({ type, event }) =>
    `${type.slice(8)} ${event?.type ?? ''} ${event?.generation ?? ''}`.trim(),
  );
  const expected = ['actor', 'actor', 'event queue', 'snapshot queue', 'event fail', 'snapshot fail'];
  for (let generation = 1; generation <= 500; generation += 1) {
    expected.push(`event socket.failed ${-generation}`, `snapshot socket.failed ${-generation}`);
  }
  expect(order).toEqual([...expected, 'snapshot xstate.stop']);
  expect(received[0]).toMatchObject({
    type: '@xstate.actor',
    sessionId: `session:${sessionId}`,
    _version: expect.any(String),
  });
  expect(received[1]).toMatchObject({ parentId: `session:${sessionId}` });
});

it('A viewer that does not read is disconnected without delay, and counted', async () => {
  let cutOff = 0;
  const { inspection, recorder, socketUrl } = await served({ bufferBytes: 200_000, onCutOff: () => (cutOff += 1) });
  const session = startSession(recorder);
  cleanups.push(() => session.stop());
  const slow = new WebSocket(socketUrl);
  cleanups.push(() => slow.terminate());
  await once(slow, 'message');
  slow.pause();
  // Synchronously: nothing can be read in between, and the buffers of the operating system are bounded too.
  for (let i = 0; i < 200_000 && inspection.viewers > 0; i += 1)
    session.send({ type: 'socket.failed', generation: -1 });
  expect(inspection.viewers).toBe(0);
  expect(cutOff).toBe(1);
  expect(session.state).toBe('connecting.dialing');
});

it('A viewer that disconnects is removed', async () => {
  const { inspection, recorder, socketUrl } = await served();
  const session = startSession(recorder);
  cleanups.push(() => session.stop());
  const viewer = new WebSocket(socketUrl);
  await once(viewer, 'message');
  expect(inspection.viewers).toBe(1);
  viewer.close();
  await once(viewer, 'close');
  await expect.poll(() => inspection.viewers).toBe(0);
});

it('The inspector socket accepts operators only, from its own origin only, and a bounded number of them', async () => {
  const open = await served({ viewers: 1 });
  expect(await upgrade(open.socketUrl)).toBe(101);
  expect(await upgrade(open.socketUrl, { origin: open.url })).toBe(101);
  expect(await upgrade(open.socketUrl, { origin: 'https://evil.example' })).toBe(401);
  expect(await upgrade(open.socketUrl, { origin: 'null' })).toBe(401);
  // A foreign host name that resolves to the loopback address.
  expect(await upgrade(open.socketUrl, { host: 'evil.example:80', origin: 'http://evil.example' })).toBe(401);
  expect(await upgrade(open.socketUrl, { 'x-forwarded-for': '203.0.113.7' })).toBe(401);
  const only = new WebSocket(open.socketUrl);
  await once(only, 'open');
  await expect.poll(() => open.inspection.viewers).toBe(1);
  expect(await upgrade(open.socketUrl)).toBe(503);
  only.terminate();
  expect(await upgrade(open.socketUrl.replace('/socket', '/other'))).toBe(426);
});

it('A holder of the admin token gets a ticket that opens one socket', async () => {
  const clock = createManualClock();
  const { url, socketUrl } = await served({ allow: createOperatorAccess('admin-token'), clock });
  const ticketFor = (token: string) =>
    fetch(`${url}/inspect/ticket`, { method: 'POST', headers: { authorization: `Bearer ${token}` } });
  expect((await ticketFor('wrong')).status).toBe(401);
  expect((await fetch(`${url}/inspect/ticket`, { method: 'POST' })).status).toBe(401);
  const { ticket } = (await (await ticketFor('admin-token')).json()) as { ticket: string };
  expect(await upgrade(socketUrl)).toBe(401);
  expect(await upgrade(socketUrl, { authorization: 'Bearer admin-token' })).toBe(101);
  expect(await upgrade(`${socketUrl}?ticket=${ticket}`, { origin: url })).toBe(101);
  expect(await upgrade(`${socketUrl}?ticket=${ticket}`, { origin: url })).toBe(401);
  const { ticket: late } = (await (await ticketFor('admin-token')).json()) as { ticket: string };
  clock.advance(30_000);
  expect(await upgrade(`${socketUrl}?ticket=${late}`)).toBe(401);
});

it('A ticket opens a socket at another worker with the same key, and at none with another key or when it was changed', async () => {
  const allow = createOperatorAccess('admin-token');
  const first = await served({ allow });
  const issue = async () => {
    const headers = { authorization: 'Bearer admin-token' };
    const answer = await fetch(`${first.url}/inspect/ticket`, { method: 'POST', headers });
    return ((await answer.json()) as { ticket: string }).ticket;
  };
  const other = await served({ allow });
  expect(await upgrade(`${other.socketUrl}?ticket=${await issue()}`)).toBe(101);
  const foreign = await served({ allow, ticketKey: 'another-key' });
  expect(await upgrade(`${foreign.socketUrl}?ticket=${await issue()}`)).toBe(401);
  const later = (await issue()).replace(/^\d+/, (until) => String(Number(until) + 1));
  for (const changed of [later, `${await issue()}A`, '', 'a.b.c']) {
    expect(await upgrade(`${other.socketUrl}?ticket=${changed}`)).toBe(401);
  }
});

it('The inspector page holds no data, and may only run its own script and frame the viewer', async () => {
  const { url } = await served({
    inspectorUrl: 'https://viewer.example/inspect?a="><script>',
    allow: createOperatorAccess('t'),
  });
  const answer = await fetch(`${url}/inspect/stately`);
  const text = await answer.text();
  const policy = answer.headers.get('content-security-policy')!;
  expect(answer.headers.get('content-type')).toContain('text/html');
  expect(policy).toContain("default-src 'none'");
  expect(policy).toContain('frame-src https://viewer.example;');
  expect(policy).not.toMatch(/unsafe|\*/);
  expect(text).not.toContain('a="><script>');
  const script = /<script>([\s\S]*)<\/script>/.exec(text)![1]!;
  const digest = Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from(script))).toString('base64');
  expect(policy).toContain(`script-src 'sha256-${digest}'`);
  expect(() => new Function(script)).not.toThrow();
});
