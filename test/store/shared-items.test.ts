import { randomBytes, randomUUID } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { arrayText } from '../../src/json.ts';
import { joinItems, packItem, packItems, SHARED_ABOVE, splitItems, unpackItems } from '../../src/store/items.ts';
import type { SessionStore } from '../../src/store/port.ts';
import { openPostgresStore } from '../../src/store/postgres/index.ts';
import { freshDatabase } from '../support/database.ts';
import { busyLane, claimNow, completed, newWorker } from './calls.ts';

describe('large items, stored once per scope', () => {
  let database: Awaited<ReturnType<typeof freshDatabase>>;
  let store: SessionStore;
  let admin: pg.Client;
  beforeAll(async () => {
    database = await freshDatabase();
    store = await openPostgresStore({ url: database.url, poolSize: 4 });
    admin = new pg.Client({ connectionString: database.url });
    await admin.connect();
  });
  afterAll(async () => {
    await store.shutdown();
    await admin.end();
    await database.drop();
  });

  const count = async () => Number((await admin.query('select count(*) from shared_item')).rows[0].count);
  const bytes = async () => Number((await admin.query('select sum(octet_length(input)) from turn_items')).rows[0].sum);
  const large = { type: 'message', role: 'user', content: randomBytes(SHARED_ABOVE).toString('base64') };
  async function settled(scope: string, item: object, responseId = `resp_${randomUUID()}`) {
    const lane = await busyLane(store, await newWorker(store), { scope });
    const items = { input: [JSON.stringify(item), JSON.stringify({ n: randomUUID() })], output: [] };
    await store.settle(lane.settle(lane.firstTurn.id, completed({ items, responseId })));
    return { lane, items, responseId };
  }

  test('A large item is stored once for all conversations of a scope, separately per scope, until the last reference is deleted', async () => {
    const [first, second, other] = [await settled('a', large), await settled('a', large), await settled('b', large)];
    expect(await count()).toBe(2);
    expect(await bytes()).toBeLessThan(1_000);
    expect(await store.eraseResponse('a', first.responseId)).toBe(true);
    expect(await count()).toBe(2);
    const [kept] = await store.lineage('a', second.lane.firstTurn.id);
    expect(kept!.input === arrayText(second.items.input)).toBe(true);
    await store.eraseResponse('b', other.responseId);
    expect(await count()).toBe(1);
    await store.eraseResponse('a', second.responseId);
    expect(await count()).toBe(0);
  });

  test('A large item that a sweep deletes while it is needed again is stored afterwards', async () => {
    for (let round = 0; round < 15; round += 1) {
      const item = { ...large, round };
      const { responseId } = await settled('race', item);
      const [again] = await Promise.all([settled('race', item), store.eraseResponse('race', responseId)]);
      const [line] = await store.lineage('race', again.lane.firstTurn.id);
      expect(line!.input === arrayText(again.items.input)).toBe(true);
    }
  });

  test('Large items of a settle after the end do not change the stored data', async () => {
    const owner = await newWorker(store);
    const lane = await busyLane(store, owner, { scope: 'late' });
    await store.declareDead(owner);
    await claimNow(store, lane.sessionId, await newWorker(store));
    const small = { input: ['{"n":1}', '{"n":2}'], output: [] };
    const first = lane.settle(lane.firstTurn.id, completed({ items: small }));
    expect(await store.settle(first)).toEqual({ verdict: 'branch' });
    const before = await count();
    const late = completed({ items: { input: [JSON.stringify(large), '{"n":2}'], output: [] } });
    expect(await store.settle(lane.settle(lane.firstTurn.id, late))).toEqual({ verdict: 'branch' });
    const [line] = await store.lineage('late', lane.firstTurn.id);
    expect(line).toMatchObject({ input: '[{"n":1},{"n":2}]', output: '[]' });
    expect(await count()).toBe(before);
  });

  test.each<[string, string]>([
    ['item', `update shared_item set data = '\\x00'::bytea where scope = $1`],
    [
      'list of places',
      `update turn_items set shared = '{"input":1}' where turn_id in (select id from turn where scope = $1)`,
    ],
    [
      'rest',
      `update turn_items set input = '\\x789c00'::bytea where turn_id in (select id from turn where scope = $1)`,
    ],
  ])('A damaged %s makes its turn unusable, and is not an error', async (what, damage) => {
    const { lane } = await settled(`damaged ${what}`, large);
    await admin.query(damage, [`damaged ${what}`]);
    const [line] = await store.lineage(`damaged ${what}`, lane.firstTurn.id);
    expect(line!.input).toBeNull();
  });

  test('A missing large item makes its turn unusable, and never leaves a gap in a context', async () => {
    const { lane } = await settled('c', large);
    await admin.query(`delete from turn_shared_item where scope = 'c'`);
    await admin.query(`delete from shared_item where scope = 'c'`);
    const [line] = await store.lineage('c', lane.firstTurn.id);
    expect(line).toMatchObject({ input: null, output: '[]' });
  });
});

describe('splitting large items out of a list', () => {
  const long = 'x'.repeat(SHARED_ABOVE);

  test('Splitting a list and joining it again gives the same text', async () => {
    const texts = [long, 1, { long }, null].map((item) => JSON.stringify(item));
    const split = (await splitItems(texts))!;
    const rest = arrayText(split.items);
    expect(joinItems(rest, { ...split.places, 9: split.places[0]! }, split.shared)).toBeNull();
    expect(Object.keys(split.places)).toEqual(['0', '2']);
    expect(rest.length).toBeLessThan(100);
    expect(joinItems(rest, split.places, split.shared)).toBe(arrayText(texts));
    expect(joinItems(rest, split.places, new Map())).toBeNull();
  });

  test('Splitting a list and joining it again gives the same bytes, whatever its notation', async () => {
    const texts = [
      '{"10":1.0, "9": 9223372036854775807}',
      `{"long" : "${long}", "n":-0, "big":1E400}`,
      '"\\u0041\\/"',
      `"${long}"`,
    ];
    const split = (await splitItems(texts))!;
    expect(Object.keys(split.places)).toEqual(['1', '3']);
    expect(split.items).toEqual([texts[0], 'null', texts[2], 'null']);
    expect(joinItems(arrayText(split.items), split.places, split.shared)).toBe(arrayText(texts));
    // A list that was stored with other white space is joined in the same way.
    expect(joinItems(` [ ${split.items.join(' ,\n')} ] `, split.places, split.shared)).toBe(
      ` [ ${texts.join(' ,\n')} ] `,
    );
  });

  test('Splitting a list without large items changes nothing', async () => {
    expect(await splitItems([])).toBeNull();
    expect(await splitItems(['"small"', long.slice(0, SHARED_ABOVE)])).toBeNull();
  });
});

describe('packing items', () => {
  const ofLength = (length: number) => JSON.stringify('\u00e4"\u{1f600}'.repeat(length).slice(0, length));

  test.each([0, 1, 100, 400, 1_000, 1_100, 5_000, 20_000, 70_000])(
    'Items of %i characters are packed and unpacked',
    async (length) => {
      const items = [ofLength(length), 'null', '{"n":-0}'];
      expect(await unpackItems(await packItems(items))).toBe(arrayText(items));
      expect(await unpackItems(await packItem(items[0]!))).toBe(items[0]);
    },
  );

  test('Short items are packed at once: they are stored plain, longer ones compressed', async () => {
    expect((packItems([]) as Buffer).subarray(5).toString()).toBe('[]');
    const longer = packItems([JSON.stringify('x'.repeat(10_000))]);
    expect(longer).toBeInstanceOf(Buffer);
    expect((longer as Buffer).length).toBeLessThan(200);
    expect(packItems([JSON.stringify('x'.repeat(20_000))])).toBeInstanceOf(Promise);
  });

  test.each([10, 2_000])('Every damaged byte of %i characters is detected', async (length) => {
    const packed = await packItems([JSON.stringify(randomBytes(length).toString('hex').slice(0, length))]);
    for (let at = 0; at < packed.length; at += 1 + Math.floor(packed.length / 50)) {
      const damaged = Buffer.from(packed);
      damaged[at]! ^= 0x41;
      expect(await unpackItems(damaged), `byte ${at}`).toBeNull();
    }
    for (const end of [0, 1, 4, 5, packed.length - 1]) expect(await unpackItems(packed.subarray(0, end))).toBeNull();
  });
});
