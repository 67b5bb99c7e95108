import { expect, it } from 'vitest';
import type { Evidence } from '../../src/resolve/types.ts';
import { LastOwners } from '../../src/session/last-owners.ts';

const evidence = (over: Partial<Evidence> = {}) =>
  ({ scope: 'a', anchor: null, token: { kind: 'none' }, hardKey: null, ...over }) as Evidence;
const thread = (hash: string) => evidence({ hardKey: { kind: 'thread', hash } });
const ours = (sessionId: string, epoch: number) => ({ kind: 'ours', sessionId, epoch }) as Evidence['token'];
const owner = (workerId = 'w', id = 's', epoch = 3) => ({ workerId, session: { id, scope: 'a', epoch } });

it('The owner is found by thread, by response id, and by a token of the same epoch, in the same scope only', () => {
  const owners = new LastOwners();
  owners.remember(thread('t'), owner(), 'resp_1');
  const found = (over: Partial<Evidence>) => owners.of(evidence(over))?.workerId;
  for (const over of [
    { hardKey: { kind: 'thread', hash: 't' } },
    { anchor: 'resp_1' },
    { token: ours('s', 3) },
  ] satisfies Partial<Evidence>[]) {
    expect(found(over)).toBe('w');
    expect(found({ ...over, scope: 'b' })).toBeUndefined();
  }
  expect(found({ token: ours('s', 2) })).toBeUndefined();
  expect(found({ hardKey: { kind: 'session', hash: 't' } })).toBeUndefined();
  expect(found({})).toBeUndefined();
});

it('Only the strongest name of a request counts', () => {
  const owners = new LastOwners();
  owners.remember(thread('t'), owner(), null);
  const named = { hardKey: { kind: 'thread', hash: 't' } } satisfies Partial<Evidence>;
  expect(owners.of(evidence({ ...named, anchor: 'resp_unknown' }))).toBeNull();
  expect(owners.of(evidence({ ...named, token: ours('another', 1) }))).toBeNull();
  // An anchor or a token may lead to another session than that of the thread.
  owners.remember(evidence({ hardKey: { kind: 'thread', hash: 'u' }, anchor: 'resp_1' }), owner('x', 'fork'), 'resp_2');
  expect(owners.of(thread('u'))).toBeNull();
  expect(owners.of(evidence({ anchor: 'resp_2' }))?.session.id).toBe('fork');
});

it('An owner is forgotten by the name of a request, and a worker as a whole', () => {
  const owners = new LastOwners();
  for (const name of ['t', 'u']) owners.remember(thread(name), owner('w', name), null);
  owners.remember(thread('v'), owner('x', 'v'), null);
  owners.forget(thread('t'));
  expect([owners.of(thread('t')), owners.of(thread('u'))?.workerId]).toEqual([null, 'w']);
  owners.forgetWorker('w');
  expect([owners.of(thread('u')), owners.of(thread('v'))?.workerId]).toEqual([null, 'x']);
});

it('At most 30,000 names are remembered, those that were used last, and no long ones', () => {
  const owners = new LastOwners();
  owners.remember(thread('used'), owner('w', 'used'), null);
  owners.remember(thread('unused'), owner('w', 'unused'), null);
  for (let nth = 0; nth < 14_998; nth += 1) owners.remember(thread(`${nth}`), owner('w', `${nth}`), null);
  owners.of(thread('used'));
  for (const name of ['one more', 'and one']) owners.remember(thread(name), owner('w', name), null);
  expect([owners.of(thread('used')), owners.of(thread('unused'))]).toEqual([owner('w', 'used'), null]);
  const long = 'x'.repeat(513);
  owners.remember(thread('t'), owner(), long);
  expect(owners.of(evidence({ anchor: long }))).toBeNull();
});
