import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { createWebSocketInspector } from '@statelyai/inspect';
import type { Browser } from 'playwright-core';
import { afterEach, describe, expect, it } from 'vitest';
import { createActor, setup } from 'xstate';
import { sessionMachine } from '../../machines/session.ts';
import { sessionOutline } from '../../src/admin/views.ts';
import { run, type Stage, startPair } from '../observe/recorded.ts';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { hasBrowser, LIMIT_MS, launch, openPage, shoot, violations } from './support.ts';

const browserFiles = new URL('../../src/explorer/browser/', import.meta.url);
const { outlineOf, stateText } = await import(new URL('definition.js', browserFiles).href);
const { createFeed } = await import(new URL('feed.js', browserFiles).href);

const ends: (() => unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});
async function start(): Promise<Browser> {
  const browser = await launch();
  ends.push(() => browser.close());
  return browser;
}

describe('definitions of machines in the inspector', () => {
  it('The outline that the inspector reads from a definition is that of the running machine', () => {
    const read = outlineOf(JSON.stringify(sessionMachine.config));
    const known = sessionOutline();
    expect(read.states).toEqual(known.states);
    const sorted = (list: { from: string; event: string; to: string | null; guard: string | null }[]) =>
      list.map(({ from, event, to, guard }) => [from, event, to, guard].join(' ')).toSorted();
    expect(sorted(read.transitions)).toEqual(sorted(known.transitions));
  });

  it('Delayed, eventless and invoked transitions of other machines are drawn, and nonsense is none', () => {
    const { states, transitions } = outlineOf(
      JSON.stringify({
        id: 'light',
        initial: 'green',
        states: {
          green: { after: { 1000: 'yellow' } },
          yellow: { always: [{ target: 'red', guard: { type: 'late' } }, '#light.green'] },
          red: {
            initial: 'walk',
            onDone: 'green',
            states: { walk: { invoke: { src: 'timer', onDone: '.' } }, stop: { type: 'final' } },
          },
        },
      }),
    );
    expect(states.map(({ path, kind }: { path: string; kind: string }) => `${path} ${kind}`)).toEqual([
      ...[' compound', 'green atomic', 'yellow atomic', 'red compound', 'red.walk atomic', 'red.stop final'],
    ]);
    expect(transitions).toMatchObject([
      { from: 'green', event: 'after 1000', to: 'yellow' },
      { from: 'yellow', event: 'always', to: 'red', guard: 'late' },
      { from: 'yellow', event: 'always', to: 'green' },
      { from: 'red', event: 'done', to: 'green' },
      { from: 'red.walk', event: 'done timer' },
    ]);
    for (const odd of ['', 'null', '[]', '{"states":1}', '{']) expect(outlineOf(odd)).toBe(null);
    expect(stateText({ live: { streaming: { flow: 'waiting', client: 'attached' } } })).toBe(
      'live.streaming (flow.waiting, client.attached)',
    );
  });

  it('The feed ignores what is not of the protocol, and is bounded', () => {
    const feed = createFeed();
    for (const odd of [null, 1, {}, { type: '@xstate.actor' }, { type: 'other', sessionId: 'a' }]) feed.take(odd);
    expect([feed.taken, feed.actors.size]).toEqual([0, 0]);
    for (let at = 0; at < 6_000; at += 1)
      feed.take({ type: '@xstate.event', sessionId: `a${at % 900}`, event: { type: 'E' }, createdAt: '1' });
    expect([feed.taken, feed.events.length <= 4_000, feed.actors.size <= 500]).toEqual([6_000, true, true]);
  });
});

describe.skipIf(!hasBrowser)('inspector in a browser without a network', () => {
  it(
    'The inspector shows a session through all its states, with the messages between its participants',
    async () => {
      const pair = await startPair();
      ends.push(() => pair.close());
      const browser = await start();
      // Both workers are watched: each shows the actors that run there. A request to any other host would be a complaint.
      const [atA, atB] = await Promise.all([pair.a, pair.b].map((at) => openPage(browser, at.url, '/inspect')));
      await atA!.page.locator('output', { hasText: 'watching' }).waitFor();
      await atB!.page.locator('output', { hasText: 'watching' }).waitFor();
      const lit: Record<Stage, [page: typeof atA, state: string] | null> = {
        connecting: [atA, 'connecting'],
        live: [atA, 'live.streaming.flow.flowing'],
        reconnecting: [atA, 'reconnecting.resending'],
        stale: [atA, 'stale'],
        elsewhere: [atB, 'live.streaming.flow.flowing'],
        closed: [atB, 'closed'],
      };
      await run(pair, async (stage) => {
        const [shown, state] = lit[stage]!;
        await shown!.page.waitForSelector(`.state.lit[data-state="${state}"]`);
        await shoot(shown!.page, `inspect-${stage}`);
      });
      const texts = await atA!.page.locator('.message').allTextContents();
      const said = texts.map((text) => text.replace(/^\s*\d\d:\d\d:\d\d\.\d{3}\s*/, '').trim());
      for (const text of [
        'request',
        'dial',
        'socket.opened',
        'start',
        'store.started',
        'frame',
        'stream',
        'settle',
        'complete',
      ])
        expect(said).toContain(text);
      expect(await violations(atA!.page)).toEqual([]);
      // Going back shows the machine as it was.
      await atA!.page.getByRole('button', { name: 'First event' }).click();
      await atA!.page.waitForSelector('.state.lit[data-state="connecting"]');
      await atA!.page.getByRole('button', { name: 'Snapshot' }).click();
      await atA!.page.locator('.json', { hasText: '"generation"' }).waitFor();
      expect([...atA!.complaints, ...atB!.complaints]).toEqual([]);
    },
    LIMIT_MS,
  );

  const light = setup({}).createMachine({
    id: 'light',
    initial: 'green',
    states: { green: { on: { NEXT: 'yellow' } }, yellow: { on: { NEXT: 'red' } }, red: { on: { NEXT: 'green' } } },
  });

  it(
    'A machine of another program is watched: reported over a WebSocket, also to a viewer that comes later',
    async () => {
      const at = await startTestBridge();
      ends.push(() => at.close());
      const inspector = createWebSocketInspector({ url: `${at.url.replace('http', 'ws')}/inspect/source` });
      ends.push(() => inspector.stop());
      const actor = createActor(light, { inspect: inspector.inspect, id: 'crossing' });
      actor.start();
      actor.send({ type: 'NEXT' });
      const browser = await start();
      const { page, complaints } = await openPage(browser, at.url, '/inspect');
      await page.waitForSelector('.state.lit[data-state="yellow"]');
      actor.send({ type: 'NEXT' });
      await page.waitForSelector('.state.lit[data-state="red"]');
      await page.locator('.message', { hasText: 'NEXT' }).first().waitFor();
      await shoot(page, 'inspect-foreign');
      // A viewer of one session is not shown it.
      const first = await post(at.url, { model: 'm', stream: true, store: false, input: 'one' });
      const only = await openPage(browser, at.url, `/inspect?session=${first.headers['x-holdfast-session']}`);
      await only.page.waitForSelector('.state.lit[data-state="live.idle"]');
      expect(await only.page.locator('.actor').allTextContents()).toHaveLength(1);
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'A page that opens the inspector is watched in it, and no other window is',
    async () => {
      const at = await startTestBridge();
      ends.push(() => at.close());
      // The page sends what createBrowserInspector sends: after the viewer reports that it is connected.
      const html = `<!doctype html><button>open</button><script>
        const definition = ${JSON.stringify(JSON.stringify(light.config))};
        const common = { _version: '1', createdAt: String(Date.now()), rootId: 'x:0', sessionId: 'x:0' };
        let viewer;
        addEventListener('message', ({ data }) => {
          if (data.type !== '@statelyai.connected') return;
          viewer.postMessage({ ...common, id: '1', type: '@xstate.actor', name: 'of the page', definition, snapshot: { status: 'active', value: 'green', context: {} } }, '*');
          viewer.postMessage({ ...common, id: '2', type: '@xstate.snapshot', event: { type: 'NEXT' }, snapshot: { status: 'active', value: 'yellow', context: {} } }, '*');
        });
        document.querySelector('button').onclick = () => { viewer = open('${at.url}/inspect', 'xstateinspector'); };
      </script>`;
      const server = createServer((_req, res) => res.setHeader('content-type', 'text/html').end(html));
      await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
      ends.push(() => server.close());
      const browser = await start();
      const page = await browser.newPage();
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      const [popup] = await Promise.all([page.waitForEvent('popup'), page.click('button')]);
      await popup.waitForSelector('.state.lit[data-state="yellow"]');
      expect(await popup.locator('.actor').first().textContent()).toContain('of the page');
    },
    LIMIT_MS,
  );
});
