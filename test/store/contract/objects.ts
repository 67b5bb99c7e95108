import { randomUUID } from 'node:crypto';
import { expect, test } from 'vitest';
import { RESPONSE_KIND } from '../../../src/store/port.ts';
import { sweepAll } from '../calls.ts';
import type { Subject } from '../contract.ts';

export function providerObjects(given: () => Subject): void {
  const scope = () => `tenant:${randomUUID()}`;

  test('An object belongs to the scope that made it, and to no other', async () => {
    const { store } = given();
    const [ann, bob] = [scope(), scope()];
    await store.keepObjects(ann, 'files', ['file_1', 'file_2', 'file_1']);
    await store.keepObjects(ann, 'files', ['file_1']);
    expect((await store.ownObjects(ann, ['file_2', 'file_1', 'file_3', ''])).toSorted()).toEqual(['file_1', 'file_2']);
    expect(await store.ownObjects(bob, ['file_1', 'file_2'])).toEqual([]);
    await store.dropObject(bob, 'file_1');
    await store.dropObject(ann, 'file_2');
    expect(await store.ownObjects(ann, ['file_1', 'file_2'])).toEqual(['file_1']);
  });

  test('Ids of any content are kept, except those that no index can hold', async () => {
    const { store } = given();
    const ann = scope();
    const ids = ['file-\u{1f600}', "file-'; drop table turn", 'x'.repeat(2_048)];
    await store.keepObjects(ann, 'files', [...ids, 'x'.repeat(2_049)]);
    expect((await store.ownObjects(ann, [...ids, 'x'.repeat(2_049)])).toSorted()).toEqual(ids.toSorted());
  });

  test('Objects of one kind are listed in the order in which they were made, page by page', async () => {
    const { store } = given();
    const ann = scope();
    for (let nth = 0; nth < 5; nth += 1) await store.keepObjects(ann, 'files', [`file_${nth}`]);
    await store.keepObjects(ann, 'vector_stores', ['vs_1']);
    await store.keepObjects(scope(), 'files', ['file_of_another']);
    const pages = async (order: 'asc' | 'desc') => {
      const seen: string[][] = [];
      for (let after: string | null = null; ; ) {
        const page: Awaited<ReturnType<typeof store.listObjects>> = await store.listObjects({
          scope: ann,
          kind: 'files',
          limit: 2,
          order,
          after,
        });
        seen.push([...page!.ids]);
        after = page!.ids.at(-1) ?? null;
        if (!page!.more) return seen;
      }
    };
    expect(await pages('asc')).toEqual([['file_0', 'file_1'], ['file_2', 'file_3'], ['file_4']]);
    expect(await pages('desc')).toEqual([['file_4', 'file_3'], ['file_2', 'file_1'], ['file_0']]);
    const query = { scope: ann, kind: 'files', limit: 2, order: 'asc', after: 'file_of_another' } as const;
    expect(await store.listObjects(query)).toBeNull();
    expect(await store.listObjects({ ...query, scope: scope(), after: null })).toEqual({ ids: [], more: false });
  });

  test('Only the records of responses in the background are purged with age', async () => {
    const { store, age } = given();
    const ann = scope();
    await store.keepObjects(ann, RESPONSE_KIND, ['resp_old']);
    await store.keepObjects(ann, 'files', ['file_old']);
    await age(25);
    await store.keepObjects(ann, RESPONSE_KIND, ['resp_new']);
    await sweepAll(store);
    expect((await store.ownObjects(ann, ['resp_old', 'resp_new', 'file_old'])).toSorted()).toEqual([
      'file_old',
      'resp_new',
    ]);
  });
}
