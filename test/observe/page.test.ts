import { existsSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { chromium } from 'playwright-core';
import { expect, it } from 'vitest';
import { TurnRecord } from '../../src/session/turn.ts';
import { serveInspection } from './viewer.ts';

const browserPath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';
const sessionId = '6d1f6a52-2b43-4d6e-9a5e-000000000001';
const turnId = '6d1f6a52-2b43-4d6e-9a5e-00000000000a';

/** Stands in for the hosted viewer: reports that it is ready, and records the messages it receives. */
const viewerPage = `<!doctype html><script>
window.told = [];
addEventListener('message', ({ data }) => window.told.push(data));
parent.postMessage({ type: '@statelyai.connected' }, '*');
</script>`;

it.skipIf(!existsSync(browserPath))(
  'The page passes events to the framed viewer in a real browser, under its own content security policy',
  async () => {
    const viewer = createServer((_req, res) => res.setHeader('content-type', 'text/html').end(viewerPage));
    await new Promise<void>((done) => viewer.listen(0, '127.0.0.1', done));
    const inspectorUrl = `http://localhost:${(viewer.address() as AddressInfo).port}/inspect`;
    const { recorder, url, close } = await serveInspection({ inspectorUrl });
    const browser = await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });
    try {
      const page = await browser.newPage();
      const complaints: string[] = [];
      page.on('console', (message) => void (message.type() === 'error' && complaints.push(message.text())));
      page.on('pageerror', (error) => void complaints.push(String(error)));
      // `holdfast inspect <session>` opens this URL: the named session is shown at once.
      await page.goto(`${url}/inspect/stately?session=${sessionId}`);
      const frame = page.frame({ url: inspectorUrl })!;
      await page.waitForFunction("document.querySelector('output').value.startsWith('watching')");
      const turn = new TurnRecord(turnId, { step: recorder.observe });
      recorder.place(turn, sessionId);
      turn.note({ type: 'queue' });
      turn.note({ type: 'cancel' });
      await frame.waitForFunction('window.told.length >= 5');
      const told = (await frame.evaluate('window.told')) as { type: string; event?: { type: string } }[];
      expect(told.map(({ type, event }) => `${type.slice(8)} ${event?.type ?? ''}`.trim())).toEqual([
        'actor',
        'event queue',
        'snapshot queue',
        'event cancel',
        'snapshot cancel',
      ]);
      expect(complaints.filter((text) => !text.includes('favicon'))).toEqual([]);
    } finally {
      await browser.close();
      await close();
      viewer.closeAllConnections();
      await new Promise((done) => viewer.close(done));
    }
  },
  30_000,
);
