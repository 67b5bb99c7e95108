import { describe, expect, it } from 'vitest';
import { KnownBodies } from '../../../src/intake/again.ts';
import { createReader } from '../../../src/intake/pool.ts';
import { flatten, readSource, unflatten } from '../../../src/intake/read.ts';
import { elementTexts, memberText, withMembers } from '../../../src/json.ts';
import { user } from '../../support/messages.ts';
import { createRandom } from '../../support/random.ts';
import { bodies, kinds, plainOf, recordedBodies } from './bodies.ts';

const whole = (text: string, named = true) => readSource(text, 'body', { whole: true, named });

/** Receives a text in chunks that end anywhere, also within a character. */
function arrived(known: KnownBodies, text: string, named = true, size = 997) {
  const arrival = known.receive('c', named);
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; at += size) {
    // The memory of a chunk is used again.
    const chunk = Buffer.from(bytes.subarray(at, at + size));
    arrival.push(chunk);
    chunk.fill(0);
  }
  return arrival;
}

/** Reads a text on top of the known one, as it arrives and as a whole, which gives the same. */
function again(known: KnownBodies, text: string, named = true) {
  const flat = known.read('c', text, Buffer.byteLength(text), named);
  const other = known.extended(arrived(known, text, named));
  expect(other && plainOf(unflatten(other).request)).toEqual(flat && plainOf(unflatten(flat).request));
  return other;
}

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
        // A name that needs a closer look, or is repeated, makes the body be read whole, and so do many new items.
        else expect(named || name.includes('repeated') || items.length - count > 400, name).toBe(true);
      }
    }
  });

  it('A conversation that grows item by item is read the same at each turn, whatever else changes', () => {
    const known = new KnownBodies(1e9);
    const { integer } = createRandom(7, 'growing conversation');
    const random = (below: number) => integer(0, below - 1);
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
    const values = (count: number) => `{"role":"user","content":"a","x":[${'0,'.repeat(count)}0]}`;
    expect(extended(more(values(900_000)), more(`${values(900_000)},${values(7_000)}`))).not.toBeNull();
    expect(extended(more(values(995_000)), more(`${values(995_000)},${values(7_000)}`))).toBeNull();
    const items = (count: number) => Array.from({ length: count }, () => '{"id":"x"}').join(',');
    expect(extended(more(items(65_000)), more(`${items(65_000)},${items(536)}`), false)).not.toBeNull();
    expect(extended(more(items(65_000)), more(`${items(65_000)},${items(537)}`), false)).toBeNull();
  });

  it('A body that adds more than is read between two events is left to a thread', () => {
    const added = (count: number) => more(`${a}${`,${a}`.repeat(count)}`);
    expect(extended(first, added(500))).toEqual(plainOf(whole(added(500)).request));
    expect(extended(first, added(2_000))).toBeNull();
    const long = (size: number) => more(`${a},{"role":"user","content":"${'x'.repeat(size)}"}`);
    expect(extended(first, long(900_000))).toEqual(plainOf(whole(long(900_000)).request));
    expect(extended(first, long(1_100_000))).toBeNull();
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

describe('a body that arrives', () => {
  const item = (content: string) => `{"role":"user","content":"${content}"}`;
  const body = (...contents: string[]) => `{"model":"m","input":[${contents.map(item).join(',')}]}`;
  const known = new KnownBodies(1e9);
  known.remember('c', flatten(whole(body('one 漢', 'two 😀é'))), true);

  it.each([
    ['repeats the one before', body('one 漢', 'two 😀é')],
    ['adds to the one before', body('one 漢', 'two 😀é', 'three é漢😀')],
    ['differs at its beginning', body('1', 'two')],
    ['differs late', body('one 漢', 'two 😁é')],
    ['is a beginning of the one before', body('one 漢', 'two 😀é').slice(0, -6)],
    ['is empty', ''],
    ['holds U+FFFD', body('one 漢', 'two 😀é', '\ufffd')],
  ])('Its bytes can be had back when it %s, wherever its chunks end', async (_, text) => {
    const bytes = Buffer.from(text);
    for (let size = 1; size <= Math.min(bytes.length, 64) + 1; size += 1) {
      const arrival = arrived(known, text, true, size);
      expect(arrival.bytes).toBe(bytes.length);
      const { rest } = arrival;
      if (rest !== null) expect(body('one 漢', 'two 😀é').slice(0, -2) + rest).toBe(text);
      expect(Buffer.concat(await arrival.whole()).equals(bytes)).toBe(true);
    }
  });

  it.each([
    ['in the part that is known', '漢'],
    ['after it', 'three'],
  ])('Bytes that are not UTF-8 are not taken for text %s', async (_, place) => {
    const broken = Buffer.from(body('one 漢', 'two 😀é', 'three'));
    broken[broken.indexOf(place)] = 0xff;
    for (const size of [1, 2, 3, 1_000]) {
      const arrival = known.receive('c', true);
      for (let from = 0; from < broken.length; from += size) arrival.push(broken.subarray(from, from + size));
      expect(arrival.rest).toBeNull();
      expect(Buffer.concat(await arrival.whole()).equals(broken)).toBe(true);
    }
  });

  it('A body that ends within a character is not read on top of another', () => {
    const bytes = Buffer.from(body('one 漢', 'two 😀é', 'three é'));
    const arrival = known.receive('c', true);
    arrival.push(bytes.subarray(0, bytes.lastIndexOf('é') + 1));
    expect(arrival.rest).toBeNull();
  });

  it('A known body with U+FFFD is no beginning, because broken bytes are decoded to it', () => {
    const replaced = new KnownBodies(1e9);
    replaced.remember('c', flatten(whole(body('\ufffd'))), true);
    expect(replaced.has('c')).toBe(false);
  });

  it('What was known when its first byte arrived counts, whatever is remembered meanwhile', () => {
    const shared = new KnownBodies(1e9);
    shared.remember('c', flatten(whole(body('one'))), true);
    const arrival = arrived(shared, body('one', 'two'));
    shared.remember('c', flatten(whole(body('other', 'words'))), true);
    expect(plainOf(unflatten(shared.extended(arrival)!).request)).toEqual(plainOf(whole(body('one', 'two')).request));
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
      const received = reader.receive({ conversation: 'one' });
      received.push(Buffer.from(text));
      const { request } = await reader.read(received, 'body', { conversation: 'one' });
      expect(plainOf(request)).toEqual(plainOf(whole(text).request));
      const { request: same } = await reader.read([Buffer.from(text)], 'body', { conversation: 'one' });
      expect(plainOf(same)).toEqual(plainOf(request));
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
