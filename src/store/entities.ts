import { defineEntity, type InferEntity, p } from '@mikro-orm/core';

/**
 * MikroORM entities of the tables. Ownership is never written by a unit-of-work flush: a flush omits columns that it
 * considers unchanged, and an ownership write must name every column. A test compares these entities with the migrations.
 */
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
  checks: [{ name: 'worker_state_check', expression: `state in ('serving', 'draining', 'dead')` }],
  properties: {
    id: p.text().primary(),
    internalUrl: p.text().nullable(),
    livenessPath: p.text().nullable(),
    state: p.text(),
    version: p.text(),
    heartbeatExpiresAt: p.datetime().columnType('timestamptz'),
    createdAt: p.datetime().columnType('timestamptz').defaultRaw('now()'),
  },
});

export const BridgeSession = defineEntity({
  name: 'BridgeSession',
  tableName: 'bridge_session',
  indexes: [
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
    {
      name: 'bridge_session_state_check',
      expression: `state in ('connecting', 'live', 'reconnecting', 'stale', 'closed')`,
    },
    { name: 'bridge_session_owner_check', expression: '(owner_worker_id is null) = (owner_nonce is null)' },
    { name: 'bridge_session_active_check', expression: 'active_turn_id is null or owner_worker_id is not null' },
  ],
  properties: {
    id: p.text().primary(),
    scope: p.text(),
    state: p.text(),
    snapshot: p.json().nullable(),
    machineVersion: p.integer(),
    revision: p.bigint(),
    ownerWorkerId: p.text().nullable(),
    ownerNonce: p.text().nullable(),
    epoch: p.bigint(),
    activeTurnId: p.text().nullable(),
    headTurnId: p.text().nullable(),
    lostTurnId: p.text().nullable(),
    upstreamId: p.text(),
    model: p.text().nullable(),
    anchorLost: p.boolean().defaultRaw('false'),
    createdAt: p.datetime().columnType('timestamptz').defaultRaw('now()'),
    updatedAt: p.datetime().columnType('timestamptz').defaultRaw('now()'),
    forkTurnId: p.text().nullable(),
    changedHour: p
      .datetime()
      .columnType('timestamp')
      .nullable()
      .generated(`(date_trunc('hour'::text, (updated_at at time zone 'UTC'::text))) stored`),
  },
});

export const SessionKey = defineEntity({
  name: 'SessionKey',
  tableName: 'session_key',
  indexes: [
    { name: 'session_key_session_id_index', properties: ['session'] },
    { name: 'session_key_hash_index', properties: ['hash'] },
  ],
  properties: {
    scope: p.text().primary(),
    kind: p.text().primary(),
    hash: p.text().primary(),
    session: () =>
      p
        .manyToOne(BridgeSession)
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('session_key_session_id_foreign'),
  },
});

/** Running turns are rows of `active_turn`, which inherits from this table and has no entity of its own. */
export const Turn = defineEntity({
  name: 'Turn',
  tableName: 'turn',
  uniques: [
    {
      name: 'turn_response_id_unique',
      expression:
        'create unique index turn_response_id_unique on turn (holdfast_key(response_id), scope) where response_id is not null',
    },
  ],
  indexes: [
    { name: 'turn_session_id_started_at_index', properties: ['session', 'startedAt'] },
    { name: 'turn_parent_turn_id_index', properties: ['parentTurnId'] },
    { name: 'turn_ended_at_index', properties: ['endedAt'] },
    {
      name: 'turn_request_index',
      expression: 'create index turn_request_index on turn (hashtextextended(scope || request_fp, 0), started_at)',
    },
    {
      name: 'turn_transcript_fp_index',
      properties: ['scope', 'transcriptFp', 'startedAt'],
      where: 'transcript_fp is not null',
    },
    {
      name: 'turn_second_fp_index',
      properties: ['scope', 'secondFp', 'startedAt'],
      where: 'second_fp is not null',
    },
    {
      name: 'turn_third_fp_index',
      properties: ['scope', 'thirdFp', 'startedAt'],
      where: 'third_fp is not null',
    },
  ],
  checks: [
    { name: 'turn_shape_check', expression: `shape in ('fresh', 'full', 'delta')` },
    {
      name: 'turn_state_check',
      expression: `state in ('active', 'completed', 'incomplete', 'failed', 'cancelled', 'lost')`,
    },
    { name: 'turn_replay_check', expression: `replay in ('exact', 'anchor_only', 'never')` },
    { name: 'turn_parent_check', expression: 'parent_turn_id <> id' },
  ],
  properties: {
    id: p.text().primary(),
    session: () =>
      p
        .manyToOne(BridgeSession)
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('turn_session_id_foreign'),
    scope: p.text(),
    parentTurnId: p.text().nullable(),
    epoch: p.bigint(),
    authorWorkerId: p.text(),
    shape: p.text(),
    state: p.text(),
    branched: p.boolean().defaultRaw('false'),
    responseId: p.text().nullable(),
    requestFp: p.text(),
    contextFp: p.text(),
    transcriptFp: p.text().nullable(),
    itemCount: p.integer().nullable(),
    replay: p.text(),
    storedUpstream: p.boolean(),
    credentialFp: p.text(),
    clientTurnId: p.text().nullable(),
    usage: p.json().columnType('json').nullable(),
    error: p.json().columnType('json').nullable(),
    facts: p.json().columnType('json').nullable(),
    clientFp: p.text().nullable(),
    secondFp: p.text().nullable(),
    thirdFp: p.text().nullable(),
    forms: p.text().nullable(),
    startedAt: p.datetime().columnType('timestamptz').defaultRaw('now()'),
    endedAt: p.datetime().columnType('timestamptz').nullable(),
  },
});

export const TurnContent = defineEntity({
  name: 'TurnContent',
  tableName: 'turn_items',
  properties: {
    turn: () =>
      p
        .oneToOne(Turn)
        .primary()
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('turn_items_turn_id_foreign'),
    input: p.blob(),
    output: p.blob(),
    shared: p.json().columnType('json').nullable(),
  },
});

export const TurnItem = defineEntity({
  name: 'TurnItem',
  tableName: 'turn_item',
  indexes: [{ name: 'turn_item_item_id_index', properties: ['scope', 'itemId', 'startedAt'] }],
  properties: {
    turn: () =>
      p
        .manyToOne(Turn)
        .primary()
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('turn_item_turn_id_foreign'),
    itemId: p.text().primary(),
    scope: p.text(),
    startedAt: p.datetime().columnType('timestamptz'),
  },
});

export const SharedItem = defineEntity({
  name: 'SharedItem',
  tableName: 'shared_item',
  properties: {
    scope: p.text().primary(),
    hash: p.text().primary(),
    data: p.blob(),
    createdAt: p.datetime().columnType('timestamptz').defaultRaw('now()'),
  },
});

export const TurnSharedItem = defineEntity({
  name: 'TurnSharedItem',
  tableName: 'turn_shared_item',
  indexes: [{ name: 'turn_shared_item_hash_index', properties: ['item'] }],
  properties: {
    turn: () =>
      p
        .manyToOne(TurnContent)
        .primary()
        .joinColumn('turn_id')
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('turn_shared_item_turn_id_foreign'),
    item: () =>
      p
        .manyToOne(SharedItem)
        .primary()
        .joinColumns('scope', 'hash')
        .deleteRule('no action')
        .updateRule('no action')
        .foreignKeyName('turn_shared_item_shared_item_foreign'),
  },
});

export const SessionStory = defineEntity({
  name: 'SessionStory',
  tableName: 'session_story',
  indexes: [{ name: 'session_story_session_id_index', properties: ['session', 'createdAt'] }],
  properties: {
    turnId: p.text().primary(),
    session: () =>
      p
        .manyToOne(BridgeSession)
        .deleteRule('cascade')
        .updateRule('no action')
        .foreignKeyName('session_story_session_id_foreign'),
    record: p.json().columnType('json'),
    createdAt: p.datetime().columnType('timestamptz').defaultRaw('now()'),
  },
});

export const entities = [
  Meta,
  Worker,
  BridgeSession,
  SessionKey,
  Turn,
  TurnContent,
  TurnItem,
  SharedItem,
  TurnSharedItem,
  SessionStory,
];

export type WorkerEntity = InferEntity<typeof Worker>;
export type BridgeSessionEntity = InferEntity<typeof BridgeSession>;
export type TurnEntity = InferEntity<typeof Turn>;
