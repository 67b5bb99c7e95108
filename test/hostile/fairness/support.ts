import { request } from 'undici';
import { bodyOf, startBridge, user } from '../../field/support.ts';
import type { TestBridge } from '../../support/bridge.ts';
import { openLive } from '../../support/live-client.ts';
import { until } from '../../support/until.ts';

export { user };

/** Three tenants of one upstream key; the admin token is for the test itself. */
const tenants = {
  HOLDFAST_UPSTREAM_KEY: 'sk-shared',
  HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob,cat:key-cat',
  HOLDFAST_ADMIN_TOKEN: 'admin-token-of-the-test',
  HOLDFAST_DISCONNECT_GRACE_MS: '300',
};
const admin = { authorization: `Bearer ${tenants.HOLDFAST_ADMIN_TOKEN}` };

export const startTenants = (env: Record<string, string> = {}): Promise<TestBridge> =>
  startBridge({ env: { ...tenants, ...env } });

export const as = (who: string, more: Record<string, string> = {}) => ({ authorization: `Bearer key-${who}`, ...more });

/** Turns with this text in their input do not end by themselves; the handle ends them. */
export const ENDLESS = 'without end';
export const holdEndless = (at: TestBridge) =>
  at.simulator.script.onTurn({ input: ENDLESS }, { kind: 'hold', at: 'after_created' }, { times: 'always' });

/** Opens an endless turn in its own conversation. */
export const endless = (at: TestBridge, who: string, name: string) =>
  openLive(at.url, bodyOf([user(`${ENDLESS} ${name}`)]), as(who, { 'thread-id': name }));

/** Returns the value of one metric; of a labelled metric, the series with these labels. */
export async function metric(at: TestBridge, series: string): Promise<number> {
  const answer = await request(`${at.url}/metrics`, { headers: admin });
  const line = (await answer.body.text()).split('\n').find((each) => each.startsWith(`${series} `));
  return line === undefined ? 0 : Number(line.slice(series.length + 1));
}

/** Like `until`, with a longer timeout for a busy machine. */
export const eventually = (check: () => boolean | Promise<boolean>) => until(check, 60_000);
