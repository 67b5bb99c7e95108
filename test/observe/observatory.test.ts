import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import express from 'express';
import { pino } from 'pino';
import { expect, it } from 'vitest';
import { createActor } from 'xstate';
import { sessionMachine } from '../../machines/session.ts';
import { readConfig } from '../../src/config.ts';
import { createObservatory } from '../../src/observe/index.ts';
import type { FlightRecord } from '../../src/observe/trace.ts';
import type { TurnRequest } from '../../src/session/port.ts';
import type { TurnLine } from '../../src/session/turn.ts';
import { TurnRecord } from '../../src/session/turn.ts';
import { randomIds } from '../../src/system.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { reporting } from '../support/steps.ts';

const sessionId = '6d1f6a52-2b43-4d6e-9a5e-000000000001';
const turnId = '6d1f6a52-2b43-4d6e-9a5e-00000000000a';

it('One call produces the log line, the metrics and the story of a turn', async () => {
  const lines: Record<string, unknown>[] = [];
  const bad: FlightRecord[] = [];
  const observatory = createObservatory({
    config: readConfig({ HOLDFAST_RECORDED_EVENTS: '3' }),
    worker: { id: 'w1' },
    clock: createManualClock(),
    ids: randomIds,
    logger: pino({ base: null }, { write: (text: string) => void lines.push(JSON.parse(text)) }),
    stories: {
      ...createMemoryStore({ clock: createManualClock() }),
      keepStory: async (_session, _turn, record) => void bad.push(record as FlightRecord),
    },
    processMetrics: false,
  });
  const session = createActor(sessionMachine, {
    id: `${sessionId}@1`,
    input: {},
    inspect: reporting(observatory.step),
  });
  session.start();
  const turn = new TurnRecord(turnId, { step: observatory.step });
  observatory.placed({ record: turn }, { id: sessionId });
  turn.note({ type: 'queue' });
  session.send({ type: 'deadline.connect' });
  turn.note({ type: 'fail' });
  const line = {
    ...{ response: null, tenant: 'local', key: null, model: 'm', status: 502, ownMs: null },
    ...{
      request: 'r',
      session: sessionId,
      epoch: 1,
      turn: turnId,
      transport: 'websocket',
      outcome: 'created',
      decidedBy: 'created',
      shape: 'fresh',
      form: null,
    },
    ...{
      terminal: 'failed',
      fault: 'bridge_upstream_unreachable',
      cause: 'ECONNREFUSED at h',
      upstreamStatus: null,
      upstreamRequest: null,
      heldMs: null,
    },
    ...{ firstEventMs: null, totalMs: 40, itemsFromClient: 1, itemsSent: null, bytesFromClient: 9, bytesSent: 0 },
    ...{ tokens: null, tokenIgnored: null },
  } satisfies TurnLine;
  observatory.turnEnded(line, {} as TurnRequest);
  observatory.close();
  expect(lines).toMatchObject([{ msg: 'turn', turn: turnId, terminal: 'failed' }]);
  expect(bad.map(({ events, dropped, ending }) => [events.map(({ event }) => event), dropped, ending?.fault])).toEqual([
    [['queue', 'deadline.connect', 'fail'], 1, 'bridge_upstream_unreachable'],
  ]);
  expect(observatory.story(sessionId)).toEqual(bad[0]);
  expect(await observatory.metrics.registry.metrics()).toContain(
    'holdfast_turns_total{outcome="created",shape="fresh",terminal="failed"} 1',
  );
});

it('The observatory answers its own refusals inside any app, and leaves the app’s other paths alone', async () => {
  const observatory = createObservatory({
    config: readConfig({ HOLDFAST_ADMIN_TOKEN: 'admin-token' }),
    worker: { id: 'w1' },
    clock: createManualClock(),
    ids: randomIds,
    logger: pino({ level: 'silent' }),
    stories: createMemoryStore({ clock: createManualClock() }),
  });
  const app = express().use(observatory.router);
  app.get('/mine', (_req, res) => void res.send('mine'));
  const server = createServer(app);
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    const refused = await fetch(`${url}/metrics`);
    expect([refused.status, await refused.json()]).toMatchObject([
      401,
      { error: { bridge_code: 'bridge_unauthorized' } },
    ]);
    expect((await fetch(`${url}/inspect/ticket`, { method: 'POST' })).status).toBe(401);
    const allowed = await fetch(`${url}/metrics`, { headers: { authorization: 'Bearer admin-token' } });
    expect(await allowed.text()).toContain('process_cpu_seconds_total');
    expect(await (await fetch(`${url}/mine`)).text()).toBe('mine');
  } finally {
    observatory.close();
    server.closeAllConnections();
    await new Promise((done) => server.close(done));
  }
});
