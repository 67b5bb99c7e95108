import { expect, it } from 'vitest';
import { StoreUnavailable } from '../../src/store/port.ts';
import { testBridge } from '../../src/testing/index.ts';

it('/ready asks the database itself, once for all probes of a moment, and notices when it is lost and back', async () => {
  let lost = false;
  let asked = 0;
  let answer = () => {};
  await using at = await testBridge({
    env: { HOLDFAST_LAME_DUCK_MS: '0' },
    wrapStore: (store) => ({
      ...store,
      async session(scope, id) {
        asked += 1;
        await new Promise<void>((now) => {
          answer = now;
        });
        if (lost) throw new StoreUnavailable('no answer');
        return store.session(scope, id);
      },
    }),
  });
  const probe = async () => {
    const response = await fetch(`${at.url}/ready`);
    return [response.status, await response.json()];
  };
  const answered = async <T>(probes: Promise<T>): Promise<T> => {
    const before = asked;
    while (asked === before) await new Promise(setImmediate);
    answer();
    return probes;
  };
  expect(await answered(probe())).toEqual([200, { status: 'ready', reasons: [] }]);
  lost = true;
  const gone = [503, { status: 'not_ready', reasons: ['database does not answer'] }];
  expect(await answered(probe())).toEqual(gone);
  lost = false;
  const before = asked;
  const [one, two] = [at.bridge.readiness(), at.bridge.readiness()];
  expect(asked).toBe(before + 1);
  answer();
  expect(await Promise.all([one, two])).toEqual([
    { ready: true, reasons: [] },
    { ready: true, reasons: [] },
  ]);
});
