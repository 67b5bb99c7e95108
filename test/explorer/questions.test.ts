import type { Browser, Locator } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { systemClock } from '../../src/system.ts';
import { type TestBridge, type TestBridgeOptions, testBridge } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { post } from '../support/client.ts';
import { user } from '../support/messages.ts';
import { hasBrowser, LIMIT_MS, launch, openPage, shoot } from './support.ts';

/** What each call of the slow worker's store takes longer, in milliseconds. */
const SLOW_MS = 300;

const ends: (() => unknown)[] = [];
afterAll(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

/** Returns a store whose calls take longer. */
function slowed(store: SessionStore): SessionStore {
  return new Proxy(store, {
    get(target, name) {
      const member = Reflect.get(target, name);
      if (typeof member !== 'function') return member;
      return (...args: unknown[]) => {
        const answer = member.apply(target, args);
        if (!(answer instanceof Promise)) return answer;
        return answer.then(async (value) => {
          await new Promise((late) => setTimeout(late, SLOW_MS));
          return value;
        });
      };
    },
  });
}

/**
 * Starts three workers on one database. The second one has a slow store. The third one forwards nothing: it refuses
 * conversations of the others, and they do not learn of it.
 */
async function startDeployment(): Promise<{ a: TestBridge; b: TestBridge; c: TestBridge }> {
  const database = createMemoryDatabase('0'.repeat(64));
  const start = async (env: Record<string, string>, options: TestBridgeOptions, isSlow: boolean) => {
    const store = createMemoryStore({ clock: systemClock, database });
    const at = await testBridge({
      openStore: async () => (isSlow ? slowed(store) : store),
      ...options,
      env: {
        HOLDFAST_SECRETS: `k:${'s'.repeat(32)}`,
        HOLDFAST_LAME_DUCK_MS: '0',
        HOLDFAST_PRICES: '*=1000000/1000',
        HOLDFAST_ADMIN_TOKEN: 'operator',
        ...env,
      },
    });
    ends.push(() => at.close());
    return at;
  };
  const a = await start({}, {}, false);
  const b = await start({}, { simulator: a.simulator }, true);
  const c = await start({ HOLDFAST_INSTANCE_POLICY: 'reject' }, { simulator: a.simulator }, false);
  return { a, b, c };
}

const say = (at: TestBridge, thread: string, input: unknown) =>
  post(at.url, { model: 'gpt-5.5', stream: true, store: false, input }, { 'thread-id': thread });

/** A person with a browser, whose clicks are counted. */
function person() {
  let clicks = 0;
  return {
    async click(what: Locator) {
      clicks += 1;
      await what.click();
    },
    get clicks() {
      return clicks;
    },
  };
}

let a: TestBridge;
let b: TestBridge;
let c: TestBridge;
let refused: Awaited<ReturnType<typeof post>>;
let browser: Browser;

beforeAll(async () => {
  if (!hasBrowser) return;
  ({ a, b, c } = await startDeployment());
  const history: object[] = [user('hello '.repeat(500))];
  for (let turn = 0; turn < 3; turn += 1) {
    await say(a, 'one', history);
    const { body } = await say(b, 'two', history);
    history.push(...body.output, user(`and on ${turn}`));
  }
  // A client whose conversation belongs to another worker gets 409; then a turn fails at the provider.
  refused = await say(c, 'one', history);
  const error = { status: 503, code: 'server_is_overloaded', message: 'private words' };
  a.simulator.script.onTurn({}, { kind: 'error', error });
  await say(a, 'three', 'hello');
  browser = await launch();
  ends.push(() => browser.close());
}, LIMIT_MS);

/** Opens the first page, as an operator who has the token does, and counts from there. */
async function begin(at: TestBridge) {
  const { page, complaints } = await openPage(browser, at.url, '/admin/ui');
  await page.fill('input[name=token]', 'operator');
  await page.keyboard.press('Enter');
  await page.waitForSelector('.figure');
  ends.push(() => expect(complaints).toEqual([]));
  return { page, me: person() };
}

/** The questions of the table in docs/observability.md, with the clicks that it names. */
describe.skipIf(!hasBrowser)('questions of an operator who sees the explorer for the first time', () => {
  it(
    'Which turn failed last, and why? Two clicks',
    async () => {
      const { page, me } = await begin(a);
      await me.click(page.getByRole('navigation').getByRole('link', { name: 'Failures' }));
      const first = page.locator('.mishaps > li').first();
      await first.locator('.row', { hasText: /503.*upstream_503/ }).waitFor();
      await me.click(first.locator('.row'));
      await first.locator('.story', { hasText: "The client got the provider's own error, 503" }).waitFor();
      await shoot(page, 'question-failed');
      expect(me.clicks).toBe(2);
    },
    LIMIT_MS,
  );

  it(
    'Which worker is slow? No click',
    async () => {
      const { page, me } = await begin(a);
      const name = b.bridge.workerId.slice(0, 8);
      await page.locator('.verdict', { hasText: `Worker ${name} is slow.` }).waitFor();
      const row = page.locator('.workers-table tr', { hasText: name });
      await row.locator('.slow', { hasText: /slow: database \d+/ }).waitFor();
      expect(await page.locator('.workers-table .slow').count()).toBe(1);
      await shoot(page, 'question-slow');
      expect(me.clicks).toBe(0);
    },
    LIMIT_MS,
  );

  it(
    'What was saved today? One click',
    async () => {
      const { page, me } = await begin(a);
      await me.click(page.getByRole('button', { name: 'last 24 h' }));
      await page.locator('.when', { hasText: 'last 24 h' }).first().waitFor();
      await page.locator('.figure', { hasText: /Bytes saved\s*[\d.]+ [kM]?B/ }).waitFor();
      await page.locator('.figure', { hasText: /Saved by caching\s*\d/ }).waitFor();
      expect(me.clicks).toBe(1);
    },
    LIMIT_MS,
  );

  it(
    'Why did this client get 409? Three clicks',
    async () => {
      expect(refused.status).toBe(409);
      const { page, me } = await begin(c);
      await me.click(page.getByRole('navigation').getByRole('link', { name: 'Failures' }));
      await me.click(page.getByRole('searchbox'));
      await page.keyboard.insertText(String(refused.headers['x-request-id']));
      const only = page.locator('.mishaps > li:only-child');
      await only.locator('.row', { hasText: /409.*bridge_wrong_instance/ }).waitFor();
      await me.click(only.locator('.row'));
      await only.locator('.details', { hasText: 'What the client is advised to do' }).waitFor();
      await only.locator('.story', { hasText: 'The client got 409 bridge_wrong_instance' }).waitFor();
      await shoot(page, 'question-409');
      expect(me.clicks).toBe(3);
    },
    LIMIT_MS,
  );
});
