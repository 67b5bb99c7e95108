import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, it } from 'vitest';
import { createAdminApi } from '../../src/admin/api.ts';
import type { AdminPort } from '../../src/admin/fleet.ts';
import { createApp } from '../../src/http/app.ts';
import type { OperatorVerdict } from '../../src/store/port.ts';
import { randomIds } from '../../src/system.ts';

const logger = { debug() {}, info() {}, warn() {}, error() {} };

/**
 * Closes a busy session of another worker that never answers, through the API of this one.
 *
 * @param verdicts answers of the store to each close
 */
async function closeBusy(verdicts: OperatorVerdict[]) {
  const notices: object[] = [];
  const row = { id: 's', ownerWorkerId: 'owner', epoch: 4, state: 'live', activeTurnId: 't' };
  const store: Partial<AdminPort['store']> = {
    session: async () => row as never,
    sessionById: async () => row as never,
    workers: async () => [{ id: 'owner', state: 'serving' } as never],
    operatorClose: async () => verdicts.shift()!,
  };
  const port = {
    store,
    workerId: 'here',
    tell: (_id: string, action: string) => void notices.push({ told: action }),
    hint: (_worker: object, notice: object) => void notices.push(notice),
  } as unknown as AdminPort;
  let now = 0;
  const clock = {
    now: () => now,
    wall: () => now,
    after(ms: number, run: () => void) {
      now += ms;
      queueMicrotask(run);
      return () => {};
    },
  };
  const server = createServer(
    createApp(createAdminApi({ port, allow: () => {}, clock, logger, prices: new Map() }), { ids: randomIds, logger }),
  );
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  try {
    const { status } = await fetch(
      `http://127.0.0.1:${(server.address() as AddressInfo).port}/admin/sessions/s/close`,
      { method: 'POST', headers: { 'content-type': 'application/json' } },
    );
    return { status, notices, waitedMs: now };
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

const asked = { sessionId: 's', epoch: 4, news: 'close' };

it('A busy session whose owner does not answer is closed by the store, and its owner is notified', async () => {
  expect(await closeBusy(['busy', 'ok'])).toEqual({
    status: 200,
    notices: [asked, { told: 'close' }, { sessionId: 's', epoch: 5, news: 'claimed' }],
    waitedMs: 2_000,
  });
});

it('A session that its owner closes after the last look is closed, without another notice', async () => {
  expect(await closeBusy(['busy', 'missing'])).toEqual({ status: 200, notices: [asked], waitedMs: 2_000 });
});

it('A session that stays busy is refused with 409', async () => {
  expect(await closeBusy(['busy', 'busy'])).toEqual({ status: 409, notices: [asked], waitedMs: 2_000 });
});
