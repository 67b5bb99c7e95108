import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import {
  faultsOf,
  fillWithSessions,
  hasBrowser,
  LIMIT_MS,
  launch,
  openPage,
  type Structure,
  shoot,
  structureOf,
  views,
} from './support.ts';

/**
 * Where the parts of every page are: the picture without its pixels, because fonts differ between machines. A change that is
 * meant is recorded with `TEST_STRUCTURE=write`, and then formatted.
 */
const recordFile = join(import.meta.dirname, 'structure.json');
const writes = process.env.TEST_STRUCTURE === 'write';
const recorded: Record<string, Structure> = JSON.parse(readFileSync(recordFile, 'utf8'));

/** Differences that other fonts and other data cause: in pixels, and as a share of a size. */
const TOLERANCE_PX = 40;
const TOLERANCE_SHARE = 0.25;
/** Parts whose number depends on the data. */
const COUNTED = new Set(['.bar', '.bar nav', '.figure', '.plot', '.below section', '.chart', '.travel', '.actors']);

/** Returns how a page differs from its record, one line for each part. */
function differences(name: string, now: Structure): string[] {
  const before = recorded[name] ?? {};
  const parts = new Set([...Object.keys(before), ...Object.keys(now)]);
  return [...parts].flatMap((part) => {
    const [was, is] = [before[part], now[part]];
    if (!was || !is) return [`${name}: ${part} ${is ? 'is new' : 'is gone'}`];
    if (COUNTED.has(part) && was.count !== is.count) return [`${name}: ${was.count} ${part} became ${is.count}`];
    const isOff = is.box.some((value, at) => {
      const allowed = Math.max(TOLERANCE_PX, Math.abs(was.box[at]!) * TOLERANCE_SHARE);
      return Math.abs(value - was.box[at]!) > allowed;
    });
    return isOff ? [`${name}: ${part} moved from ${was.box} to ${is.box}`] : [];
  });
}

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
  if (writes) writeFileSync(recordFile, `${JSON.stringify(recorded, null, 2)}\n`);
  await browser?.close();
  await at?.close();
});

/** Pages by the name of their pictures, with an element that shows that they are complete. */
const pages = (): Record<string, [hash: string, ready: string]> => ({
  overview: ['#/overview', '.plot .u-over'],
  sessions: ['#/sessions', '.rows li:nth-child(100)'],
  session: [`#/sessions/${session}`, '.state.inmost'],
  turns: ['#/turns', '.page tbody tr'],
  failures: ['#/failures', '.mishaps li'],
  workers: ['#/workers', '.workers-table tbody tr'],
  inspector: ['/inspect', '.actors li'],
});

describe.skipIf(!hasBrowser)('pages of the explorer with 5,000 sessions', () => {
  it.each(Object.keys(views) as (keyof typeof views)[])(
    'Every page is complete, accessible and without content: %s',
    async (view) => {
      const found: string[] = [];
      for (const [name, [hash, ready]] of Object.entries(pages())) {
        const { page, complaints } = await openPage(
          browser,
          at.url,
          hash.startsWith('#') ? `/admin/ui${hash}` : hash,
          views[view],
        );
        await page.waitForSelector(ready);
        if (name === 'overview') await page.getByRole('button', { name: 'last 24 h' }).click();
        if (name === 'overview') await page.locator('.u-over').nth(8).waitFor();
        if (name === 'failures') await page.locator('.mishaps .row').nth(1).click();
        if (name === 'failures') await page.waitForSelector('.story li');
        await shoot(page, `${name}-${view}`);
        if (view === 'phone' || name === 'session') await shoot(page, `${name}-${view}-full`, true);
        const structure = await structureOf(page);
        if (writes) recorded[`${name}-${view}`] = structure;
        else found.push(...differences(`${name}-${view}`, structure));
        found.push(...(await faultsOf(page, name)), ...complaints);
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
