import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Browser, chromium, type Page } from 'playwright-core';
import { afterEach, describe, expect, it } from 'vitest';
import { startTestBridge, type TestBridge, type TestBridgeOptions } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';
import { freePort } from '../support/worker-process.ts';

/** Bounds of one wait in the browser and of one test, in milliseconds: generous, because other tests run at the same time. */
const PATIENCE_MS = 120_000;
const LIMIT_MS = 300_000;
const browserPath = process.env.CHROMIUM_PATH ?? '/usr/bin/chromium';
/** Folder for screenshots of the page; none are taken when it is unset. */
const shots = process.env.TEST_SCREENSHOTS;

let at: TestBridge;
let browser: Browser | null = null;
const start = async (options: TestBridgeOptions = {}) => {
  at = await startTestBridge(options);
};
afterEach(async () => {
  await browser?.close();
  browser = null;
  await at.close();
});

const say = (thread: string, input: unknown, more: object = {}) =>
  post(at.url, { model: 'gpt-5.5', stream: true, store: false, input, ...more }, { 'thread-id': thread });

describe('admin page over HTTP', () => {
  it('The admin page holds no data, runs only its own scripts, and may connect only to its own origin', async () => {
    await start({ env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
    const answer = await fetch(`${at.url}/admin/ui`);
    const html = await answer.text();
    const policy = answer.headers.get('content-security-policy')!;
    expect(policy).toContain("default-src 'none'");
    expect(policy).toContain("connect-src 'self'");
    expect(policy).not.toMatch(/unsafe|\*|https?:/);
    const map = /<script type="importmap">(.*)<\/script>/.exec(html)![1]!;
    const digest = Buffer.from(await crypto.subtle.digest('SHA-256', Buffer.from(map))).toString('base64');
    expect(policy).toContain(`'sha256-${digest}'`);
    expect(html).not.toMatch(/https?:|style=|onclick/i);
    expect((await fetch(`${at.url}/admin/sessions`)).status).toBe(401);
  });

  it('The files of the admin page all exist, refer to no other origin, and are cacheable as immutable', async () => {
    await start();
    const html = await (await fetch(`${at.url}/admin/ui`)).text();
    const named = [...html.matchAll(/"(\.\/ui\/[^"]+)"/g)].map(([, path]) => path!);
    const seen = new Set<string>();
    let bytes = 0;
    for (const queue = named.map((path) => new URL(path, `${at.url}/admin/ui`).href); queue.length > 0; ) {
      const url = queue.pop()!;
      if (seen.has(url)) continue;
      seen.add(url);
      const answer = await fetch(url);
      const text = await answer.text();
      expect([url, answer.status, answer.headers.get('cache-control')]).toEqual([
        url,
        200,
        'public, max-age=31536000, immutable',
      ]);
      bytes += Buffer.byteLength(text);
      expect(text).not.toMatch(/sourceMappingURL|\bimport\(\s*["']https?:|@import|url\((?!#)/);
      for (const [, path] of text.matchAll(/(?:from |import\()'(\.\/[^']+)'/g)) queue.push(new URL(path!, url).href);
    }
    expect([...seen].filter((url) => url.endsWith('.js')).length).toBeGreaterThan(12);
    expect(bytes).toBeLessThan(290_000);
    expect((await fetch(`${at.url}/admin/ui/0/main.js`)).headers.get('cache-control')).toBe('no-store');
    for (const odd of ['nothing.js', '..%2Findex.ts', 'vendor%2F..%2F..%2Findex.ts', 'vendor'])
      expect((await fetch(`${at.url}/admin/ui/0/${odd}`)).status).toBe(404);
  });

  it('The admin page is also served with a trailing slash', async () => {
    await start();
    const answer = await fetch(`${at.url}/admin/ui/`);
    expect([answer.url, answer.status]).toEqual([`${at.url}/admin/ui`, 200]);
  });
});

/** Opens a page that fails the test if it logs an error or sends a request to any other origin. */
async function open(path = '/admin/ui#/sessions', colorScheme: 'light' | 'dark' = 'light') {
  browser ??= await chromium.launch({ executablePath: browserPath, args: ['--no-sandbox'] });
  const page = await browser.newPage({ viewport: { width: 1560, height: 1000 }, colorScheme });
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints: string[] = [];
  page.on('pageerror', (error) => void complaints.push(String(error)));
  page.on('console', (message) => {
    // The browser itself logs a refused request to the console.
    if (message.type() === 'error' && !message.text().includes('401')) complaints.push(message.text());
  });
  page.on('request', (request) => {
    if (!request.url().startsWith(at.url)) complaints.push(`asked ${request.url()}`);
  });
  await page.goto(at.url + path);
  return { page, complaints };
}

/** Waits until the first element of the selector shows the text: the page fills its parts one after the other. */
const shows = (page: Page, selector: string, text: string | RegExp) =>
  page.locator(selector).first().filter({ hasText: text }).waitFor();

async function shoot(page: Page, name: string): Promise<void> {
  if (!shots) return;
  await mkdir(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`) });
}

describe.skipIf(!existsSync(browserPath))('admin page in a browser', () => {
  it(
    'The admin page lists sessions and shows one with its machine, turns and story',
    async () => {
      await start({ simulator: { deltaCount: 20 } });
      const history: object[] = [user('a very private prompt '.repeat(100))];
      const first = await say('the-thread', history);
      const id = String(first.headers['x-holdfast-session']);
      history.push(...first.body.output, user('and on'));
      const second = await say('the-thread', history);
      for (let other = 0; other < 5; other += 1) await say(`other-${other}`, [user('hello')]);
      const fork = await say('unused', [user('otherwise')], { previous_response_id: first.body.id });
      expect(fork.headers['x-holdfast-outcome']).toBe('forked');

      const { page, complaints } = await open();
      await page.waitForSelector('.rows li:nth-child(7)');
      await shows(page, '.sessions footer', '7 sessions');
      await shoot(page, 'list-light');

      // By keyboard: search for the thread, then open the result.
      await page.keyboard.press('/');
      await page.keyboard.type('the-thread');
      await page.waitForSelector('.rows li:only-child');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.state.inmost[data-state="live.idle"]');
      await shows(page, '.session h2', id);
      await shows(page, '.standing', 'A live worker keeps its socket open');
      const row = (nth: number) => `.turns tbody tr:nth-child(${nth})`;
      await shows(page, row(1), /live_reuse.*completed.*full → delta.*\d %/);
      // A turn can be opened for its exact times and whole ids.
      await page.click(`${row(1)} button[aria-expanded]`);
      await shows(page, '.more-of-turn', /placing.*commit.*first event.*stream.*resp_/);
      await page.click(`${row(1)} button[aria-expanded]`);
      await shows(page, row(2), /created.*completed.*fresh → full|created.*completed.*full → full/);
      await shows(page, row(2), `fork ${String(fork.headers['x-holdfast-session']).slice(0, 8)}`);
      await shows(page, '.timeline', 'The turn is settled, and the socket can carry the next one.');
      await page.hover('[data-state="live.committing"] > text');
      await shows(page, '.told', 'The fenced start is being stored');
      await shoot(page, 'detail-light');

      // The state of the running turn is highlighted while it runs.
      const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
      history.push(...second.body.output, user('still on'));
      const live = await openLive(
        at.url,
        { model: 'gpt-5.5', store: false, input: history },
        { 'thread-id': 'the-thread' },
      );
      await live.until('response.output_item.done');
      await page.waitForSelector('.state.lit[data-state="live.streaming.flow.flowing"]');
      await page.waitForSelector('.actions div:first-child button:disabled');
      held.release();
      await live.rest();
      await page.waitForSelector('.state.inmost[data-state="live.idle"]');

      await page.keyboard.press('Escape');
      await page.waitForSelector('.session', { state: 'detached' });
      const text = await page.content();
      expect(text).not.toMatch(/private prompt|sk-test/);
      expect(complaints).toEqual([]);
      const dark = await open(`/admin/ui#/sessions/${id}`, 'dark');
      await dark.page.waitForSelector('.state.inmost[data-state="live.idle"]');
      await shoot(dark.page, 'detail-dark');
      expect(dark.complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The session list is paged with the arrow keys',
    async () => {
      await start({ simulator: { journalBodies: false } });
      for (let other = 0; other < 130; other += 10)
        await Promise.all(Array.from({ length: 10 }, (_, each) => say(`t-${other + each}`, [user('hello')])));
      const { page, complaints } = await open();
      await page.waitForSelector('.rows li:nth-child(100)');
      await page.focus('.rows');
      await page.keyboard.press('ArrowDown');
      await page.keyboard.press('ArrowDown');
      await page.waitForSelector('.rows li:nth-child(3).marked');
      await page.keyboard.press('End');
      await page.waitForSelector('.rows li:nth-child(100).marked');
      await page.click('text=Older');
      await page.waitForSelector('.rows li:nth-child(30):last-child');
      await page.focus('.rows');
      await page.keyboard.press('Home');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.session .standing');
      const opened = page.url();
      await page.focus('.rows');
      await page.keyboard.press('ArrowDown');
      await page.waitForURL((url) => url.href !== opened);
      await page.click('text=Newer');
      await page.waitForSelector('.rows li:nth-child(100)');
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'An action on a session needs a confirmation, and its result is shown',
    async () => {
      await start();
      const first = await say('a', [user('hello')]);
      const id = String(first.headers['x-holdfast-session']);
      const { page, complaints } = await open(`/admin/ui#/sessions/${id}`);
      await page.waitForSelector('.state.inmost[data-state="live.idle"]');
      await page.click('text=Release…');
      await page.waitForSelector('dialog[open]');
      await page.keyboard.press('Escape');
      await page.waitForSelector('dialog', { state: 'detached' });
      expect((await at.store.sessionById(id))!.state).toBe('live');
      await page.click('text=Release…');
      await page.click('dialog button.primary');
      await page.waitForSelector('.state.inmost[data-state="stale"]');
      await shows(page, '.actions [role=status]', 'done');
      expect((await at.store.sessionById(id))!.ownerWorkerId).toBe(null);
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The slider and the timeline show the machine at any recorded event, with context and effects',
    async () => {
      await start();
      const first = await say('a', [user('hello')]);
      const { page, complaints } = await open(`/admin/ui#/sessions/${first.headers['x-holdfast-session']}`);
      await page.waitForSelector('.state.inmost[data-state="live.idle"]');
      await page.click('[aria-label="First event"]');
      await page.waitForSelector('.tag.past');
      await page.focus('.slider input');
      await page.keyboard.press('ArrowRight');
      await page.waitForSelector('.state.lit[data-state="connecting.dialing"]');
      await shows(page, '.at-event', /generation.*dial/);
      await page.locator('.timeline .event', { hasText: 'the store granted the start' }).click();
      await page.waitForSelector('.state.lit[data-state="live.streaming.flow.waiting"]');
      await shows(page, '.at-event', /store\.started.*sendCreate/);
      await shoot(page, 'time-travel-light');
      await page.click('.slider >> text=now');
      await page.waitForSelector('.state.inmost[data-state="live.idle"]');
      expect(await page.locator('.tag.past').count()).toBe(0);
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The machine can be moved and scaled by keyboard, and follows its active state again when asked',
    async () => {
      await start();
      const first = await say('a', [user('hello')]);
      const { page } = await open(`/admin/ui#/sessions/${first.headers['x-holdfast-session']}`);
      const idle = page.locator('.state.inmost[data-state="live.idle"]');
      await idle.waitFor();
      const follow = page.getByRole('button', { name: 'follow' });
      const chart = page.locator('.picture .canvas');
      const isInSight = async () => {
        const [state, frame] = [(await idle.boundingBox())!, (await chart.boundingBox())!];
        const middle = { x: state.x + state.width / 2, y: state.y + state.height / 2 };
        return (
          middle.x > frame.x &&
          middle.x < frame.x + frame.width &&
          middle.y > frame.y &&
          middle.y < frame.y + frame.height
        );
      };
      await until(isInSight);
      await page.setViewportSize({ width: 420, height: 900 });
      await until(isInSight);
      await chart.focus();
      for (let step = 0; step < 12; step += 1) await page.keyboard.press('ArrowRight');
      expect(await follow.getAttribute('aria-pressed')).toBe('false');
      await until(async () => !(await isInSight()));
      await page.keyboard.press('+');
      await page.keyboard.press('0');
      await until(isInSight);
      expect(await follow.getAttribute('aria-pressed')).toBe('true');
    },
    LIMIT_MS,
  );

  it(
    'An unreachable upstream is named in the list of sessions, and the failure is found by the beginning of its request id',
    async () => {
      await start({ env: { HOLDFAST_UPSTREAM_URL: `http://127.0.0.1:${await freePort()}/v1` } });
      const { page, complaints } = await open();
      await shows(page, '.empty', 'There is no session yet');
      const failed = await say('a', [user('hello')]);
      await shows(page, '.empty', /No session has started.*ECONNREFUSED/);
      await page.click('.empty a');
      await shows(page, '.mishaps li', /502.*bridge_upstream_unreachable.*ECONNREFUSED/);
      await page.fill('input[type=search]', failed.headers['x-request-id']!.slice(0, 8));
      await page.waitForURL(/q=/);
      await page.click('.mishaps .row');
      await shows(page, '.story', 'Reason for the client');
      await shows(page, '.details', 'What the client is advised to do');
      await page.fill('input[type=search]', 'nothing like it');
      await shows(page, '.empty', 'No failure matches');
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'A session that still connects is listed and can be opened; it becomes a stored one',
    async () => {
      await start({ env: { HOLDFAST_UPSTREAM_TRANSPORT: 'websocket' } });
      const refusal = at.simulator.script.onUpgrade({}, { kind: 'refuse', status: 503 }, { times: 'always' });
      const waiting = openLive(at.url, { model: 'gpt-5.5', store: false, input: 'hello' }, { 'thread-id': 'a' });
      const { page, complaints } = await open();
      await shows(page, '.rows li', 'connecting');
      await page.click('.rows li');
      await page.waitForSelector('.state.lit[data-state="connecting"]');
      await shows(page, '.standing', 'waits for a socket');
      refusal.remove();
      await (await waiting).rest();
      await page.waitForSelector('.state.inmost[data-state="live.idle"]');
      await shows(page, '.turns tbody', 'completed');
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The overview leads from its figures and charts to the turns behind them',
    async () => {
      await start();
      for (const thread of ['a', 'b']) await say(thread, [user('hello')]);
      const { page, complaints } = await open('/admin/ui');
      await shows(page, '.figure', /Turns\s*2/);
      await shows(page, '.verdict', 'All 2 turns of the last 15 min ended well');
      await page.locator('.plot .canvas').first().focus();
      await page.keyboard.press('ArrowLeft');
      await page.keyboard.press('Enter');
      await page.waitForURL(/#\/turns\?since=\d+&until=\d+/);
      await page.goBack();
      await page.locator('.plot').first().getByRole('link', { name: 'created' }).click();
      await page.waitForSelector('.page tbody tr:nth-child(2)');
      await shows(page, '.chips', 'created');
      await page.click('.page tbody tr:first-child a');
      await page.waitForSelector('.session .standing');
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );

  it(
    'The admin page asks for the admin token, keeps it for the tab, and then shows the workers',
    async () => {
      await start({ env: { HOLDFAST_ADMIN_TOKEN: 'operator' } });
      const { page, complaints } = await open('/admin/ui#/workers');
      await page.fill('input[name=token]', 'wrong');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.trouble');
      await page.fill('input[name=token]', 'operator');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.workers tbody tr');
      await shows(page, '.workers tbody', at.bridge.workerId.slice(0, 8));
      await page.reload();
      await page.waitForSelector('.workers tbody tr');
      await shoot(page, 'workers-light');
      await page.click('text=Forget token');
      await page.waitForSelector('input[name=token]');
      expect(complaints).toEqual([]);
    },
    LIMIT_MS,
  );
});
