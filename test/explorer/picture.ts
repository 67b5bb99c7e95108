import { mkdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import setup from '../support/global-setup.ts';
import { user } from '../support/messages.ts';
import { fillWithSessions, launch, openPage, views } from './support.ts';

/** `npm run docs:picture`: takes the picture of the explorer that the README shows. */
const FOLDER = join(import.meta.dirname, '..', '..', 'docs', 'images');
/** Largest picture, in bytes. */
const MOST_BYTES = 150_000;

const end = await setup();
const at = await startTestBridge({ env: { HOLDFAST_PRICES: '*=1.25/0.125' }, simulator: { deltaCount: 20 } });
try {
  await mkdir(FOLDER, { recursive: true });
  await fillWithSessions(at.databaseUrl);
  const history: object[] = [user('hello '.repeat(300))];
  for (let turn = 0; turn < 5; turn += 1) {
    const input = { model: 'gpt-5.5', stream: true, store: false, input: history };
    const answer = await post(at.url, input, { 'thread-id': 'pictures' });
    history.push(...answer.body.output, user(`and on ${turn}`));
  }
  const browser = await launch();
  const { page } = await openPage(browser, at.url, '/admin/ui', views.light);
  await page.getByRole('button', { name: 'last 24 h' }).click();
  await page.locator('.when', { hasText: 'last 24 h' }).nth(8).waitFor();
  await page.mouse.move(0, 0);
  const file = join(FOLDER, 'overview.png');
  await page.screenshot({ path: file });
  const { size } = await stat(file);
  console.log(`${file}: ${size} bytes`);
  if (size > MOST_BYTES) process.exitCode = 1;
  await browser.close();
} finally {
  await at.close();
  await end();
}
