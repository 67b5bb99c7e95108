import { Migration } from '@mikro-orm/migrations';

/**
 * The tables. Identifiers are `text` because they are opaque here: ids given by callers are looked up, never cast, so a
 * malformed id in a token or an admin path is simply not found.
 *
 * - `bridge_session` is updated twice per turn. Free space on the page (fillfactor) and no index over a volatile column
 *   keep those updates in place (HOT).
 * - `turn_items` is a separate table so that content can be erased while the turn, its ids and fingerprints stay.
 * - `usage` and `error` come from providers: `json`, not `jsonb`, since jsonb rejects `\u0000` and lone surrogates.
 * - `branched`: the end was recorded outside the fence, so it never moved a head.
 * - `lost_turn_id`: the turn that the latest claim marked lost, so that a repeated claim gets the same answer.
 */
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
     id text primary key,
     scope text not null,
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
     constraint bridge_session_state_check
       check (state in ('connecting', 'live', 'reconnecting', 'stale', 'closed')),
     constraint bridge_session_owner_check check ((owner_worker_id is null) = (owner_nonce is null)),
     constraint bridge_session_active_check check (active_turn_id is null or owner_worker_id is not null)
   ) with (fillfactor = 70)`,
  'create index bridge_session_created_at_index on bridge_session (created_at)',
  `create table session_key (
     scope text not null,
     kind text not null,
     hash text not null,
     session_id text not null,
     constraint session_key_pkey primary key (scope, kind, hash),
     constraint session_key_session_id_foreign
       foreign key (session_id) references bridge_session (id) on delete cascade
   )`,
  'create index session_key_session_id_index on session_key (session_id)',
  `create table turn (
     id text primary key,
     session_id text not null,
     scope text not null,
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
     item_count integer,
     replay text not null,
     stored_upstream boolean not null,
     credential_fp text not null,
     client_turn_id text,
     usage json,
     error json,
     started_at timestamptz not null default now(),
     ended_at timestamptz,
     constraint turn_session_id_foreign
       foreign key (session_id) references bridge_session (id) on delete cascade,
     constraint turn_shape_check check (shape in ('fresh', 'full', 'delta')),
     constraint turn_state_check
       check (state in ('active', 'completed', 'incomplete', 'failed', 'cancelled', 'lost')),
     constraint turn_replay_check check (replay in ('exact', 'anchor_only', 'never')),
     constraint turn_parent_check check (parent_turn_id <> id)
   )`,
  'create unique index turn_response_id_unique on turn (scope, response_id) where response_id is not null',
  `create unique index turn_one_active_unique on turn (session_id) where state = 'active'`,
  'create index turn_session_id_started_at_index on turn (session_id, started_at)',
  'create index turn_parent_turn_id_index on turn (parent_turn_id)',
  'create index turn_transcript_fp_index on turn (scope, transcript_fp) where transcript_fp is not null',
  `create table turn_items (
     turn_id text primary key,
     input bytea not null,
     output bytea not null,
     constraint turn_items_turn_id_foreign foreign key (turn_id) references turn (id) on delete cascade
   )`,
];

export class Tables extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
