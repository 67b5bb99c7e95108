import { loadavg } from 'node:os';
import { fillWithSessions, hasBrowser, launch } from '../test/explorer/support.ts';
import { startTestBridge } from '../test/support/bridge.ts';
import setup from '../test/support/global-setup.ts';
import { percentile, show, thisMachine } from './machine.ts';

/**
 * Measures the first page of the explorer at 5,000 sessions with a day of turns: bytes that it transfers, and the time from
 * the request of the page until its figures and charts are drawn and a press of a button is answered. Each run is a new
 * browser context, without a cache; "again" is the same page with the cache of the run before. Worker, PostgreSQL and
 * browser share the machine. BENCH_RUNS sets the number of runs.
 */
const RUNS = Number(process.env.BENCH_RUNS ?? 15);
/** Largest number of bytes, and time in milliseconds, that the page may need. */
const AIM = { bytes: 150_000, ms: 1_000 };

if (!hasBrowser) throw new Error('There is no browser: name one with CHROMIUM_PATH.');
const end = await setup();

/** Runs in the page: notes when the figures and charts are drawn, presses a button, and notes when that is answered. */
const watch = `
  new MutationObserver((_, seen) => {
    const button = document.querySelectorAll('.headline .filter button')[1];
    if (document.querySelectorAll('.figure').length === 0 || document.querySelectorAll('.u-over').length < 9) return;
    seen.disconnect();
    window.drawnMs = performance.now();
    new MutationObserver(() => {
      if (button.getAttribute('aria-pressed') === 'true') window.answeredMs ??= performance.now();
    }).observe(button, { attributes: true });
    button.click();
  }).observe(document, { childList: true, subtree: true });
`;

const at = await startTestBridge({ env: { HOLDFAST_PRICES: '*=1.25/0.125' } });
try {
  await fillWithSessions(at.databaseUrl);
  const browser = await launch();
  const runs: Record<'first' | 'again', { bytes: number; drawn: number; answered: number }[]> = {
    first: [],
    again: [],
  };
  for (let run = 0; run < RUNS + 1; run += 1) {
    // The wait for the figures is a script of this program, which the page's own policy would refuse.
    const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, bypassCSP: true });
    await context.addInitScript(watch);
    const page = await context.newPage();
    page.setDefaultTimeout(600_000);
    for (const name of ['first', 'again'] as const) {
      await page.goto('about:blank');
      await page.goto(`${at.url}/admin/ui`);
      await page.waitForFunction('window.answeredMs !== undefined');
      const [drawn, answered, bytes] = (await page.evaluate(`[
        window.drawnMs,
        window.answeredMs,
        [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
          .reduce((sum, { transferSize }) => sum + transferSize, 0),
      ]`)) as [number, number, number];
      // The first run starts the browser's processes and compiles the code of the worker.
      if (run > 0) runs[name].push({ bytes, drawn, answered });
    }
    await context.close();
  }
  await browser.close();
  const load = loadavg()[0]!.toFixed(1);
  const own = await fetch(`${at.url}/admin/overview?window=15m`);
  await own.text();
  const asked: number[] = [];
  for (let each = 0; each < 20; each += 1) {
    const startedAt = performance.now();
    await (await fetch(`${at.url}/admin/overview?window=15m`)).text();
    asked.push(performance.now() - startedAt);
  }
  console.log(
    `${thisMachine()}; load ${load}; 5,000 sessions, about 15,000 turns; ${RUNS} runs; median (least to most)`,
  );
  const spread = (values: number[]) =>
    `${show(percentile(values, 0.5))} (${show(Math.min(...values))} to ${show(Math.max(...values))})`;
  console.table(
    Object.entries(runs).map(([page, all]) => ({
      page,
      transferred: `${(
        percentile(
          all.map(({ bytes }) => bytes),
          0.5,
        ) / 1_000
      ).toFixed(1)} kB`,
      drawn: spread(all.map(({ drawn }) => drawn)),
      'button answered': spread(all.map(({ answered }) => answered)),
    })),
  );
  console.log(`/admin/overview alone: ${spread(asked)}`);
  const median = percentile(
    runs.first.map(({ answered }) => answered),
    0.5,
  );
  const most = Math.max(...runs.first.map(({ bytes }) => bytes));
  const met = most < AIM.bytes && median < AIM.ms;
  console.log(`aim: less than ${AIM.bytes / 1_000} kB and ${AIM.ms} ms: ${met ? 'met' : 'missed'}`);
} finally {
  await at.close();
  await end();
}
