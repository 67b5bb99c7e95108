import { type BigIntType, defineEntity, JsonType, p, UnderscoreNamingStrategy } from '@mikro-orm/core';
import type { InferEntityProperties, InferKyselyDB, InferKyselyTable } from '@mikro-orm/sql';
import type { Selectable } from 'kysely';

/**
 * MikroORM entities of the tables: the only declaration of what a row holds. Derived from it are the row types of the port,
 * the rows of the in-memory store, the typed query builder, and the lists of columns in SQL (`columnsOf`). A test compares
 * the entities with the migrated database.
 *
 * **`scope` comes first** in every primary and foreign key of a table with tenants' rows, and is in every unique index, so that
 * a scope's rows can live together on one shard of a distributed database. Such a database, like a partitioned table,
 * enforces no uniqueness across scopes, and none is needed: ids of sessions and turns are random UUIDs, those of providers
 * only mean something within a scope, and every statement names the scope with the id. So a tenant cannot reach another's
 * row, even by its id. `holdfast_meta` and `worker` belong to no tenant; every shard has the whole of them.
 *
 * Columns marked `hidden` are not part of the port's rows.
 *
 * Ownership is never written by a unit-of-work flush: a flush omits columns that it considers unchanged, and an ownership
 * write must name every column.
 */

export const workerStates = ['serving', 'draining', 'dead'] as const;
export const sessionStates = ['connecting', 'live', 'reconnecting', 'stale', 'closed'] as const;
export const turnStates = ['active', 'completed', 'incomplete', 'failed', 'cancelled', 'lost'] as const;
/** `fresh`: no history; `full`: whole history, no anchor; `delta`: anchor and new items. */
export const shapes = ['fresh', 'full', 'delta'] as const;
/** Ways to rebuild a turn's context: from its items exactly, only through its upstream id, or not at all. */
export const replayClasses = ['exact', 'anchor_only', 'never'] as const;

/** Kinds of hard continuity key. */
export type KeyKind = 'thread' | 'session';
/** State of a worker's row. `dead` is terminal. */
export type WorkerState = (typeof workerStates)[number];
/** State of a session's row: the top level of its machine's state. */
export type SessionStateName = (typeof sessionStates)[number];
/** State of a turn's row: `active`, or how it ended. */
export type TurnState = (typeof turnStates)[number];
/** See `shapes`. */
export type Shape = (typeof shapes)[number];
/** See `replayClasses`. */
export type ReplayClass = (typeof replayClasses)[number];

/**
 * Actions of the bridge on a turn. For operators only: no decision depends on it. Times are milliseconds since the request
 * was read. Holds no content and no credential.
 */
export interface TurnMetrics {
  outcome: string;
  /** Form in which the request was sent upstream; null when it was not sent. */
  form: 'full' | 'delta' | null;
  bytesFromClient: number;
  bytesSent: number;
  /** Number of frames sent for the turn: 2 after a resend. */
  creates: number;
  fault: string | null;
  upstreamStatus: number | null;
  /** Time until the turn was handed to its session. This and the next three are absent in rows of earlier releases. */
  placedMs?: number | null;
  /** Time until the session was free for the turn. */
  begunMs?: number | null;
  /** Time until the session had a socket, and the store was asked for the start. */
  readyMs?: number | null;
  /** Time until the store granted the start. */
  startedMs?: number | null;
  /** Time until the frame was sent; null when none was. */
  heldMs: number | null;
  /** Part of it that the bridge itself took. Absent in rows of earlier releases. */
  ownMs?: number | null;
  /** Time until the first upstream event; null when none arrived. */
  firstEventMs: number | null;
  totalMs: number;
}

const oneOf = (column: string, values: readonly string[]) =>
  `${column} in (${values.map((value) => `'${value}'`).join(', ')})`;
/**
 * JSON of a row. Rows are written by functions of the database, so no change of an entity is ever looked for; otherwise each read
 * would write the JSON out to compare it later, which fails for deeply nested values.
 */
class RowJson extends JsonType {
  override ensureComparable(): boolean {
    return false;
  }
}

const json = <T = unknown>() => p.type(RowJson).$type<T>();

/** JSON that a provider wrote: stored verbatim, because `jsonb` rejects `\u0000` and lone surrogates. */
const verbatim = () => json().columnType('json');
const time = () => p.datetime().columnType('timestamptz');

export const Meta = defineEntity({
  name: 'Meta',
  tableName: 'holdfast_meta',
  properties: {
    name: p.text().primary(),
    value: p.text(),
  },
});

export const Worker = defineEntity({
  name: 'Worker',
  tableName: 'worker',
  checks: [{ name: 'worker_state_check', expression: oneOf('state', workerStates) }],
  properties: {
    id: p.text().primary(),
    internalUrl: p.text().nullable(),
    /**
     * Unix socket (or named pipe) of this worker's process. A refused connection proves the worker dead. Only with the
     * embedded database.
     */
    livenessPath: p.text().nullable(),
    state: p.text().$type<WorkerState>(),
    version: p.text(),
    heartbeatExpiresAt: time().hidden(),
    createdAt: time().defaultRaw('now()').hidden(),
  },
});

export const BridgeSession = defineEntity({
  name: 'BridgeSession',
  tableName: 'bridge_session',
  indexes: [
    { name: 'bridge_session_id_index', properties: ['id'] },
    { name: 'bridge_session_created_at_index', properties: ['createdAt'] },
    { name: 'bridge_session_changed_hour_index', properties: ['changedHour', 'id'] },
    {
      name: 'bridge_session_owner_worker_id_index',
      properties: ['ownerWorkerId', 'changedHour'],
      where: 'owner_worker_id is not null',
    },
    { name: 'bridge_session_fork_turn_id_index', properties: ['forkTurnId'], where: 'fork_turn_id is not null' },
  ],
  checks: [
    { name: 'bridge_session_state_check', expression: oneOf('state', sessionStates) },
    { name: 'bridge_session_owner_check', expression: '(owner_worker_id is null) = (owner_nonce is null)' },
    { name: 'bridge_session_active_check', expression: 'active_turn_id is null or owner_worker_id is not null' },
  ],
  properties: {
    scope: p.text().primary(),
    id: p.text().primary(),
    state: p.text().$type<SessionStateName>(),
    snapshot: json().nullable(),
    machineVersion: p.integer(),
    /** Raised by every write to the row. */
    revision: p.bigint('number'),
    ownerWorkerId: p.text().nullable(),
    ownerNonce: p.text().nullable(),
    /** Fencing token: raised by every claim, never lowered. */
    epoch: p.bigint('number'),
    activeTurnId: p.text().nullable(),
    headTurnId: p.text().nullable(),
    /** Turn that the latest claim marked lost; a repeated claim returns it again. */
    lostTurnId: p.text().nullable().hidden(),
    upstreamId: p.text(),
    model: p.text().nullable(),
    /** The head's upstream id can no longer be used, and its items are not known (see settle's second form). */
    anchorLost: p.boolean().defaultRaw('false'),
    createdAt: time().defaultRaw('now()').hidden(),
    updatedAt: time().defaultRaw('now()').hidden(),
    /**
     * Turn of another session at which this one began, if any. A session's head is that turn or one of its own, so whether
     * a turn is a session's head is answered without an index over heads, which change with every turn.
     */
    forkTurnId: p.text().nullable().hidden(),
    /** `updatedAt`, rounded so that its index gets at most one entry per hour and session. */
    changedHour: p
      .datetime()
      .columnType('timestamp')
      .nullable()
      .generated(`(date_trunc('hour'::text, (updated_at at time zone 'UTC'::text))) stored`)
      .hidden(),
  },
});

/**
 * Relation that only declares a foreign key: its columns are properties of their own, which it shares with other relations.
 * So it has no column in the types of rows, nor in `columnsOf`.
 */
const overColumns = <Relation extends { '~options': object }>(relation: Relation) =>
  relation as Relation & { '~options': { persist: false } };

/** Foreign key of a row that belongs to a session. */
const ofSession = (constraint: string) =>
  overColumns(
    p
      .manyToOne(BridgeSession)
      .joinColumns('scope', 'session_id')
      .deleteRule('cascade')
      .updateRule('no action')
      .foreignKeyName(constraint),
  );

export const SessionKey = defineEntity({
  name: 'SessionKey',
  tableName: 'session_key',
  indexes: [
    { name: 'session_key_session_id_index', properties: ['sessionId', 'scope'] },
    { name: 'session_key_hash_index', properties: ['hash'] },
  ],
  properties: {
    scope: p.text().primary(),
    kind: p.text().$type<KeyKind>().primary(),
    hash: p.text().primary(),
    sessionId: p.text(),
    session: () => ofSession('session_key_session_id_foreign'),
  },
});

const turnProperties = (table: 'turn' | 'active_turn') => ({
  scope: p.text().primary(),
  id: p.text().primary(),
  sessionId: p.text(),
  session: () => ofSession(`${table}_session_id_foreign`),
  parentTurnId: p.text().nullable(),
  epoch: p.bigint('number'),
  authorWorkerId: p.text(),
  shape: p.text().$type<Shape>(),
  state: p.text().$type<TurnState>(),
  /** The end was recorded outside the fence, so it never moved a head. */
  branched: p.boolean().defaultRaw('false').hidden(),
  responseId: p.text().nullable(),
  requestFp: p.text(),
  contextFp: p.text(),
  /**
   * Fingerprint of the place in a transcript at which this turn ends, with its output as streamed. It only selects
   * candidates (see `transcript/items.ts`); the forms of the turn's line decide whether a request continues it. Null until
   * settled, and when the transcript is not known.
   */
  transcriptFp: p.text().nullable(),
  replay: p.text().$type<ReplayClass>(),
  /** The provider stores this response (`store: true`), so its id works as an anchor on any socket. */
  storedUpstream: p.boolean(),
  /** Fingerprint of the credential under which the provider knows this response (see `Scope.credentialFp`). */
  credentialFp: p.text(),
  /** The client's own id of its user turn (Codex `turn_id`); null when it sent none. */
  clientTurnId: p.text().nullable(),
  usage: verbatim().nullable().hidden(),
  error: verbatim().nullable().hidden(),
  facts: json<TurnMetrics>().columnType('json').nullable().hidden(),
  /**
   * Chain fingerprint over the client-made items up to and including this turn. Input to the `transcriptFp` of later
   * turns.
   */
  clientFp: p.text().nullable(),
  /**
   * Other places at which the same turn ends, for example when its output is listed differently than it was streamed;
   * null when there are none.
   */
  secondFp: p.text().nullable().hidden(),
  thirdFp: p.text().nullable().hidden(),
  /** Forms of the items that the turn added, as written by `encodeForms` of `transcript/items.ts`; null when not known. */
  forms: p.text().nullable().hidden(),
  startedAt: time().defaultRaw('now()').hidden(),
  endedAt: time().nullable().hidden(),
});

const turnChecks = [
  { name: 'turn_shape_check', expression: oneOf('shape', shapes) },
  { name: 'turn_state_check', expression: oneOf('state', turnStates) },
  { name: 'turn_replay_check', expression: oneOf('replay', replayClasses) },
  { name: 'turn_parent_check', expression: 'parent_turn_id <> id' },
];

/** Turns that have ended. */
export const Turn = defineEntity({
  name: 'Turn',
  tableName: 'turn',
  uniques: [
    {
      name: 'turn_response_id_unique',
      expression:
        'create unique index turn_response_id_unique on turn (scope, holdfast_key(response_id)) where response_id is not null',
    },
  ],
  indexes: [
    { name: 'turn_session_id_started_at_index', properties: ['sessionId', 'scope', 'startedAt'] },
    { name: 'turn_parent_turn_id_index', properties: ['parentTurnId'] },
    { name: 'turn_ended_at_index', properties: ['endedAt'] },
    {
      name: 'turn_request_index',
      expression: 'create index turn_request_index on turn (hashtextextended(scope || request_fp, 0), started_at)',
    },
    {
      name: 'turn_transcript_fp_index',
      properties: ['transcriptFp', 'scope', 'startedAt'],
      where: 'transcript_fp is not null',
    },
    {
      name: 'turn_second_fp_index',
      properties: ['secondFp', 'scope', 'startedAt'],
      where: 'second_fp is not null',
    },
    {
      name: 'turn_third_fp_index',
      properties: ['thirdFp', 'scope', 'startedAt'],
      where: 'third_fp is not null',
    },
  ],
  checks: turnChecks,
  properties: turnProperties('turn'),
});

/** Turns that run. The view `any_turn` shows them together with those that have ended. */
export const ActiveTurn = defineEntity({
  name: 'ActiveTurn',
  tableName: 'active_turn',
  uniques: [{ name: 'active_turn_session_id_unique', properties: ['sessionId', 'scope'] }],
  indexes: [{ name: 'active_turn_parent_turn_id_index', properties: ['parentTurnId'] }],
  checks: [...turnChecks, { name: 'active_turn_state_check', expression: oneOf('state', ['active']) }],
  properties: turnProperties('active_turn'),
});

/** Foreign key of a row that belongs to an ended turn. */
const ofTurn = (constraint: string) =>
  overColumns(
    p
      .manyToOne(Turn)
      .joinColumns('scope', 'turn_id')
      .deleteRule('cascade')
      .updateRule('no action')
      .foreignKeyName(constraint),
  );

export const TurnContent = defineEntity({
  name: 'TurnContent',
  tableName: 'turn_items',
  properties: {
    scope: p.text().primary(),
    turnId: p.text().primary(),
    turn: () => ofTurn('turn_items_turn_id_foreign'),
    input: p.blob(),
    output: p.blob(),
    shared: verbatim().nullable(),
  },
});

export const TurnItem = defineEntity({
  name: 'TurnItem',
  tableName: 'turn_item',
  indexes: [{ name: 'turn_item_item_id_index', properties: ['itemId', 'scope', 'startedAt'] }],
  properties: {
    scope: p.text().primary(),
    turnId: p.text().primary(),
    itemId: p.text().primary(),
    turn: () => ofTurn('turn_item_turn_id_foreign'),
    startedAt: time(),
  },
});

export const SharedItem = defineEntity({
  name: 'SharedItem',
  tableName: 'shared_item',
  properties: {
    scope: p.text().primary(),
    hash: p.text().primary(),
    data: p.blob(),
    createdAt: time().defaultRaw('now()'),
  },
});

export const TurnSharedItem = defineEntity({
  name: 'TurnSharedItem',
  tableName: 'turn_shared_item',
  indexes: [{ name: 'turn_shared_item_hash_index', properties: ['hash', 'scope'] }],
  properties: {
    scope: p.text().primary(),
    turnId: p.text().primary(),
    hash: p.text().primary(),
    content: () =>
      overColumns(
        p
          .manyToOne(TurnContent)
          .joinColumns('scope', 'turn_id')
          .deleteRule('cascade')
          .updateRule('no action')
          .foreignKeyName('turn_shared_item_turn_id_foreign'),
      ),
    item: () =>
      overColumns(
        p
          .manyToOne(SharedItem)
          .joinColumns('scope', 'hash')
          .deleteRule('no action')
          .updateRule('no action')
          .foreignKeyName('turn_shared_item_shared_item_foreign'),
      ),
  },
});

export const SessionStory = defineEntity({
  name: 'SessionStory',
  tableName: 'session_story',
  indexes: [{ name: 'session_story_session_id_index', properties: ['sessionId', 'createdAt'] }],
  properties: {
    scope: p.text().primary(),
    turnId: p.text().primary(),
    sessionId: p.text(),
    session: () => ofSession('session_story_session_id_foreign'),
    record: verbatim(),
    createdAt: time().defaultRaw('now()'),
  },
});

/** Objects that a scope made at the provider by calls other than turns, for a credential shared by several tenants. */
export const ProviderObject = defineEntity({
  name: 'ProviderObject',
  tableName: 'provider_object',
  indexes: [
    { name: 'provider_object_kind_index', properties: ['kind', 'scope', 'createdAt', 'objectId'] },
    {
      name: 'provider_object_response_index',
      properties: ['createdAt', 'scope', 'objectId'],
      where: "kind = 'responses'",
    },
  ],
  properties: {
    scope: p.text().primary(),
    objectId: p.text().primary(),
    kind: p.text(),
    createdAt: time().defaultRaw('clock_timestamp()'),
  },
});

export const entities = [
  Meta,
  Worker,
  BridgeSession,
  SessionKey,
  Turn,
  ActiveTurn,
  TurnContent,
  TurnItem,
  SharedItem,
  TurnSharedItem,
  SessionStory,
  ProviderObject,
];

/** Tables as the query builder sees them. */
export type Tables = InferKyselyDB<(typeof entities)[number]>;

type PropertyNames = { columnNamingStrategy: 'property' };
type Hidden<Properties> = {
  [K in keyof Properties]: Properties[K] extends { '~options': { hidden: true } } ? K : never;
}[keyof Properties];

/** Every column of `worker`, by the name of its property. */
export type WorkerColumns = Selectable<InferKyselyTable<typeof Worker, PropertyNames>>;
/** Every column of `bridge_session`, by the name of its property. */
export type SessionColumns = Selectable<InferKyselyTable<typeof BridgeSession, PropertyNames>>;
/** Every column of `turn`, by the name of its property. */
export type TurnColumns = Selectable<InferKyselyTable<typeof Turn, PropertyNames>>;

/** Row of a session. */
export interface SessionRow extends Omit<SessionColumns, Hidden<InferEntityProperties<typeof BridgeSession>>> {}
/** Row of a turn, without its items. */
export interface TurnRow extends Omit<TurnColumns, Hidden<InferEntityProperties<typeof Turn>>> {}
/** Row of a worker. */
export interface WorkerRow extends Omit<WorkerColumns, Hidden<InferEntityProperties<typeof Worker>>> {
  /** Milliseconds until the heartbeat lease expires, by the store's clock when the row was read. May be negative. */
  leaseLeftMs: number;
  /**
   * Expiry of the heartbeat lease, by the store's clock. Only for comparison: a changed value means that the lease was
   * renewed. Set by `workers` only.
   */
  leaseUntilMs?: number;
}

/** Columns of a turn that its start sets from the call. */
export const startColumns = [
  'id',
  'parentTurnId',
  'shape',
  'requestFp',
  'contextFp',
  'storedUpstream',
  'credentialFp',
  'clientTurnId',
] as const satisfies readonly (keyof TurnRow)[];

/** Columns of a turn that its end sets from the call. */
export const endColumns = [
  'responseId',
  'transcriptFp',
  'clientFp',
  'secondFp',
  'thirdFp',
  'forms',
  'replay',
  'usage',
  'error',
  'facts',
] as const satisfies readonly (keyof TurnColumns)[];

/** End columns that are read from the response of the terminal event, by `keptResponse` in `session/commits.ts`. */
export const responseColumns = ['usage'] as const satisfies readonly (typeof endColumns)[number][];

/** Those of them that a call may leave out; the column is null then. */
export type OptionalEndColumn = 'facts';

/** Hidden columns of a turn that operators get as they are stored; the admin API reduces `usage` and `error` further. */
export const detailColumns = ['branched', 'usage', 'error'] as const satisfies readonly (keyof TurnColumns)[];

/** Column as SQL text and rows outside the database need it. */
export interface Column {
  property: string;
  name: string;
  /** Type in PostgreSQL. */
  type: string;
  nullable: boolean;
  hidden: boolean;
}

interface Declared {
  kind?: string;
  type?: unknown;
  columnType?: string;
  nullable?: boolean;
  hidden?: boolean;
}

const naming = new UnderscoreNamingStrategy();
const sqlTypes: ReadonlyMap<string, string> = new Map([
  ['BigIntType', 'bigint'],
  ['BooleanType', 'boolean'],
  ['IntegerType', 'integer'],
  ['RowJson', 'jsonb'],
]);
const typeOf = ({ columnType, type }: Declared) => {
  const kind = typeof type === 'function' ? type : (type as BigIntType | undefined)?.constructor;
  return columnType ?? sqlTypes.get(kind?.name ?? '') ?? 'text';
};

/** Returns the columns of an entity's table, in the order of declaration. Relations only declare foreign keys over them. */
export function columnsOf(entity: { meta: { properties: object } }): readonly Column[] {
  return Object.entries(entity.meta.properties as Record<string, Declared>)
    .filter(([, { kind }]) => kind !== 'm:1')
    .map(([property, declared]) => ({
      property,
      name: naming.propertyToColumnName(property),
      type: typeOf(declared),
      nullable: declared.nullable === true,
      hidden: declared.hidden === true,
    }));
}
