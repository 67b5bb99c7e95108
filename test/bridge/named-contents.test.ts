import { expect, it } from 'vitest';
import { loadContents } from '../../src/session/history.ts';
import type { SessionReads, TurnItems } from '../../src/store/port.ts';

const message = (id: string, text: string) => ({ type: 'message', id, role: 'assistant', content: text });

/** A store that knows one lineage. */
const knowing = (...turns: { input: object[]; output: object[] }[]) =>
  ({
    lineage: async () =>
      turns.map(({ input, output }) => ({ input: JSON.stringify(input), output: JSON.stringify(output) }) as TurnItems),
  }) as unknown as SessionReads;

const found = async (store: SessionReads, ...ids: string[]) =>
  Object.fromEntries(
    [...(await loadContents(store, 'local', ['turn'], ids))].map(([id, json]) => [id, JSON.parse(json)]),
  );

it('what names an item stands for the item, not for another place that names it', async () => {
  const store = knowing(
    { input: [], output: [message('msg_1', 'one')] },
    { input: [{ type: 'item_reference', id: 'msg_1' }, { id: 'msg_1' }], output: [message('msg_2', 'two')] },
  );
  expect(await found(store, 'msg_1')).toEqual({ msg_1: { type: 'message', role: 'assistant', content: 'one' } });
});

it('an id that an upstream gave to several items stands for none of them', async () => {
  const store = knowing(
    { input: [], output: [message('msg_0', 'one'), message('msg_1', 'same')] },
    { input: [], output: [message('msg_0', 'two'), message('msg_1', 'same')] },
  );
  expect(Object.keys(await found(store, 'msg_0', 'msg_1'))).toEqual(['msg_1']);
});

it('an item that nothing holds, or that is named like a member of every object, is not found', async () => {
  const store = knowing({ input: [{ type: 'item_reference', id: '__proto__' }], output: [message('msg_1', 'one')] });
  expect(await found(store, 'msg_2', '__proto__', 'constructor')).toEqual({});
});
