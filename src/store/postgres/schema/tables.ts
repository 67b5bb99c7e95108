import { Migration } from '@mikro-orm/migrations';

/**
 * The tables. Their columns are those of `src/store/entities.ts`; a test compares both.
 *
 * Identifiers are `text` because they are opaque here: ids given by callers are looked up, never cast, so a malformed id in
 * a token or an admin path is simply not found.
 *
 * **A running turn** is a row of `active_turn`, a small table with the columns of `turn` in the same order. A start inserts
 * there, and the end moves the row, so a row of `turn` is written once. An end that updated it would add a second version of
 * the row and of its entry in each index, and an append-only table hardly needs vacuum. No constraint spans both tables: see
 * the functions `create` and `start`. The view `any_turn` shows both; a condition on it is a condition on each of them.
 * (Table inheritance would do the same, but neither a partitioned table nor a distributed one can have it.)
 *
 * **Only one index of a table begins with the scope**: the primary key (see the entities). In a new database the planner knows
 * nothing about the tables. Two indexes that begin with the scope are equally good to it then, and a look-up by the primary key
 * read every row of the session, or of the scope, through the other one, until the first `analyze`: a turn cost PostgreSQL
 * five times as much after a few hundred turns. The index over response ids is partial, so that no such look-up can use it.
 *
 * **No statistics are kept of scopes** (`statistics 0`). A scope that is new since the last `analyze` would have no rows for the
 * planner, so that any index that begins with the scope would be as good to it as the right one, and each look-up of a
 * conversation would read all turns of its scope. Without statistics a scope is always taken for one of 200, in an
 * installation with one scope too: a statement then uses the index of which it names most columns.
 * `test/store/new-database.test.ts` runs every statement of a turn in such databases.
 *
 * - `bridge_session` is updated twice per turn. Free space on the page (fillfactor) and no index over a volatile column
 *   keep those updates in place (HOT). `owner_worker_id` changes only with ownership.
 * - `turn_items` is a separate table so that content can be erased while the turn, its ids and fingerprints stay.
 * - `shared_item` holds large items once per scope; `turn_shared_item` holds the turns that reference them, so that an item
 *   is removed with its last reference.
 * - `turn_item` names the turn that produced an item which later requests may reference; `started_at` is that of the turn.
 * - `every_scope` is for operators, who search without a scope: it steps from one scope to the next in the primary key of
 *   the sessions, so that other tables are read scope by scope through their own keys. Of sessions and hard keys, which are
 *   few, an index starts with what is searched. For turns such an index would cost an entry a turn.
 * - `provider_object` has no reference to a turn: such an object lives at the provider until it is deleted there.
 * - `holdfast_key`: providers make response ids of any length, and an index entry holds less than 3 KB.
 * - The indexes over places and items end in `started_at`, so that the newest turns of a place shared by very many
 *   conversations are read without the others. The janitor walks turns in the order of their ends.
 * - `turn_request_index` holds an eight-byte hash to stay small: it is read only for requests that may be repeats, but
 *   written at every start of a turn.
 */
const scoped = [
  ...['bridge_session', 'session_key', 'turn', 'active_turn', 'turn_items', 'turn_item'],
  ...['shared_item', 'turn_shared_item', 'session_story', 'provider_object'],
];

const statements = [
  `create table holdfast_meta (
     name text primary key,
     value text not null
   )`,
  // The pepper keys the credential hash that separates scopes. Uses core functions only; 244 random bits.
  `insert into holdfast_meta (name, value)
   values ('pepper', encode(sha256(convert_to(gen_random_uuid()::text || gen_random_uuid()::text, 'UTF8')), 'hex'))`,

  `create table worker (
     id text primary key,
     internal_url text,
     liveness_path text,
     state text not null,
     version text not null,
     heartbeat_expires_at timestamptz not null,
     created_at timestamptz not null default now(),
     constraint worker_state_check check (state in ('serving', 'draining', 'dead'))
   )`,

  `create table bridge_session (
     scope text not null,
     id text not null,
     state text not null,
     snapshot jsonb,
     machine_version integer not null,
     revision bigint not null,
     owner_worker_id text,
     owner_nonce text,
     epoch bigint not null,
     active_turn_id text,
     head_turn_id text,
     lost_turn_id text,
     upstream_id text not null,
     model text,
     anchor_lost boolean not null default false,
     created_at timestamptz not null default now(),
     updated_at timestamptz not null default now(),
     fork_turn_id text,
     changed_hour timestamp generated always as (date_trunc('hour', updated_at at time zone 'UTC')) stored,
     constraint bridge_session_pkey primary key (scope, id),
     constraint bridge_session_state_check check (state in ('connecting', 'live', 'reconnecting', 'stale', 'closed')),
     constraint bridge_session_owner_check check ((owner_worker_id is null) = (owner_nonce is null)),
     constraint bridge_session_active_check check (active_turn_id is null or owner_worker_id is not null)
   ) with (fillfactor = 70)`,
  'create index bridge_session_id_index on bridge_session (id)',
  'create index bridge_session_created_at_index on bridge_session (created_at)',
  'create index bridge_session_changed_hour_index on bridge_session (changed_hour, id)',
  `create index bridge_session_owner_worker_id_index on bridge_session (owner_worker_id, changed_hour)
    where owner_worker_id is not null`,
  `create index bridge_session_fork_turn_id_index on bridge_session (fork_turn_id) where fork_turn_id is not null`,

  `create table session_key (
     scope text not null,
     kind text not null,
     hash text not null,
     session_id text not null,
     constraint session_key_pkey primary key (scope, kind, hash),
     constraint session_key_session_id_foreign
       foreign key (scope, session_id) references bridge_session (scope, id) on delete cascade
   )`,
  'create index session_key_session_id_index on session_key (session_id, scope)',
  'create index session_key_hash_index on session_key (hash)',

  `create function holdfast_key(id text) returns text language sql immutable parallel safe as $$
     select case when octet_length(id) <= 1024 then id else md5(id) end
   $$`,
  `create table turn (
     scope text not null,
     id text not null,
     session_id text not null,
     parent_turn_id text,
     epoch bigint not null,
     author_worker_id text not null,
     shape text not null,
     state text not null,
     branched boolean not null default false,
     response_id text,
     request_fp text not null,
     context_fp text not null,
     transcript_fp text,
     replay text not null,
     stored_upstream boolean not null,
     credential_fp text not null,
     client_turn_id text,
     usage json,
     error json,
     facts json,
     client_fp text,
     second_fp text,
     third_fp text,
     forms text,
     started_at timestamptz not null default now(),
     ended_at timestamptz,
     constraint turn_pkey primary key (scope, id),
     constraint turn_session_id_foreign
       foreign key (scope, session_id) references bridge_session (scope, id) on delete cascade,
     constraint turn_shape_check check (shape in ('fresh', 'full', 'delta')),
     constraint turn_state_check check (state in ('active', 'completed', 'incomplete', 'failed', 'cancelled', 'lost')),
     constraint turn_replay_check check (replay in ('exact', 'anchor_only', 'never')),
     constraint turn_parent_check check (parent_turn_id <> id)
   )`,
  `create unique index turn_response_id_unique on turn (scope, holdfast_key(response_id)) where response_id is not null`,
  'create index turn_session_id_started_at_index on turn (session_id, scope, started_at)',
  'create index turn_parent_turn_id_index on turn (parent_turn_id)',
  'create index turn_ended_at_index on turn (ended_at)',
  'create index turn_request_index on turn (hashtextextended(scope || request_fp, 0), started_at)',
  `create index turn_transcript_fp_index on turn (transcript_fp, scope, started_at) where transcript_fp is not null`,
  `create index turn_second_fp_index on turn (second_fp, scope, started_at) where second_fp is not null`,
  `create index turn_third_fp_index on turn (third_fp, scope, started_at) where third_fp is not null`,

  `create table active_turn (
     like turn including defaults including constraints,
     constraint active_turn_pkey primary key (scope, id),
     constraint active_turn_session_id_unique unique (session_id, scope),
     constraint active_turn_session_id_foreign
       foreign key (scope, session_id) references bridge_session (scope, id) on delete cascade,
     constraint active_turn_state_check check (state = 'active')
   ) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)`,
  'create index active_turn_parent_turn_id_index on active_turn (parent_turn_id)',
  'create view any_turn as select * from turn union all select * from active_turn',
  `create view every_scope as
     with recursive step as (
       (select scope from bridge_session order by scope limit 1)
       union all
       select (select s.scope from bridge_session s where s.scope > step.scope order by s.scope limit 1)
         from step where step.scope is not null
     )
     select scope from step where scope is not null`,

  `create table turn_items (
     scope text not null,
     turn_id text not null,
     input bytea not null,
     output bytea not null,
     shared json,
     constraint turn_items_pkey primary key (scope, turn_id),
     constraint turn_items_turn_id_foreign foreign key (scope, turn_id) references turn (scope, id) on delete cascade
   )`,
  `create table turn_item (
     scope text not null,
     turn_id text not null,
     item_id text not null,
     started_at timestamptz not null,
     constraint turn_item_pkey primary key (scope, turn_id, item_id),
     constraint turn_item_turn_id_foreign foreign key (scope, turn_id) references turn (scope, id) on delete cascade
   )`,
  'create index turn_item_item_id_index on turn_item (item_id, scope, started_at)',
  `create table shared_item (
     scope text not null,
     hash text not null,
     data bytea not null,
     created_at timestamptz not null default now(),
     constraint shared_item_pkey primary key (scope, hash)
   )`,
  `create table turn_shared_item (
     scope text not null,
     turn_id text not null,
     hash text not null,
     constraint turn_shared_item_pkey primary key (scope, turn_id, hash),
     constraint turn_shared_item_turn_id_foreign
       foreign key (scope, turn_id) references turn_items (scope, turn_id) on delete cascade,
     constraint turn_shared_item_shared_item_foreign foreign key (scope, hash) references shared_item (scope, hash)
   )`,
  'create index turn_shared_item_hash_index on turn_shared_item (hash, scope)',

  // Traces of turns that ended badly, as recorded by a worker's flight recorder. `json` keeps them verbatim.
  `create table session_story (
     scope text not null,
     turn_id text not null,
     session_id text not null,
     record json not null,
     created_at timestamptz not null default now(),
     constraint session_story_pkey primary key (scope, turn_id),
     constraint session_story_session_id_foreign
       foreign key (scope, session_id) references bridge_session (scope, id) on delete cascade
   )`,
  'create index session_story_session_id_index on session_story (session_id, created_at)',

  `create table provider_object (
     scope text not null,
     object_id text not null,
     kind text not null,
     created_at timestamptz not null default clock_timestamp(),
     constraint provider_object_pkey primary key (scope, object_id)
   )`,
  'create index provider_object_kind_index on provider_object (kind, scope, created_at, object_id)',
  `create index provider_object_response_index on provider_object (created_at, scope, object_id)
    where kind = 'responses'`,
  ...scoped.map((table) => `alter table ${table} alter column scope set statistics 0`),
];

export class Tables extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
