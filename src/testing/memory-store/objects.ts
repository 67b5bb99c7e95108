import { usableItemIds } from '../../store/items.ts';
import type { ObjectQuery } from '../../store/port.ts';
import { type MemoryDatabase, scoped } from './database.ts';

/**
 * Creates the records of the provider's objects over maps.
 *
 * @param now returns the store's clock in milliseconds
 */
export function createObjects(db: MemoryDatabase, now: () => number) {
  const own = (scope: string, ids: readonly string[]) =>
    usableItemIds(ids).filter((id) => db.objects.has(scoped(scope, id)));
  return {
    keepObjects(scope: string, kind: string, ids: readonly string[]): void {
      for (const id of usableItemIds(ids)) {
        const key = scoped(scope, id);
        if (!db.objects.has(key)) db.objects.set(key, { scope, id, kind, createdAt: now() });
      }
    },
    ownObjects: own,
    listObjects({ scope, kind, limit, order, after }: ObjectQuery) {
      if (after !== null && own(scope, [after]).length === 0) return null;
      const all = [...db.objects.values()].filter((each) => each.scope === scope && each.kind === kind);
      if (order === 'desc') all.reverse();
      const from = after === null ? 0 : all.findIndex(({ id }) => id === after) + 1;
      const ids = all.slice(from, from + limit).map(({ id }) => id);
      return { ids, more: all.length > from + limit };
    },
    dropObject(scope: string, id: string): void {
      db.objects.delete(scoped(scope, id));
    },
  };
}
