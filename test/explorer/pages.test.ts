import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { fillWithSessions, hasBrowser, LIMIT_MS, launch, openPage, shoot, views, violations } from './support.ts';

let at: TestBridge;
let browser: Browser;
let session = '';

const ask = (thread: string, input: unknown) =>
  post(at.url, { model: 'gpt-5.5', stream: true, store: false, input }, { 'thread-id': thread });

beforeAll(async () => {
  if (!hasBrowser) return;
  at = await startTestBridge({ env: { HOLDFAST_PRICES: '*=1.25/0.125' }, simulator: { deltaCount: 20 } });
  await fillWithSessions(at.databaseUrl);
  const history: object[] = [user('a private prompt '.repeat(300))];
  for (let turn = 0; turn < 5; turn += 1) {
    const answer = await ask('the-thread', history);
    session = String(answer.headers['x-holdfast-session']);
    history.push(...answer.body.output, user(`and on ${turn}`));
  }
  const error = { status: 503, code: 'server_is_overloaded', message: 'private words' };
  at.simulator.script.onTurn({}, { kind: 'error', error }, { times: 'always' });
  await ask('the-thread', history);
  await fetch(`${at.url}/responses`, { method: 'POST' });
  browser = await launch();
}, LIMIT_MS);
afterAll(async () => {
  await browser?.close();
  await at?.close();
});

/** Pages by the name of their pictures, with an element that shows that they are complete. */
const pages = (): Record<string, [hash: string, ready: string]> => ({
  overview: ['#/overview', '.plot .u-over'],
  sessions: ['#/sessions', '.rows li:nth-child(100)'],
  session: [`#/sessions/${session}`, '.turn-chain li, .turns tbody tr'],
  turns: ['#/turns', '.page tbody tr'],
  failures: ['#/failures', '.mishaps li'],
  workers: ['#/workers', '.workers-table tbody tr'],
});

describe.skipIf(!hasBrowser)('pages of the explorer with 5,000 sessions', () => {
  it.each(Object.keys(views) as (keyof typeof views)[])(
    'Every page is complete, accessible and without content: %s',
    async (view) => {
      const found: string[] = [];
      for (const [name, [hash, ready]] of Object.entries(pages())) {
        const { page, complaints } = await openPage(browser, at.url, `/admin/ui${hash}`, views[view]);
        await page.waitForSelector(ready);
        if (name === 'overview') await page.getByRole('button', { name: 'last 24 h' }).click();
        if (name === 'overview') await page.locator('.u-over').nth(8).waitFor();
        if (name === 'failures') await page.locator('.mishaps .row').nth(1).click();
        if (name === 'failures') await page.waitForSelector('.story li');
        await shoot(page, `${name}-${view}`);
        if (view === 'phone' || name === 'session') await shoot(page, `${name}-${view}-full`, true);
        found.push(...(await violations(page)).map((each) => `${name}: ${each}`), ...complaints);
        // Nothing is cut off at the side: only regions made for it scroll.
        const overflow = await page.evaluate('document.documentElement.scrollWidth - innerWidth');
        if (Number(overflow) > 0) found.push(`${name}: ${overflow} px wider than the window`);
        expect(await page.content()).not.toMatch(/private|sk-test/);
        await page.context().close();
      }
      expect(found).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The first page transfers less than 150 kB, and its figures are those of the API',
    async () => {
      const { page } = await openPage(browser, at.url, '/admin/ui');
      await page.waitForSelector('.plot .u-over');
      const bytes = Number(
        await page.evaluate(
          'performance.getEntriesByType("resource").concat(performance.getEntriesByType("navigation")).reduce((sum, { transferSize }) => sum + transferSize, 0)',
        ),
      );
      const interactive = Number(
        await page.evaluate('performance.getEntriesByName("interactive")[0]?.startTime ?? performance.now()'),
      );
      console.log(
        `first page: ${(bytes / 1_000).toFixed(1)} kB transferred, figures after ${interactive.toFixed(0)} ms`,
      );
      expect(bytes).toBeGreaterThan(10_000);
      expect(bytes).toBeLessThan(150_000);
    },
    LIMIT_MS,
  );
});
