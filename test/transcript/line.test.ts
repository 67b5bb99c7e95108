import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  continuedBy,
  decodeForms,
  EMPTY,
  encodeForms,
  extendChain,
  formsOf,
  type Line,
  placeAfter,
  relate,
} from '../../src/transcript/items.ts';
import { readItem, readItems } from '../../src/transcript/read.ts';
import type { Item } from '../../src/transcript/types.ts';
import { user } from '../support/messages.ts';

const said = (text: string, id = `msg_${text}`, annotations: unknown[] = []): Item => ({
  type: 'message',
  id,
  role: 'assistant',
  status: 'completed',
  content: [{ type: 'output_text', text, annotations, logprobs: [] }],
});
const thought = (sealed: string, id = 'rs_1'): Item => ({
  type: 'reasoning',
  id,
  summary: [],
  encrypted_content: sealed,
});
const listing: Item = { type: 'mcp_list_tools', id: 'mcpl_1', server_label: 's', tools: [{ name: 't' }] };

interface TurnOf {
  input: Item[];
  streamed: Item[];
  listed?: Item[] | null;
}

const written = (value: Item) => ({ value, json: JSON.stringify(value) });
const reading = (value: Item) => readItem(written(value));

/** Returns a line of consecutive turns as a later look-up reads it back. */
function lineOf(...turns: TurnOf[]): Line {
  let line: Line | null = null;
  turns.forEach(({ input, streamed, listed = null }, index) => {
    const forms = decodeForms(encodeForms(formsOf({ input: input.map(reading), streamed, listed })))!;
    line = { turnId: `t${index}`, forms, parent: line };
  });
  return line!;
}
const count = (line: Line, items: Item[]) => continuedBy(line, readItems(items.map(written)));

describe('matching of a request with a line', () => {
  const first: TurnOf = {
    input: [user('one')],
    streamed: [thought('done-1'), said('uno')],
    listed: [thought('completed-1'), said('uno')],
  };
  const second: TurnOf = {
    input: [user('two')],
    streamed: [thought('done-2', 'rs_2'), said('dos')],
    listed: [thought('completed-2', 'rs_2'), said('dos')],
  };
  const line = lineOf(first, second);
  const whole = (one: string, two: string) => [
    user('one'),
    thought(one),
    said('uno'),
    user('two'),
    thought(two, 'rs_2'),
    said('dos'),
    user('three'),
  ];

  it.each<[string, string, string]>([
    ['as streamed', 'done-1', 'done-2'],
    ['as the terminal listed them', 'completed-1', 'completed-2'],
    ['in another form each turn', 'done-1', 'completed-2'],
    ['in another form each turn, the other way round', 'completed-1', 'done-2'],
  ])('A request continues a line when it resends the items %s', (_, one, two) => {
    expect(count(line, whole(one, two))).toBe(6);
  });

  it.each<[string, string, string]>([
    ['a ciphertext of no event', 'other', 'done-2'],
    ['the provisional ciphertext of output_item.added', 'added-1', 'done-2'],
    ['the ciphertext of another turn', 'done-2', 'done-2'],
  ])('A request does not continue a line with %s', (_, one, two) => {
    expect(count(line, whole(one, two))).toBeNull();
  });

  it('A request does not continue a line without one of its items, or with an additional one in between', () => {
    const items = whole('done-1', 'done-2');
    for (let index = 0; index < 6; index += 1) {
      expect(count(line, items.toSpliced(index, 1)), `without item ${index}`).toBeNull();
      expect(count(line, items.toSpliced(index, 0, user('more'))), `one more at ${index}`).toBeNull();
    }
  });

  it('A request continues a line without ids, status and annotations, or with references', () => {
    const cited = lineOf({ input: [user('q')], streamed: [said('a', 'msg_9', [{ type: 'url_citation', url: 'u' }])] });
    const answers: Item[] = [
      said('a', 'msg_9', [{ type: 'url_citation', url: 'u' }]),
      { role: 'assistant', content: 'a' },
      { type: 'message', role: 'assistant', content: [{ type: 'output_text', text: 'a' }] },
      { type: 'item_reference', id: 'msg_9' },
    ];
    for (const answer of answers) expect(count(cited, [user('q'), answer, user('r')]), JSON.stringify(answer)).toBe(2);
    const others: Item[] = [
      said('a', 'msg_9', [{ type: 'url_citation', url: 'another' }]),
      { role: 'assistant', content: 'b' },
      { type: 'item_reference', id: 'msg_8' },
    ];
    for (const answer of others)
      expect(count(cited, [user('q'), answer, user('r')]), JSON.stringify(answer)).toBeNull();
  });

  it('A request does not continue a line with a reference to an item that has no id', () => {
    for (const id of [undefined, '', 7]) {
      const nameless = lineOf({ input: [user('q')], streamed: [{ ...said('a'), id }] });
      expect(count(nameless, [user('q'), said('a'), user('r')])).toBe(2);
      expect(count(nameless, [user('q'), { type: 'item_reference', id }, user('r')])).toBeNull();
    }
  });

  it('A request continues a line even if the provider changed an id or a type, or both', () => {
    const searched: Item = { type: 'web_search_call', id: 'ws_1', action: { query: 'x' }, status: 'completed' };
    const custom: Item = { type: 'custom_tool_call', id: 'ctc_1', call_id: 'c', name: 'x', input: '{}' };
    const changed = lineOf({
      input: [user('q')],
      streamed: [searched, said('a', 'm1')],
      listed: [custom, said('a', 'm2')],
    });
    expect(count(changed, [user('q'), searched, said('a', 'm1')])).toBe(3);
    expect(count(changed, [user('q'), custom, said('a', 'm2')])).toBe(3);
  });

  it('A request continues a line with or without items that were listed and never streamed', () => {
    const turns = [1, 2].map((n) => ({
      input: [user(`q${n}`)],
      streamed: [said(`a${n}`)],
      listed: [listing, said(`a${n}`)],
    }));
    const hosted = lineOf(...turns);
    for (const one of [[], [listing]]) {
      for (const two of [[], [listing]]) {
        const items = [user('q1'), ...one, said('a1'), user('q2'), ...two, said('a2')];
        expect(count(hosted, [...items, user('q3')])).toBe(items.length);
      }
    }
  });

  it('A request continues a line with the streamed items when the terminal lists none', () => {
    expect(count(lineOf({ ...first, listed: [] }), [user('one'), thought('done-1'), said('uno')])).toBe(3);
  });

  it('A request continues a line from a compaction on, or whole with the compaction in it', () => {
    const compaction: Item = { type: 'compaction', id: 'cmp', encrypted_content: 'sealed' };
    const compacted = lineOf(first, { input: [user('two')], streamed: [compaction] }, { ...second });
    expect(count(compacted, [compaction, ...whole('', 'done-2').slice(3)])).toBe(4);
    const before = [...whole('done-1', '').slice(0, 3), user('two')];
    expect(count(compacted, [...before, compaction, ...whole('', 'done-2').slice(3)])).toBe(8);
    expect(count(compacted, [user('one'), compaction, ...whole('', 'done-2').slice(3)])).toBeNull();
    expect(count({ ...compacted.parent!, parent: null, detached: true }, [compaction, user('next')])).toBe(1);
    expect(count({ ...compacted.parent!, parent: null, detached: true }, [user('two'), compaction])).toBeNull();
  });

  it('A request continues a line with some items of a turn as streamed and others as listed', () => {
    const mixed = lineOf({
      input: [user('one')],
      streamed: [thought('done-1'), thought('done-2', 'rs_2')],
      listed: [thought('completed-1'), thought('completed-2', 'rs_2')],
    });
    expect(count(mixed, [user('one'), thought('done-1'), thought('completed-2', 'rs_2'), user('two')])).toBe(3);
  });

  it('A request continues a line from a compaction that was only listed', () => {
    const compaction: Item = { type: 'compaction', id: 'cmp', encrypted_content: 'sealed' };
    const compacted = lineOf({ input: [user('one')], streamed: [said('uno')], listed: [compaction, said('uno')] });
    expect(count(compacted, [compaction, said('uno'), user('two')])).toBe(2);
  });

  it('A request does not continue a line from an item before its compaction', () => {
    const compaction: Item = { type: 'compaction', id: 'cmp', encrypted_content: 'sealed' };
    const output = [said('before'), compaction];
    for (const listed of [null, output]) {
      const compacted = lineOf({ input: [user('one')], streamed: output, listed });
      expect(count(compacted, [compaction, user('next')])).toBe(1);
      expect(count(compacted, [user('one'), ...output, user('next')])).toBe(3);
      expect(count(compacted, [...output, user('next')])).toBeNull();
    }
  });

  it('A request does not continue a line without the output, wherever that was shown', () => {
    for (const turn of [
      { input: [user('one')], streamed: [], listed: [said('uno')] },
      { input: [user('one')], streamed: [said('uno')], listed: [] },
      { input: [user('one')], streamed: [said('uno')], listed: null },
    ]) {
      expect(count(lineOf(turn), [user('one'), said('uno'), user('two')])).toBe(2);
      expect(count(lineOf(turn), [user('one'), user('two')])).toBeNull();
    }
  });

  it('A request continues a line whose first turn asked nothing', () => {
    const silent = lineOf({ input: [], streamed: [said('uno')] }, { input: [user('two')], streamed: [] });
    expect(count(silent, [said('uno'), user('two'), user('three')])).toBe(2);
    expect(relate(lineOf({ input: [], streamed: [] }), readItems([user('one')].map(written)))).toBeNull();
  });

  it('A request continues no line that is not known', () => {
    expect(relate(null, readItems([user('one')].map(written)))).toBeNull();
    expect(continuedBy(null, readItems([user('one')].map(written)))).toBeNull();
  });

  it('A request continues a line after a warm-up, which has no output', () => {
    const warm = lineOf({ input: [user('prompt')], streamed: [] });
    expect(count(warm, [user('prompt'), user('go')])).toBe(1);
  });

  it('A reasoning item without encrypted content is identified by its id', () => {
    const bare = lineOf({ input: [user('q')], streamed: [{ type: 'reasoning', id: 'rs_1', summary: [] }, said('a')] });
    const with_ = (reasoning: object) =>
      count(bare, [user('q'), { type: 'reasoning', summary: [], ...reasoning }, said('a')]);
    expect(with_({ id: 'rs_1' })).toBe(3);
    expect(with_({})).toBe(3);
    expect(with_({ id: 'rs_2' })).toBeNull();
  });

  it('A request that stops early without a difference ends within the line', () => {
    expect(relate(line, readItems([user('one')].map(written)))).toEqual({ kind: 'within', count: 1 });
    expect(relate(line, readItems([user('one'), thought('completed-1')].map(written)))?.kind).toBe('within');
    expect(relate(line, readItems([user('other')].map(written)))).toBeNull();
    expect(relate(line, readItems([].map(written)))).toBeNull();
  });
});

describe('the place at which a turn ends', () => {
  const placesOf = (items: Item[]) => readItems(items.map(written)).places;
  const chainOf = (items: Item[]) => extendChain(EMPTY, items.map(reading));

  it('Places are looked up after an item of the client too, with several new items after it', () => {
    const items = ['one', 'two', 'three'].map(user);
    expect(placesOf(items)).toContain(placeAfter(chainOf(items.slice(0, 1)), items[0]!));
  });

  it('Places after an item of the client are looked up only among the eight newest items', () => {
    const items = Array.from({ length: 9 }, (_, index) => user(`q${index}`));
    const expected = items.map((item, index) => placeAfter(chainOf(items.slice(0, index + 1)), item));
    expect(placesOf(items)).toEqual(expected.slice(1).reverse());
    expect(placesOf([said('a'), ...items])).toContain(placeAfter(EMPTY, said('a')));
  });

  it('The place of a turn is among those that a continuing request looks up, in each form of its last item', () => {
    const chain = chainOf([user('one')]);
    for (const last of [
      said('uno'),
      { role: 'assistant', content: 'uno' },
      { type: 'item_reference', id: 'msg_uno' },
    ]) {
      expect(placesOf([user('one'), thought('any'), last as Item, user('two')])).toContain(
        placeAfter(chain, last as Item),
      );
    }
  });

  it('The place of a turn differs when a client item before it or the last item differs', () => {
    const place = placeAfter(chainOf([user('one')]), said('uno'));
    expect(placesOf([user('One'), said('uno'), user('two')])).not.toContain(place);
    expect(placesOf([user('one'), said('Uno'), user('two')])).not.toContain(place);
    expect(placesOf([user('one'), user('more'), said('uno'), user('two')])).not.toContain(place);
  });

  it('The place of a turn does not depend on what clients drop from the last item', () => {
    const cited = said('uno', 'msg_1', [{ type: 'url_citation', url: 'u' }]);
    const place = placeAfter(chainOf([user('one')]), cited);
    expect(placesOf([user('one'), said('uno'), user('two')])).toContain(place);
    const bare: Item = { type: 'mcp_approval_request', id: 'mcpr_1', name: 'n' };
    const asked = placeAfter(chainOf([user('one')]), bare);
    expect(placesOf([user('one'), { type: 'mcp_approval_request', name: 'n' }])).toContain(asked);
  });

  it('The deepest place is looked up first, and at most 256 are', () => {
    const items = Array.from({ length: 600 }, (_, index) => (index % 2 ? said(`a${index}`) : user(`q${index}`)));
    const places = placesOf(items);
    expect(places).toHaveLength(256);
    expect(places[0]).toBe(placeAfter(chainOf(items), items.at(-1)!));
  });
});

describe('property over all conversations', () => {
  const turn = fc.record({
    input: fc.array(fc.string({ maxLength: 3 }).map(user), { maxLength: 2 }),
    output: fc.array(fc.tuple(fc.boolean(), fc.string({ maxLength: 3 })), { minLength: 1, maxLength: 3 }),
    listedOnly: fc.boolean(),
    form: fc.constantFrom('streamed', 'listed'),
  });

  it('A mixture of forms continues its conversation at its length, and any one changed item does not', () => {
    fc.assert(
      fc.property(fc.array(turn, { minLength: 1, maxLength: 5 }), fc.nat(), (turns, pick) => {
        const sealed = (kind: string, n: number) => (item: [boolean, string], index: number) =>
          item[0] ? thought(`${kind}-${n}-${index}`, `rs_${n}_${index}`) : said(item[1]);
        const made = turns.map(({ input, output, listedOnly }, n) => ({
          input,
          streamed: output.map(sealed('done', n)),
          listed: [...(listedOnly ? [listing] : []), ...output.map(sealed('completed', n))],
        }));
        const line = lineOf(...made);
        const items = made.flatMap((each, n) => [...each.input, ...each[turns[n]!.form as 'streamed' | 'listed']]);
        expect(count(line, [...items, user('next')])).toBe(items.length);
        const changed = items.with(pick % items.length, { type: 'novel', n: pick });
        expect(count(line, [...changed, user('next')])).toBeNull();
      }),
      { numRuns: 300 },
    );
  });
});

describe('stored forms of another release or with damage', () => {
  const forms = formsOf({ input: [readItem(written(user('a')))], streamed: [said('b')], listed: null });

  it('Stored forms have a third list only after a compaction, as in earlier releases', () => {
    const hashed = (item: Item) => expect.arrayContaining([...reading(item).accepted]);
    expect(JSON.parse(encodeForms(forms))).toEqual([[hashed(user('a'))], [[hashed(said('b'))]]]);
    const warm = formsOf({ input: [], streamed: [], listed: null });
    expect(encodeForms(warm)).toBe('[[],[]]');
    const summary: Item = { type: 'compaction', encrypted_content: 'x' };
    const compacted = formsOf({ input: [], streamed: [summary], listed: null });
    expect(JSON.parse(encodeForms(compacted))).toEqual([[], [[hashed(summary)]], [[hashed(summary)]]]);
    expect(decodeForms(encodeForms(compacted))).toEqual(compacted);
  });

  it('Stored forms are read as they were written', () => {
    expect(decodeForms(encodeForms(forms))).toEqual(forms);
  });

  it.each([
    '',
    '{',
    'null',
    '1',
    '"x"',
    '{}',
    '[]',
    '[[]]',
    '[[],1]',
    '[[1],[]]',
    '[["a"],[]]',
    '[[{}],[]]',
    '[[[1]],[]]',
    '[[["short"]],[]]',
    '[[["0123456789,0123456789a"]],[]]',
  ])('Malformed stored forms are rejected: %s', (text) => expect(decodeForms(text)).toBeNull());

  it.each(['[[],[["a"]]]', '[[],[[[null]]]]', '[[],[],{}]', '[[],[],[[["a"],{}]]]', '[[],[],null]'])(
    'Malformed listed forms are rejected: %s',
    (text) => expect(decodeForms(text)).toBeNull(),
  );
});
