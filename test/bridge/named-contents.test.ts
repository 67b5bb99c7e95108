import { expect, it } from 'vitest';
import { loadContents } from '../../src/session/planning.ts';
import type { SessionReads, TurnItems } from '../../src/store/port.ts';

const message = (id: string, text: string) => ({ type: 'message', id, role: 'assistant', content: text });

/** Creates a store that holds one lineage. */
const knowing = (...turns: { input: object[]; output: object[] }[]) =>
  ({
    lineage: async () =>
      turns.map(({ input, output }) => ({ input: JSON.stringify(input), output: JSON.stringify(output) }) as TurnItems),
  }) as unknown as SessionReads;

const found = async (store: SessionReads, ...ids: string[]) =>
  Object.fromEntries(
    [...(await loadContents(store, 'local', ['turn'], ids))].map(([id, json]) => [id, JSON.parse(json)]),
  );

it('An id resolves to the item that has it, not to another reference with the same id', async () => {
  const store = knowing(
    { input: [], output: [message('msg_1', 'one')] },
    { input: [{ type: 'item_reference', id: 'msg_1' }, { id: 'msg_1' }], output: [message('msg_2', 'two')] },
  );
  expect(await found(store, 'msg_1')).toEqual({ msg_1: { type: 'message', role: 'assistant', content: 'one' } });
});

it('An id that an upstream gave to several items resolves to none of them', async () => {
  const store = knowing(
    { input: [], output: [message('msg_0', 'one'), message('msg_1', 'same')] },
    { input: [], output: [message('msg_0', 'two'), message('msg_1', 'same')] },
  );
  expect(Object.keys(await found(store, 'msg_0', 'msg_1'))).toEqual(['msg_1']);
});

it('An id that no item has, or that is the name of a member of every object, does not resolve', async () => {
  const store = knowing({ input: [{ type: 'item_reference', id: '__proto__' }], output: [message('msg_1', 'one')] });
  expect(await found(store, 'msg_2', '__proto__', 'constructor')).toEqual({});
});
