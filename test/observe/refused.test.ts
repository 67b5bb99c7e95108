import { expect, it } from 'vitest';
import { createFailures } from '../../src/observe/failures.ts';

const request = { id: 'a1b2c3d4-1111', method: 'POST', path: '/v1/responses', upgrade: false, tenant: null };

it('Refused requests do not displace failed ones, and both lists are bounded', () => {
  let now = 0;
  const failures = createFailures({ workerId: () => 'w', clock: { wall: () => (now += 1) } });
  failures.requestFailed({ ...request, id: 'the-failure' }, 'bridge_upstream_unreachable', 'ECONNREFUSED at h:1');
  for (let at = 0; at < 2_000; at += 1)
    failures.requestFailed({ ...request, id: `r${at}` }, 'bridge_unauthorized', null);
  const all = failures.list({ of: null }, 5_000);
  expect(all).toHaveLength(501);
  expect(all.at(-1)).toMatchObject({ request: 'the-failure', status: 502, cause: 'ECONNREFUSED at h:1' });
  expect(all[0]).toMatchObject({ request: 'r1999', status: 401, code: 'invalid_api_key', method: 'POST' });
});

it('Failures are found by a prefix of an id, by reason, cause and time', () => {
  let now = 0;
  const failures = createFailures({ workerId: () => 'w', clock: { wall: () => (now += 10) } });
  failures.requestFailed(request, 'bridge_unauthorized', null);
  failures.requestFailed(
    { ...request, id: 'ffff', tenant: 'acme' },
    'bridge_upstream_unreachable',
    'ENOTFOUND at api.example',
  );
  const found = (filter: object) => failures.list({ of: null, ...filter }, 9).map(({ request: id }) => id);
  expect(found({ of: 'a1b2c3d4' })).toEqual([request.id]);
  expect(found({ of: 'a1b' })).toEqual([]);
  expect(found({ reason: 'bridge_unauthorized' })).toEqual([request.id]);
  expect(found({ reason: 'api.example' })).toEqual(['ffff']);
  expect(found({ tenant: 'acme' })).toEqual(['ffff']);
  expect(found({ since: 15 })).toEqual(['ffff']);
  expect(found({ until: 15 })).toEqual([request.id]);
});
