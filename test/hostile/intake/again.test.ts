import { describe, expect, it } from 'vitest';
import { KnownBodies } from '../../../src/intake/again.ts';
import { createReader } from '../../../src/intake/pool.ts';
import { flatten, readSource, unflatten } from '../../../src/intake/read.ts';
import { elementTexts, memberText, withMembers } from '../../../src/json.ts';
import { user } from '../../support/messages.ts';
import { bodies, kinds, plainOf, recordedBodies } from './bodies.ts';

const whole = (text: string, named = true) => readSource(text, 'body', { whole: true, named });
const again = (known: KnownBodies, text: string, named = true) => known.read('c', text, Buffer.byteLength(text), named);

/** Remembers `first`, then reads `second`. Null if it was not read on top of the first. */
function extended(first: string, second: string, named = true) {
  const known = new KnownBodies(1e9);
  known.remember('c', flatten(whole(first, named)), named);
  const flat = again(known, second, named);
  return flat && plainOf(unflatten(flat).request);
}

const withInput = (text: string, items: readonly string[]) =>
  withMembers(text, new Map([['input', `[${items.join(',')}]`]]));

/** Bodies with several items, none of which is anchored, and which are valid. */
const growing = [...bodies(), ...recordedBodies()].filter(([, text]) => {
  try {
    const { request } = whole(text);
    return request.items.list.length > 1 && request.shape !== 'delta' && memberText(text, 'input')?.startsWith('[');
  } catch {
    return false;
  }
});

describe('reading a body on top of the one before', () => {
  it.each(growing)('"%s" is read the same on top of each of its beginnings as when it is read whole', (name, text) => {
    const items = elementTexts(memberText(text, 'input')!);
    const step = Math.max(1, Math.floor(items.length / 12));
    for (const named of [true, false]) {
      const expected = plainOf(whole(withInput(text, items), named).request);
      for (let count = 1; count <= items.length; count += step) {
        const found = extended(withInput(text, items.slice(0, count)), withInput(text, items), named);
        if (found) expect(found).toEqual(expected);
        // A name that needs a closer look, or is repeated, makes the body be read whole.
        else expect(named || name.includes('repeated'), name).toBe(true);
      }
    }
  });

  it('A conversation that grows item by item is read the same at each turn, whatever else changes', () => {
    const known = new KnownBodies(1e9);
    let state = 7;
    const random = (below: number) => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff;
      return state % below;
    };
    const items: string[] = [];
    const tools = JSON.stringify(
      Array.from({ length: 30 }, (_, at) => ({ type: 'function', name: `f${at}`, parameters: { type: 'object' } })),
    );
    let hits = 0;
    for (let turn = 0; turn < 120; turn += 1) {
      for (let added = 1 + random(3); added > 0; added -= 1) {
        const item = random(3) > 0 ? user(`q${turn}-${added}`) : kinds[random(kinds.length)]!;
        items.push(random(4) > 0 ? JSON.stringify(item) : JSON.stringify(item, null, 1));
      }
      const before = random(5) > 0 ? '"model":"m","instructions":"Be brief."' : '"model":"other"';
      const changed = random(6) === 0 ? '{"type":"web_search"}' : '';
      const rest = [
        `"tools":${changed === '' ? tools : tools.replace(/\]$/, `,${changed}]`)}`,
        `"client_metadata":{"turn_id":"t${turn}"}`,
        ...(random(4) > 0 ? ['"store":false'] : []),
        ...(random(9) === 0 ? ['"previous_response_id":"resp_1"'] : []),
      ];
      const text = `{${before},"input":[${items.join(random(2) ? ' , ' : ',')}] ,\n${rest.join(',')} }`;
      const expected = whole(text, false);
      const flat = again(known, text, false);
      if (flat) {
        hits += 1;
        expect(plainOf(unflatten(flat).request)).toEqual(plainOf(expected.request));
      }
      known.remember('c', flat ?? flatten(expected), false);
    }
    expect(hits).toBeGreaterThan(20);
  });

  const first = '{"model":"m","input":[{"role":"user","content":"a"}],"store":false}';
  const more = (items: string, rest = '"store":false') => `{"model":"m","input":[${items}],${rest}}`;
  const a = '{"role":"user","content":"a"}';

  it('The same body once more is read on top of itself', () => {
    expect(extended(first, first)).toEqual(plainOf(whole(first).request));
  });

  it.each([
    ['another beginning', more('{"role":"user","content":"b"},{}')],
    ['another member before the input', first.replace('"m"', '"n"')],
    ['fewer items', more('')],
    ['a longer first item', more('{"role":"user","content":"a","x":1}')],
    ['a comma without an item', more(`${a},`)],
    ['items without a comma', more(`${a} ${a}`)],
    ['an item that is cut', `{"model":"m","input":[${a},{"role":`],
    ['an item that is no object', more(`${a},7`)],
    ['an item that is not JSON', more(`${a},{role:"user"}`)],
    ['a second input', more(a, '"input":[]')],
    ['a name that is repeated', more(a, '"model":"n"')],
    ['a member that is not JSON', more(a, '"store":nil')],
    ['a field of a wrong type', more(a, '"store":"no"')],
    ['a lane', more(a, '"stream_id":"one"')],
    ['text after the body', `${first} x`],
    ['a second body', `${first}{}`],
    ['no end', first.slice(0, -1)],
    ['an anchor beside a conversation', more(a, '"previous_response_id":"r","conversation":"c"')],
    ['too many members', more(a, Array.from({ length: 300 }, (_, at) => `"m${at}":1`).join(','))],
    ['a long id', more(`${a},{"type":"message","role":"user","content":"x","id":"${'x'.repeat(70_000)}"}`)],
    ['deep nesting', more(`${a},{"x":${'['.repeat(399)}${']'.repeat(399)}}`)],
    [
      'an object of another tenant, possibly',
      more(
        `${a},{"type":"item_reference","id":"msg_1","file_id":"file_1"}`,
        '"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]',
      ),
    ],
    ['a repeated name in an item', more(`${a},{"role":"user","role":"user","content":"x"}`)],
  ])('A body with %s is read whole', (_, second) => {
    expect(extended(first, second)).toBeNull();
  });

  it('Too many values or items over the whole body are found, although each part is within its bound', () => {
    const values = `{"role":"user","content":"a","x":[${'0,'.repeat(600_000)}0]}`;
    expect(extended(more(values), more(`${values},${values}`))).toBeNull();
    const items = Array.from({ length: 40_000 }, () => '{"id":"x"}').join(',');
    expect(extended(more(items), more(`${items},${items}`), false)).toBeNull();
  });

  it('A lasting member is compared by its whole text, and is only remembered once it was valid', () => {
    const known = new KnownBodies(1e9);
    const toolsOf = (last: string) => `"tools":[${'{"type":"function","name":"f"},'.repeat(40)}${last}]`;
    known.remember('c', flatten(whole(more(a, toolsOf('{"type":"function"}')))), true);
    for (let times = 0; times < 2; times += 1) {
      expect(again(known, more(`${a},${a}`, toolsOf('7')))).toBeNull();
      const hosted = again(known, more(`${a},${a}`, toolsOf('{"type":"shell"}')));
      expect(hosted).toMatchObject({ hostedTools: true });
      const plain = again(known, more(`${a},${a}`, toolsOf('{"type":"function"}')));
      expect(plain).toMatchObject({ hostedTools: false });
      expect(plain!.contextFp).not.toBe(hosted!.contextFp);
    }
  });

  it('A lasting member of any length is read the same each time', () => {
    const known = new KnownBodies(1e9);
    const long = `"instructions":"${'x'.repeat(200_000)}"`;
    known.remember('c', flatten(whole(more(a, long))), true);
    for (let times = 0; times < 2; times += 1) {
      const text = more(`${a},${a}`, long);
      expect(plainOf(unflatten(again(known, text)!).request)).toEqual(plainOf(whole(text).request));
    }
  });

  it('A body whose names were not collected does not serve where they matter', () => {
    const known = new KnownBodies(1e9);
    known.remember('c', flatten(whole(first, false)), false);
    expect(again(known, first, true)).toBeNull();
    expect(again(known, first, false)).not.toBeNull();
  });

  it('Ids that tools name are checked again with each body', () => {
    const named = more(a, '"tools":[{"type":"code_interpreter","container":"cntr_1"}]');
    expect([...whole(named).request.names.owned.keys()]).toEqual(['cntr_1']);
    expect(extended(named, more(`${a},${a}`))).toBeNull();
    expect(extended(first, named)).toBeNull();
  });

  it('The oldest bodies are forgotten when the budget is used up', () => {
    const known = new KnownBodies(first.length * 2);
    for (const conversation of ['one', 'two', 'one', 'three'])
      known.remember(conversation, flatten(whole(first)), true);
    expect(['one', 'two', 'three'].filter((each) => known.has(each))).toEqual(['one', 'three']);
    expect(known.chars).toBe(first.length * 2);
  });
});

describe('a reader with known conversations', () => {
  it('A conversation that grows is read the same with and without memory of it, in threads and in the event loop', async () => {
    const reader = createReader({ logger: { error: () => {} } });
    const items: object[] = [];
    for (let turn = 0; turn < 12; turn += 1) {
      items.push(user(`q${turn} ${'x'.repeat(turn * 1_500)}`), {
        type: 'function_call',
        call_id: 'c',
        name: 'f',
        arguments: '{}',
      });
      const text = JSON.stringify({ model: 'm', input: items, stream: true });
      const { request } = await reader.read([Buffer.from(text)], 'body', { conversation: 'one' });
      expect(plainOf(request)).toEqual(plainOf(whole(text).request));
    }
    await reader.close();
  });

  it('A forwarded conversation that grows is read the same with memory of it, whatever its envelope', async () => {
    const reader = createReader({ logger: { error: () => {} } });
    const items = [user('x'.repeat(9_000))];
    for (let turn = 0; turn < 4; turn += 1) {
      items.push(user(`q${turn}`));
      const text = JSON.stringify({ model: 'm', input: items });
      const parcel = Buffer.from(`{"v":1,"turn":${turn},"body": ${text} ,"z":[]}`);
      const read = await reader.read([parcel], 'envelope', { conversation: 'one' });
      expect(read.envelope).toBe(`{"v":1,"turn":${turn},"body": null ,"z":[]}`);
      expect(plainOf(read.request)).toEqual({ ...plainOf(whole(text).request), bytes: parcel.length });
    }
    await reader.close();
  });

  it('Bytes that are not UTF-8 are refused, although the beginning of the body is known', async () => {
    const reader = createReader({ logger: { error: () => {} } });
    const body = (last: string) => `{"model":"m","input":[{"role":"user","content":"${'x'.repeat(9_000)}"}${last}]}`;
    await reader.read([Buffer.from(body(''))], 'body', { conversation: 'one' });
    const bytes = Buffer.from(body(',{"role":"user","content":"\u00e9"}'), 'latin1');
    await expect(reader.read([bytes], 'body', { conversation: 'one' })).rejects.toMatchObject({
      code: 'bridge_invalid_json',
    });
    await reader.close();
  });
});
