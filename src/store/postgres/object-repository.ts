import type { InferEntity } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/postgresql';
import { type SqlBool, sql } from 'kysely';
import { ProviderObject } from '../entities.ts';
import { usableItemIds } from '../items.ts';
import type { ObjectQuery } from '../port.ts';
import type { Executor } from './executor.ts';
import { answered, RowRepository, text } from './orm.ts';

type Row = InferEntity<typeof ProviderObject>;

/** Objects that scopes made at the provider by calls other than turns. */
export class ObjectRepository extends RowRepository<Row, Row> {
  constructor(em: EntityManager, executor: Executor) {
    super(em, ProviderObject, executor);
  }

  async keepObjects(scope: string, kind: string, ids: readonly string[]): Promise<void> {
    const rows = usableItemIds(ids.map(text)).map((id) => ({ scope: text(scope), object_id: id, kind }));
    if (rows.length === 0) return;
    await answered(
      this.query
        .insertInto('provider_object')
        .values(rows as never)
        .onConflict((conflict) => conflict.columns(['scope', 'object_id']).doNothing())
        .execute(),
    );
  }

  async ownObjects(scope: string, ids: readonly string[]): Promise<readonly string[]> {
    const wanted = usableItemIds(ids.map(text));
    if (wanted.length === 0) return [];
    const found = await answered(
      this.query
        .selectFrom('provider_object as o')
        .select('o.object_id as id')
        .where('o.scope', '=', text(scope))
        .where(sql<SqlBool>`o.object_id = any(${wanted}::text[])`)
        .execute(),
    );
    return found.map(({ id }) => id);
  }

  async listObjects({
    scope,
    kind,
    limit,
    order,
    after,
  }: ObjectQuery): Promise<{ ids: readonly string[]; more: boolean } | null> {
    if (after !== null && (await this.ownObjects(scope, [after])).length === 0) return null;
    const beyond = sql.raw(order === 'asc' ? '>' : '<');
    let page = this.query
      .selectFrom('provider_object as o')
      .select('o.object_id as id')
      .where('o.scope', '=', text(scope))
      .where('o.kind', '=', kind)
      .orderBy('o.created_at', order)
      .orderBy('o.object_id', order)
      .limit(limit + 1);
    if (after !== null) {
      page = page.where(
        sql<SqlBool>`(o.created_at, o.object_id) ${beyond} (
          select c.created_at, c.object_id from provider_object c where c.scope = ${text(scope)} and c.object_id = ${text(after)})`,
      );
    }
    const found = await answered(page.execute());
    return { ids: found.slice(0, limit).map(({ id }) => id), more: found.length > limit };
  }

  async dropObject(scope: string, id: string): Promise<void> {
    await answered(
      this.query
        .deleteFrom('provider_object')
        .where('scope', '=', text(scope))
        .where('object_id', '=', text(id))
        .execute(),
    );
  }
}
