import { EntityRepository, type EntitySchema, type FilterQuery, type FindOptions } from '@mikro-orm/core';
import { type EntityManager, MikroORM } from '@mikro-orm/postgresql';
import {
  type CompiledQuery,
  type DatabaseConnection,
  type Dialect,
  type Kysely,
  PostgresAdapter,
  PostgresIntrospector,
  PostgresQueryCompiler,
  sql,
} from 'kysely';
import { columnsOf, entities, type Tables } from '../entities.ts';
import { type NoVerdict, StoreUnavailable } from '../port.ts';
import type { Executor, Statement } from './executor.ts';
import { isNoAnswer } from './outcome.ts';

/** Tables and views of the query builder. */
export interface QueryTables extends Tables {
  any_turn: Tables['turn'];
  every_scope: { scope: string };
}

/**
 * Makes an executor the connection of MikroORM, so that whatever the entity manager and its query builder send is one
 * exchange: a transaction with its own search path and time limit, which also works behind a pooler. Statements of the ORM
 * are not prepared under a name, because their texts vary.
 */
function dialectOver(run: Executor['run']): Dialect {
  const connection: DatabaseConnection = {
    async executeQuery<Row>({ sql: text, parameters }: CompiledQuery) {
      return { rows: await run<Row>({ name: '', text }, parameters) };
    },
    streamQuery() {
      throw new Error('results are not streamed');
    },
  };
  const none = async () => {};
  const refuse = async () => {
    throw new Error('every statement is a transaction of its own');
  };
  return {
    createAdapter: () => new PostgresAdapter(),
    createQueryCompiler: () => new PostgresQueryCompiler(),
    createIntrospector: (db) => new PostgresIntrospector(db),
    createDriver: () => ({
      init: none,
      acquireConnection: async () => connection,
      releaseConnection: none,
      beginTransaction: refuse,
      commitTransaction: refuse,
      rollbackTransaction: refuse,
      destroy: none,
    }),
  };
}

/** Creates MikroORM over an executor. It opens no connection of its own. */
export function createOrm(run: Executor['run']): MikroORM {
  return new MikroORM({
    dbName: 'holdfast',
    entities,
    driverOptions: dialectOver(run),
    ensureDatabase: false,
    // Every read detaches its rows from an identity map of its own.
    allowGlobalContext: true,
    // The outage log reports lost connections, once per outage instead of once per connection.
    logger: () => undefined,
  });
}

/**
 * Replaces what PostgreSQL's `text` cannot store: NUL, and lone surrogates, which UTF-8 does not allow. Clients and
 * providers may send both.
 */
export function text(value: string): string {
  return value.toWellFormed().replaceAll('\u0000', '\uFFFD');
}

export function optionalText(value: string | null): string | null {
  return value === null ? null : text(value);
}

/** Returns a value of any column but JSON as a parameter. */
export const storable = (value: unknown): unknown => (typeof value === 'string' ? text(value) : value);

/**
 * Returns the JSON text for a `json` or `jsonb` parameter.
 *
 * @throws TypeError for values that JSON cannot represent (cycles, bigint)
 */
export function json(value: unknown): string | null {
  return value === undefined || value === null ? null : JSON.stringify(value);
}

/** Returns an answer of the database, or rejects with `StoreUnavailable` when there is none. */
export async function answered<T>(answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch (error) {
    if (isNoAnswer(error)) throw new StoreUnavailable(error.message, { cause: error });
    throw error;
  }
}

/** Selects a time in ISO 8601, as precise as it is stored: a cursor must match its row. */
export const isoText = (column: string) => sql<string>`to_json(${sql.ref(column)}) #>> '{}'`;

const calls = new Map<string, Statement>();

/**
 * Builds `select name($1, ..., $arity)`, prepared under the function's own name. The answer is JSON text. Functions write.
 */
export function functionCall(name: string, arity: number): Statement {
  const known = calls.get(name);
  if (known) return known;
  const parameters = Array.from({ length: arity }, (_, index) => `$${index + 1}`).join(', ');
  const call = { name, text: `select ${name}(${parameters})::text as answer`, writes: true };
  calls.set(name, call);
  return call;
}

/**
 * Calls a function whose answer is a verdict. Where parameters and a connection are there, the call is on its way when this
 * returns. Never rejects: a call without an answer gets `unknown`; an error reported by the database, or parameters that
 * cannot be serialised, give `rejected`.
 */
export async function callFunction<Verdict>(
  executor: Executor,
  name: string,
  parameters: () => readonly unknown[] | Promise<readonly unknown[]>,
): Promise<Verdict | NoVerdict> {
  try {
    const given = parameters();
    const values = given instanceof Promise ? await given : (given as readonly unknown[]);
    const rows = await executor.run<{ answer: string }>(functionCall(name, values.length), values);
    return JSON.parse(rows[0]!.answer) as Verdict;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    return { verdict: isNoAnswer(error) ? 'unknown' : 'rejected', reason };
  }
}

/** Repository whose reads return rows of the port, detached from the entity manager. */
export class RowRepository<Entity extends object, Row> extends EntityRepository<Entity> {
  protected override readonly em: EntityManager;
  protected readonly executor: Executor;
  readonly #entity: EntitySchema<Entity>;

  constructor(em: EntityManager, entity: EntitySchema<Entity>, executor: Executor) {
    super(em, entity);
    this.em = em;
    this.executor = executor;
    this.#entity = entity;
  }

  protected get query(): Kysely<QueryTables> {
    return this.em.getKysely<QueryTables>();
  }

  /** Executes a hand-written statement: of those whose reads one round trip of the query builder cannot express. */
  protected read<Result>(statement: Statement, values: readonly unknown[]): Promise<Result[]> {
    return answered(this.executor.run<Result>(statement, values));
  }

  protected async rows(where: FilterQuery<Entity>, options: FindOptions<Entity> = {}): Promise<Row[]> {
    const found = await answered(this.find(where, { ...options, disableIdentityMap: true } as never));
    const shown = columnsOf(this.#entity).filter(({ hidden }) => !hidden);
    return (found as unknown as Record<string, unknown>[]).map(
      (entity) => Object.fromEntries(shown.map(({ property }) => [property, entity[property] ?? null])) as Row,
    );
  }
}
