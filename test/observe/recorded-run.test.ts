import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createWebSocketReceiver } from '@statelyai/inspect';
import { chromium } from 'playwright-core';
import { afterEach, expect, it } from 'vitest';
import type { FlightRecord } from '../../src/observe/trace.ts';
import type { TestBridge } from '../support/bridge.ts';
import { until } from '../support/until.ts';
import { type Pair, run, SECRETS, type Stage, startPair } from './recorded.ts';

const browserPath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';

let pair: Pair;
afterEach(() => pair.close());

interface Shown {
  type: '@xstate.actor' | '@xstate.event' | '@xstate.snapshot';
  id: string;
  sessionId: string;
  parentId?: string;
  event?: { type: string };
  snapshot?: { status: string; value: unknown };
}

/** Connects the inspector's own client to one worker. */
async function watch(at: TestBridge): Promise<Shown[]> {
  const shown: Shown[] = [];
  const joined = Promise.withResolvers<void>();
  createWebSocketReceiver({ server: `${at.url.replace('http', 'ws')}/inspect/socket` }).subscribe((event) => {
    shown.push(event as unknown as Shown);
    joined.resolve();
  });
  await joined.promise;
  return shown;
}

/** Returns the memory of a worker's flight recorder: an independent record that no socket has carried. */
async function recorded(at: TestBridge, id: string): Promise<FlightRecord> {
  const answer = await fetch(`${at.url}/admin/stories/${id}`);
  return ((await answer.json()) as { record: FlightRecord }).record;
}

const stepsRecorded = ({ events, sessionId }: FlightRecord, actor: (name: string) => boolean) =>
  events
    .filter((event) => actor(event.actor))
    .flatMap(({ actor: name, event, state, times = 1 }) =>
      Array.from(
        { length: times },
        () => `${name.startsWith('turn:') ? name : `session:${sessionId}`} ${event} ${state}`,
      ),
    );
const stepsShown = (shown: Shown[], kind: string) =>
  shown
    .filter(({ type, sessionId }) => type === '@xstate.snapshot' && sessionId.startsWith(kind))
    .map(({ sessionId, event, snapshot }) => `${sessionId} ${event!.type} ${JSON.stringify(snapshot!.value)}`);

const topOf = ({ snapshot }: Shown) => {
  const { value } = snapshot!;
  return typeof value === 'string' ? value : Object.keys(value as object)[0]!;
};

it('The stock inspector sees a whole run at both workers as one session, without any of its content', async () => {
  pair = await startPair();
  const { a, b } = pair;
  const atA = await watch(a);
  const atB = await watch(b);
  let late: Shown[] = [];
  let recordOfA!: FlightRecord;
  let reached = 0;
  const id = await run(pair, async (stage, sessionId) => {
    if (stage === 'live') {
      late = await watch(a);
      await until(() => late.some(({ sessionId: who }) => who.startsWith('turn:')));
    }
    if (stage === 'stale') {
      recordOfA = await recorded(a, sessionId!);
      reached = atA.length;
    }
  });
  const me = `session:${id}`;
  const ofMe = (shown: Shown[]) =>
    shown.filter(({ sessionId, type }) => sessionId === me && type === '@xstate.snapshot');
  await until(() =>
    atB.some(({ sessionId, snapshot }) => sessionId === me && snapshot?.status !== 'active' && snapshot),
  );
  const recordOfB = await recorded(b, id);

  // Every step, in order, of the session and of each of its turns.
  for (const [shown, record] of [
    [atA, recordOfA],
    [atB, recordOfB],
  ] as const) {
    expect([record.dropped, stepsShown(shown, 'session:').length > 5]).toEqual([0, true]);
    expect(stepsShown(shown, 'session:')).toEqual(stepsRecorded(record, (name) => name.startsWith('session@')));
    const turns = shown.filter(({ type, sessionId }) => type === '@xstate.actor' && sessionId.startsWith('turn:'));
    for (const { sessionId: turn, parentId } of turns) {
      expect(parentId).toBe(me);
      expect(stepsShown(shown, turn)).toEqual(stepsRecorded(record, (name) => name === turn));
    }
    expect(new Set(shown.map((each) => each.id)).size).toBe(shown.length);
  }
  expect(reached).toBeGreaterThan(40);

  // One identity over all states.
  const sessions = [...atA, ...atB].filter(({ sessionId }) => sessionId.startsWith('session:'));
  expect(new Set(sessions.map(({ sessionId }) => sessionId))).toEqual(new Set([me]));
  const way = [...ofMe(atA), ...ofMe(atB)].map(topOf).filter((state, index, all) => state !== all[index - 1]);
  expect(way).toEqual(['connecting', 'live', 'reconnecting', 'live', 'stale', 'reconnecting', 'live', 'closed']);

  // A late viewer receives the running actors first: the worker, the session, then its turn.
  expect(late.slice(0, 3).map(({ type, sessionId }) => `${type} ${sessionId.split(':')[0]}`)).toEqual([
    '@xstate.actor worker',
    '@xstate.actor session',
    '@xstate.actor turn',
  ]);
  expect(late[1]).toMatchObject({ sessionId: me, snapshot: { value: { live: { streaming: { flow: 'flowing' } } } } });
  expect(late[2]).toMatchObject({ parentId: me });

  const everything = JSON.stringify([atA, atB, late]);
  for (const secret of SECRETS) expect(everything).not.toContain(secret);
}, 30_000);

it('Viewers that may see content do not see credentials', async () => {
  pair = await startPair({ HOLDFAST_INSPECT_CONTENT: 'on' });
  const [atA, atB] = [await watch(pair.a), await watch(pair.b)];
  await run(pair, async () => {});
  const everything = JSON.stringify([atA, atB]);
  expect(everything).toContain('"generation":');
  expect(everything).not.toMatch(/sk-test|Bearer/);
}, 30_000);

it.skipIf(!existsSync(browserPath))(
  'The explorer highlights the session in each of its states, whichever worker serves the page',
  async () => {
    pair = await startPair();
    const shots = process.env.TEST_SCREENSHOTS;
    if (shots) await mkdir(shots, { recursive: true });
    const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });
    const lit: Partial<Record<Stage, string>> = {
      live: 'live.streaming.flow.flowing',
      reconnecting: 'reconnecting.resending',
      stale: 'stale',
      elsewhere: 'live.streaming.flow.flowing',
      closed: 'closed',
    };
    try {
      // Both pages show the session wherever it runs: B's page while A owns it, and the reverse.
      const [atA, atB] = await Promise.all(
        [pair.a, pair.b].map((at) => browser.newPage({ baseURL: at.url, viewport: { width: 1560, height: 1100 } })),
      );
      await run(pair, async (stage, sessionId) => {
        if (sessionId === null) return;
        for (const [name, page] of [
          ['a', atA!],
          ['b', atB!],
        ] as const) {
          if (!page.url().includes(sessionId)) await page.goto(`/admin/ui#/sessions/${sessionId}`);
          await page.waitForSelector(`.state.lit[data-state="${lit[stage]}"]`, { timeout: 8_000 });
          if (shots) await page.screenshot({ path: join(shots, `run-${stage}-${name}.png`) });
          const text = await page.content();
          for (const secret of SECRETS) expect(text).not.toContain(secret);
        }
      });
    } finally {
      await browser.close();
    }
  },
  60_000,
);
