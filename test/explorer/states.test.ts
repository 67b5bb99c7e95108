import type { Browser, Locator, Page, Route } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { faultsOf, hasBrowser, LIMIT_MS, launch, openPage, shoot, views } from './support.ts';

let at: TestBridge;
let browser: Browser;
beforeAll(async () => {
  if (!hasBrowser) return;
  at = await startTestBridge();
  browser = await launch();
}, LIMIT_MS);
afterAll(async () => {
  await browser?.close();
  await at?.close();
});

/** Pages, with what each says while there is nothing to show. */
const pages: Record<string, [path: string, empty: string]> = {
  overview: ['/admin/ui#/overview', 'No turn ended in the last 15 min.'],
  sessions: ['/admin/ui#/sessions', 'There is no session yet'],
  session: ['/admin/ui#/sessions/00000000-0000-4000-8000-000000000000', 'Look for it among the failures'],
  turns: ['/admin/ui#/turns', 'No stored turn matches'],
  failures: ['/admin/ui#/failures', 'No request has failed'],
  workers: ['/admin/ui#/workers', 'serving'],
  inspector: ['/inspect', 'No machine has reported yet'],
};

const says = (page: Page | Locator, text: string) => page.getByText(text).filter({ visible: true }).first().waitFor();

/** Returns the part of a page that is tested: a session has the list of all beside it. */
const partOf = (page: Page, name: string) => (name === 'session' ? page.locator('article.session') : page);

/** Answers as a worker does whose database does not answer. */
const message = 'The database does not answer.';
const lost = (route: Route) => route.fulfill({ status: 503, json: { error: { message } } });

/** How a test opens each page: what its requests get, and the words that show its state. */
interface State {
  name: string;
  view: keyof typeof views;
  answer?: (route: Route) => unknown;
  words: (page: string) => string;
}

/** Opens every page in one state and returns what is wrong with them. */
async function faultsIn({ name: state, view, answer, words }: State): Promise<string[]> {
  const faults: string[] = [];
  for (const [name, [path]] of Object.entries(pages)) {
    const { page, complaints } = await openPage(browser, at.url, path, views[view], answer);
    await says(partOf(page, name), words(name));
    faults.push(...(await shotFaults(page, `${name}-${state}-${view}`)), ...complaints);
    await page.context().close();
  }
  return faults;
}

/** Takes the picture of a page, and returns what is wrong with it. */
async function shotFaults(page: Page, name: string): Promise<string[]> {
  await shoot(page, name);
  return faultsOf(page, name);
}

describe.skipIf(!hasBrowser).each(Object.keys(views) as (keyof typeof views)[])('explorer without data: %s', (view) => {
  it(
    'Every page of a bridge without a request says that there is nothing yet, and is accessible',
    async () => expect(await faultsIn({ name: 'empty', view, words: (page) => pages[page]![1] })).toEqual([]),
    LIMIT_MS,
  );

  // Colours are those of the other states.
  it.skipIf(view === 'dark')(
    'Every page whose data have not arrived says that it is loading, and is accessible',
    async () => {
      const words = (page: string) => (page === 'inspector' ? 'connecting…' : 'Loading…');
      expect(await faultsIn({ name: 'loading', view, answer: () => {}, words })).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'Every page whose worker lost its database says so, and is accessible',
    async () => {
      // The first request shows whether the page has access; the page itself asks for the rest.
      const answer = (route: Route) =>
        route.request().url().endsWith('/admin/workers') ? route.continue() : lost(route);
      expect(await faultsIn({ name: 'failing', view, answer, words: () => message })).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The explorer whose worker answers nothing but errors, or asks for a token, says so and is accessible',
    async () => {
      const faults: string[] = [];
      const failing = await openPage(browser, at.url, '/admin/ui', views[view], lost);
      await says(failing.page, message);
      faults.push(...(await shotFaults(failing.page, `explorer-failing-${view}`)), ...failing.complaints);
      await failing.page.unrouteAll();
      await failing.page.getByRole('button', { name: 'Try again' }).click();
      await says(failing.page, pages.overview![1]);
      await failing.page.context().close();

      const closed = await openPage(browser, at.url, '/admin/ui', views[view], (route) =>
        route.fulfill({ status: 401, json: { error: { message: 'no' } } }),
      );
      await says(closed.page, 'Admin token');
      faults.push(...(await shotFaults(closed.page, `token-${view}`)));
      await closed.page.getByLabel('Admin token').fill('wrong');
      await closed.page.getByRole('button', { name: 'Open' }).click();
      await says(closed.page, 'The token is wrong.');
      faults.push(...(await shotFaults(closed.page, `token-wrong-${view}`)), ...closed.complaints);
      await closed.page.context().close();
      expect(faults).toEqual([]);
    },
    LIMIT_MS,
  );

  // The error looks as above; only the words are new.
  it.runIf(view === 'light')(
    'A page that was complete keeps its data when its worker fails, and says that they may be outdated',
    async () => {
      const faults: string[] = [];
      for (const name of ['overview', 'sessions', 'turns', 'failures', 'workers']) {
        const [path, empty] = pages[name]!;
        let isLost = false;
        const { page, complaints } = await openPage(browser, at.url, path, views[view], (route) =>
          isLost ? lost(route) : route.continue(),
        );
        await says(page, empty);
        isLost = true;
        await says(page, 'may be outdated');
        await says(page, empty);
        faults.push(...(await shotFaults(page, `${name}-outdated-${view}`)), ...complaints);
        await page.context().close();
      }
      expect(faults).toEqual([]);
    },
    LIMIT_MS,
  );
});
