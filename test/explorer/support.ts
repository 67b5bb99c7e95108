import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import axe from 'axe-core';
import pg from 'pg';
import { type Browser, type BrowserContextOptions, chromium, type Page, type Route } from 'playwright-core';
import { fillDatabase } from '../support/data-set.ts';

export const browserPath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';
export const hasBrowser = existsSync(browserPath);
/** Bounds of one wait in the browser and of one test, in milliseconds: generous, because other tests run at the same time. */
export const PATIENCE_MS = 120_000;
export const LIMIT_MS = 400_000;
/** Folder for screenshots of the pages; none are taken when it is unset. */
const shots = process.env.TEST_SCREENSHOTS;

export const launch = (): Promise<Browser> => chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });

/** The ways in which every page must be readable. */
export const views = {
  light: { viewport: { width: 1440, height: 900 }, colorScheme: 'light' },
  dark: { viewport: { width: 1440, height: 900 }, colorScheme: 'dark' },
  phone: { viewport: { width: 390, height: 844 }, colorScheme: 'light', deviceScaleFactor: 2 },
} as const satisfies Record<string, BrowserContextOptions>;

/** Requests of the pages for data; their own files are below `/admin/ui`. */
const DATA = /\/admin\/(?!ui)|\/inspect\/ticket/;

/**
 * Opens a page that notes errors of its scripts and requests to any other origin. With `answer`, its requests for data do not
 * reach the worker but are answered by that.
 */
export async function openPage(
  browser: Browser,
  url: string,
  path: string,
  view: BrowserContextOptions = views.light,
  answer?: (route: Route) => unknown,
) {
  const page = await (await browser.newContext(view)).newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints: string[] = [];
  page.on('pageerror', (error) => void complaints.push(String(error)));
  page.on('console', (message) => {
    // The browser itself logs a refused request to the console.
    const isRefusal = /Failed to load resource.*(40[14]|503)/.test(message.text());
    if (message.type() === 'error' && !isRefusal) complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(url)) complaints.push(`asked ${request.url()}`);
  });
  if (answer) await page.route(DATA, answer);
  await page.goto(url + path);
  return { page, complaints };
}

/** Takes a picture for people. */
export async function shoot(page: Page, name: string, fullPage = false): Promise<void> {
  if (!shots) return;
  await mkdir(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage });
}

/** Returns what axe-core finds on the page, one line for each element. */
export async function violations(page: Page): Promise<string[]> {
  await page.evaluate(axe.source);
  return page.evaluate(async () => {
    // biome-ignore lint/suspicious/noExplicitAny: the library is a script on the page.
    const { violations: found } = await (globalThis as any).axe.run();
    return found.flatMap(({ id, nodes }: { id: string; nodes: { target: string[]; failureSummary: string }[] }) =>
      nodes.slice(0, 4).map(({ target, failureSummary }) => `${id}: ${target.join(' ')}: ${failureSummary}`),
    );
  });
}

/** Fills a database with 5,000 sessions and their turns of the last day, some of which ended within the last minutes. */
export async function fillWithSessions(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await fillDatabase(client, { sessions: 5_000, turnsPerSession: 3, longEvery: 0, longTurns: 0 });
    const pick = (values: string[]) => `(array['${values.join("','")}'])[1 + floor(random() * ${values.length})]`;
    await client.query('select setseed(0.25)');
    await client.query(`update bridge_session set model = ${pick(['gpt-5.5', 'gpt-5.5-codex', 'gpt-5.5-mini'])}`);
    await client.query(`update turn set started_at = now() - random() ^ 2 * interval '40 minutes'
                         where random() < 0.12 and ended_at > now() - interval '1 day'`);
    await client.query(`update turn set ended_at = least(started_at + random() * interval '20 seconds', now() - interval '1 second')
                         where started_at > now() - interval '41 minutes' and ended_at is not null`);
    await client.query(`update turn set facts = json_build_object(
      'outcome', ${pick(['live_reuse', 'live_reuse', 'live_reuse', 'created', 'stale_recovery', 'forked'])},
      'form', ${pick(['delta', 'delta', 'delta', 'full'])}, 'bytesFromClient', 20000 + floor(random() * 90000),
      'bytesSent', floor(random() * 20000), 'creates', 1,
      'fault', case when state in ('failed', 'lost') then ${pick(['bridge_upstream_lost', 'bridge_upstream_unreachable', 'bridge_first_event_timeout'])} end,
      'upstreamStatus', null, 'placedMs', 1, 'begunMs', 1, 'readyMs', 2, 'startedMs', 4, 'heldMs', floor(4 + random() * 4),
      'ownMs', 2 + random() * 6, 'firstEventMs', floor(300 + random() ^ 3 * 2500), 'totalMs', floor(2000 + random() * 9000))
      where ended_at is not null`);
    await client.query('vacuum (analyze)');
  } finally {
    await client.end();
  }
}

/** Returns the size in pixels of the smallest text that the page shows, with the text. */
const smallestText = (page: Page): Promise<{ px: number; text: string }> =>
  page.evaluate(`(() => {
    let found = { px: Infinity, text: '' };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (node.textContent.trim() === '' || !element.checkVisibility({ visibilityProperty: true })) continue;
      const scale = element instanceof SVGGraphicsElement ? (element.getScreenCTM()?.a ?? 1) : 1;
      const px = parseFloat(getComputedStyle(element).fontSize) * scale;
      if (px < found.px) found = { px, text: node.textContent.trim().slice(0, 40) };
    }
    return found;
  })()`);

/** Returns what a reader cannot use of a page in its present state: violations, text that is too small, and what is cut off. */
export async function faultsOf(page: Page, name: string): Promise<string[]> {
  const { px, text } = await smallestText(page);
  // Nothing is cut off at the side: only regions made for it scroll.
  const overflow = Number(await page.evaluate('document.documentElement.scrollWidth - innerWidth'));
  return [
    ...(px < 11 ? [`${name}: ${text} has ${px} px`] : []),
    ...(await violations(page)).map((each) => `${name}: ${each}`),
    ...(overflow > 0 ? [`${name}: ${overflow} px wider than the window`] : []),
  ];
}

/** Parts of the pages whose places are compared. */
const PARTS = [
  ...['.bar', '.bar nav', '.headline', '.figures', '.figure', '.plot', '.plot .canvas', '.below section', '.search'],
  ...['.sessions .filter', '.table', '.sessions footer', '.session > header', '.standing', '.facts', '.actions'],
  ...['.turns', '.chart', '.picture', '.told', '.travel', '.slider input', '.group', '.page > h2', '.searchbar'],
  ...['.mishaps', '.mishaps .row', '.workers-table', '.source', '.actors', '.watched'],
];

/** Number, place and size of the first element of each part that the page shows. */
export type Structure = Record<string, { count: number; box: [x: number, y: number, width: number, height: number] }>;

/** Returns where the parts of a page are, in pixels of the window. */
export const structureOf = (page: Page): Promise<Structure> =>
  page.evaluate(`(() => {
    const found = [];
    for (const part of ${JSON.stringify(PARTS)}) {
      const shown = [...document.querySelectorAll(part)].filter((each) => each.checkVisibility());
      if (shown.length === 0) continue;
      const { x, y, width, height } = shown[0].getBoundingClientRect();
      found.push([part, { count: shown.length, box: [x, y, width, height].map(Math.round) }]);
    }
    return Object.fromEntries(found);
  })()`);
