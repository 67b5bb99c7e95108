import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';
import { hasBrowser, LIMIT_MS, launch, openPage, shoot, smallestText, violations } from './support.ts';

let at: TestBridge;
let browser: Browser;
beforeAll(async () => {
  if (!hasBrowser) return;
  at = await testBridge({ env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
  browser = await launch();
}, LIMIT_MS);
afterAll(async () => {
  await browser?.close();
  await at?.close();
});

/** Pages, each with what it shows when there is nothing to show. */
const pages: Record<string, string> = {
  overview: 'No turn ended in the last 15 min.',
  sessions: 'There is no session yet.',
  'sessions/none': 'There is no such session.',
  turns: 'No stored turn matches.',
  failures: 'No request has failed.',
  workers: '0.1.0',
};
/** Ways in which the API answers, each with what every page shows then. */
const ways = {
  loading: /Loading…/,
  error: /is on fire/,
  gone: /No answer from the worker/,
} as const;

/** Makes the API answer all further requests for data in that way. */
async function answer(page: Page, way: keyof typeof ways | 'empty'): Promise<void> {
  await page.unroute('**/admin/**');
  if (way === 'empty') return;
  await page.route(
    (url) => /\/admin\/(?!ui)/.test(url.pathname) && !url.pathname.endsWith('/machines/session'),
    async (route) => {
      if (way === 'gone') return route.abort();
      const body = JSON.stringify({ error: { message: 'The database is on fire.', bridge_code: 'bridge_internal' } });
      if (way === 'error') return route.fulfill({ status: 500, contentType: 'application/json', body });
      // No answer: the page goes on loading until it is closed.
    },
  );
}

describe.skipIf(!hasBrowser)('pages of the explorer without data', () => {
  it.each([
    ['light', { viewport: { width: 1440, height: 900 }, colorScheme: 'light' }],
    ['dark, on a phone', { viewport: { width: 390, height: 844 }, colorScheme: 'dark' }],
  ] as const)(
    'Every page that is empty, loads, or got an error says so, and is accessible: %s',
    async (view, options) => {
      const found: string[] = [];
      const { page } = await openPage(browser, at.url, '/admin/ui', options);
      const check = async (name: string) => {
        await shoot(page, `state-${name.replace('/', '-')}-${view.slice(0, 5).replace(',', '')}`);
        const { px, text } = await smallestText(page);
        if (px < 11) found.push(`${name}: ${text} has ${px} px`);
        found.push(...(await violations(page)).map((each) => `${name}: ${each}`));
        const overflow = await page.evaluate('document.documentElement.scrollWidth - innerWidth');
        if (Number(overflow) > 0) found.push(`${name}: ${overflow} px wider than the window`);
      };
      await page.waitForSelector('input[name=token]');
      await check('gate');
      await page.fill('input[name=token]', 'wrong');
      await page.keyboard.press('Enter');
      await page.waitForSelector('[role=alert]');
      await check('gate-refused');
      await page.fill('input[name=token]', 'operator');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.plot .u-over');
      for (const [name, text] of Object.entries(pages)) {
        // A page that is opened again asks again; the one before must be gone.
        for (const way of ['empty', 'error', 'gone', 'loading'] as const) {
          await page.evaluate('location.hash = "#/turns?q=nothing-like-it"');
          await page.waitForSelector('section[aria-label=Turns]');
          await answer(page, way);
          await page.evaluate(`location.hash = '#/${name}'`);
          const shown = way === 'empty' ? text : ways[way];
          await page.locator('main', { hasText: shown }).waitFor();
          if (way === 'error' || way === 'gone') await page.locator('[role=alert]').first().waitFor();
          await check(`${name}-${way}`);
        }
      }
      expect(found).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The inspector without access, and without a worker, says so and is accessible',
    async () => {
      const { page } = await openPage(browser, at.url, '/inspect');
      await page.locator('output', { hasText: 'the admin token is missing or wrong' }).waitFor();
      const found = await violations(page);
      await page.route('**/inspect/ticket', (route) => route.abort());
      await page.getByRole('button', { name: 'Watch' }).click();
      await page.locator('output', { hasText: 'No answer from the worker.' }).waitFor();
      found.push(...(await violations(page)));
      await shoot(page, 'state-inspector-gone');
      expect(found).toEqual([]);
    },
    LIMIT_MS,
  );
});
