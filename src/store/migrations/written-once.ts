import { Migration } from '@mikro-orm/migrations';

/**
 * A turn's row is written once, when the turn has ended.
 *
 * **A running turn** is a row of `active_turn`, a small table that inherits from `turn`: a statement that reads `turn`
 * sees both, one that reads `only turn` those that have ended. A start writes there, and the end moves the row. Before, the
 * end updated the row in `turn` in columns that are indexed: a second version of the row, and of its entry in each of
 * seven indexes, for every turn. A table that only grows at its end is also hardly ever vacuumed.
 *
 * No constraint spans both tables. An id that has ended must not start again, so a start looks for it in `turn` **after** its
 * own row is in `active_turn`: a copy of the call that is about to end under the same id is waited for there.
 *
 * - `fork_turn_id`: where a session began, if it began at a turn of another one. Its head is that turn or one of its own,
 *   so whether a turn is the head of a session is answered without an index over heads, which change with every turn.
 * - `changed_hour`: `updated_at` as coarse as an index can follow at the price of one entry an hour and session.
 * - `owner_worker_id` changes with ownership only, so its index leaves the updates of turns in place.
 *
 * The functions are those of before but for the table. Replaced within one transaction, they fit workers of either
 * release: a turn that is active in `turn` itself is moved here, and one that an older start leaves there is moved by its end.
 */
const statements = [
  `create table active_turn (
     constraint active_turn_pkey primary key (id),
     constraint active_turn_session_id_unique unique (session_id),
     constraint active_turn_session_id_foreign
       foreign key (session_id) references bridge_session (id) on delete cascade,
     constraint active_turn_state_check check (state = 'active')
   ) inherits (turn) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)`,
  'create index active_turn_parent_turn_id_index on active_turn (parent_turn_id)',
  `with active as (delete from only turn where state = 'active' returning *)
   insert into active_turn select * from active`,
  'drop index turn_one_active_unique',
  'alter table bridge_session add column fork_turn_id text',
  `update bridge_session s set fork_turn_id = s.head_turn_id
     from turn t where t.id = s.head_turn_id and t.session_id <> s.id`,
  `alter table bridge_session
     add column changed_hour timestamp generated always as (date_trunc('hour', updated_at at time zone 'UTC')) stored`,
  'create index bridge_session_changed_hour_index on bridge_session (changed_hour, id)',
  `create index bridge_session_owner_worker_id_index on bridge_session (owner_worker_id, changed_hour)
    where owner_worker_id is not null`,
  `create index bridge_session_fork_turn_id_index on bridge_session (fork_turn_id) where fork_turn_id is not null`,
  `create or replace function holdfast_create(
     p_session text, p_me text, p_nonce text,
     p_scope text, p_upstream text, p_model text, p_head text, p_key_kinds text[], p_key_hashes text[],
     p_turn text, p_parent text, p_shape text, p_request_fp text, p_context_fp text,
     p_stored_upstream boolean, p_credential_fp text, p_client_turn_id text,
     p_state text, p_snapshot jsonb, p_machine_version integer
   ) returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     s bridge_session;
     session_exists boolean;
     lease_left float8;
     violated text;
   begin
     for attempt in 1..2 loop
       select * into s from bridge_session where id = p_session for update;
       session_exists := found;
       select floor(extract(epoch from heartbeat_expires_at - clock_timestamp()) * 1000) into lease_left
         from worker where id = p_me and state <> 'dead';
       if not found then
         return json_build_object('verdict', 'fenced');
       end if;
       if session_exists then
         if s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = 1 and s.active_turn_id = p_turn then
           return json_build_object(
             'verdict', 'already', 'leaseLeftMs', lease_left, 'epoch', s.epoch, 'revision', s.revision);
         end if;
         return json_build_object('verdict', 'fenced');
       end if;
       if exists (
         select from session_key k
           join unnest(p_key_kinds, p_key_hashes) as wanted(kind, hash) on k.kind = wanted.kind and k.hash = wanted.hash
          where k.scope = p_scope and k.session_id <> p_session
       ) then
         return json_build_object('verdict', 'key_taken');
       end if;
       begin
         insert into bridge_session (
           id, scope, state, snapshot, machine_version, revision, owner_worker_id, owner_nonce, epoch,
           active_turn_id, head_turn_id, fork_turn_id, upstream_id, model
         ) values (
           p_session, p_scope, p_state, p_snapshot, p_machine_version, 1, p_me, p_nonce, 1,
           p_turn, p_head, p_head, p_upstream, p_model
         );
         insert into session_key (scope, kind, hash, session_id)
           select p_scope, wanted.kind, wanted.hash, p_session
             from unnest(p_key_kinds, p_key_hashes) as wanted(kind, hash)
            order by wanted.kind, wanted.hash;
         insert into active_turn (
           id, session_id, scope, parent_turn_id, epoch, author_worker_id, shape, state, request_fp, context_fp,
           replay, stored_upstream, credential_fp, client_turn_id
         ) values (
           p_turn, p_session, p_scope, p_parent, 1, p_me, p_shape, 'active', p_request_fp, p_context_fp,
           'never', p_stored_upstream, p_credential_fp, p_client_turn_id
         );
         if exists (select from only turn where id = p_turn) then
           raise exception 'turn % exists in another session', p_turn;
         end if;
         return json_build_object('verdict', 'ok', 'leaseLeftMs', lease_left, 'epoch', 1, 'revision', 1);
       exception when unique_violation then
         get stacked diagnostics violated = constraint_name;
         if violated = 'session_key_pkey' then
           return json_build_object('verdict', 'key_taken');
         elsif violated <> 'bridge_session_pkey' then
           raise;
         end if;
       end;
     end loop;
     raise exception 'session % exists and cannot be read', p_session;
   end
   $$`,
  `create or replace function holdfast_start(
     p_session text, p_me text, p_nonce text, p_epoch bigint, p_expected_head text,
     p_turn text, p_parent text, p_shape text, p_request_fp text, p_context_fp text,
     p_stored_upstream boolean, p_credential_fp text, p_client_turn_id text,
     p_state text, p_snapshot jsonb, p_machine_version integer
   ) returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     s bridge_session;
     lease_left float8;
   begin
     select * into s from bridge_session where id = p_session for update;
     if not found or (s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = p_epoch) is not true then
       return json_build_object('verdict', 'fenced');
     end if;
     select floor(extract(epoch from heartbeat_expires_at - clock_timestamp()) * 1000) into lease_left
       from worker where id = p_me and state <> 'dead';
     if not found then
       return json_build_object('verdict', 'fenced');
     end if;
     if exists (select from turn where id = p_turn) then
       if s.active_turn_id = p_turn then
         return json_build_object('verdict', 'already', 'leaseLeftMs', lease_left, 'revision', s.revision);
       end if;
       return json_build_object('verdict', 'ended');
     end if;
     if s.active_turn_id is not null then
       return json_build_object('verdict', 'busy');
     end if;
     if s.head_turn_id is distinct from p_expected_head then
       return json_build_object('verdict', 'head_moved');
     end if;
     insert into active_turn (
       id, session_id, scope, parent_turn_id, epoch, author_worker_id, shape, state, request_fp, context_fp,
       replay, stored_upstream, credential_fp, client_turn_id
     ) values (
       p_turn, p_session, s.scope, p_parent, p_epoch, p_me, p_shape, 'active', p_request_fp, p_context_fp,
       'never', p_stored_upstream, p_credential_fp, p_client_turn_id
     );
     if exists (select from only turn where id = p_turn) then
       raise exception 'turn % exists in another session', p_turn;
     end if;
     update bridge_session
        set active_turn_id = p_turn,
            state = p_state,
            snapshot = p_snapshot,
            machine_version = p_machine_version,
            revision = s.revision + 1,
            updated_at = now()
      where id = p_session;
     return json_build_object('verdict', 'ok', 'leaseLeftMs', lease_left, 'revision', s.revision + 1);
   end
   $$`,
  `create or replace function holdfast_settle(
     p_call json, p_input bytea, p_output bytea, p_hashes text[], p_data bytea[]
   ) returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     c record;
     s record;
     t turn;
     under_fence boolean;
     moves_head boolean;
   begin
     select * into c from json_to_record(p_call) as c (
       session text, me text, nonce text, epoch bigint, turn text,
       ended text, response_id text, transcript_fp text, client_fp text, second_fp text, third_fp text, forms text,
       item_count integer, replay text, usage text, error text, facts text, shared text, item_ids text[],
       anchor_lost boolean, state text, snapshot text, machine_version integer);
     select owner_worker_id, owner_nonce, epoch, active_turn_id, head_turn_id, anchor_lost, revision into s
       from bridge_session where id = c.session for update;
     if not found then
       return json_build_object('verdict', 'branch');
     end if;
     select * into t from turn where id = c.turn and session_id = c.session;
     if not found or t.author_worker_id <> c.me or t.epoch <> c.epoch then
       return json_build_object('verdict', 'branch');
     end if;
     if t.state <> 'active' and (t.state <> 'lost' or c.ended = 'lost') then
       return json_build_object('verdict', case when t.branched then 'branch' else 'already' end);
     end if;
     under_fence := coalesce(
       s.owner_worker_id = c.me and s.owner_nonce = c.nonce and s.epoch = c.epoch and s.active_turn_id = c.turn, false);
     moves_head := c.ended in ('completed', 'incomplete');
     t.state := c.ended;
     t.branched := not under_fence;
     t.response_id := c.response_id;
     t.transcript_fp := c.transcript_fp;
     t.client_fp := c.client_fp;
     t.second_fp := c.second_fp;
     t.third_fp := c.third_fp;
     t.forms := c.forms;
     t.item_count := c.item_count;
     t.replay := c.replay;
     t.usage := c.usage::json;
     t.error := c.error::json;
     t.facts := coalesce(t.facts, c.facts::json);
     t.ended_at := now();
     delete from turn where id = c.turn;
     insert into turn select t.*;
     if p_hashes is not null then
       insert into shared_item (scope, hash, data)
         select t.scope, n.hash, n.data from unnest(p_hashes, p_data) as n (hash, data) order by n.hash
         on conflict (scope, hash) do update set hash = excluded.hash;
     end if;
     if p_input is not null then
       insert into turn_items (turn_id, input, output, shared) values (c.turn, p_input, p_output, c.shared::json);
     end if;
     if p_hashes is not null then
       insert into turn_shared_item (turn_id, scope, hash)
         select c.turn, t.scope, hash from unnest(p_hashes) as hash;
     end if;
     if c.item_ids is not null then
       insert into turn_item (turn_id, item_id, scope, started_at)
         select c.turn, item_id, t.scope, t.started_at from unnest(c.item_ids) as item_id;
     end if;
     if not under_fence then
       return json_build_object('verdict', 'branch');
     end if;
     update bridge_session
        set active_turn_id = null,
            head_turn_id = case when moves_head then c.turn else s.head_turn_id end,
            anchor_lost = c.anchor_lost or (s.anchor_lost and not moves_head),
            state = c.state,
            snapshot = c.snapshot::jsonb,
            machine_version = c.machine_version,
            revision = s.revision + 1,
            updated_at = now()
      where id = c.session;
     return json_build_object('verdict', 'ok', 'revision', s.revision + 1);
   end
   $$`,
  `create or replace function holdfast_claim(
     p_session text, p_me text, p_nonce text, p_epoch_read bigint, p_revision_read bigint
   ) returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     s bridge_session;
     t turn;
     owner_state text;
   begin
     select * into s from bridge_session where id = p_session for update;
     if not found or s.state = 'closed' then
       return json_build_object('verdict', 'lost_race');
     end if;
     if not exists (select from worker where id = p_me and state <> 'dead') then
       return json_build_object('verdict', 'fenced');
     end if;
     if s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = p_epoch_read + 1 then
       return json_build_object('verdict', 'row', 'row', holdfast_session_json(s), 'lostTurnId', s.lost_turn_id);
     end if;
     if s.epoch <> p_epoch_read or s.revision <> p_revision_read then
       return json_build_object('verdict', 'lost_race');
     end if;
     if s.active_turn_id is not null then
       insert into worker (id, state, version, heartbeat_expires_at)
         values (s.owner_worker_id, 'serving', 'unknown', now() + interval '10 seconds')
         on conflict (id) do nothing;
       select state into owner_state from worker where id = s.owner_worker_id;
       if owner_state <> 'dead' then
         return json_build_object('verdict', 'busy');
       end if;
       delete from turn where id = s.active_turn_id and state = 'active' returning * into t;
       if found then
         t.state := 'lost';
         t.branched := true;
         t.ended_at := now();
         insert into turn select t.*;
       end if;
     end if;
     update bridge_session
        set owner_worker_id = p_me,
            owner_nonce = p_nonce,
            epoch = s.epoch + 1,
            active_turn_id = null,
            lost_turn_id = s.active_turn_id,
            state = 'stale',
            revision = s.revision + 1,
            updated_at = now()
      where id = p_session
     returning * into s;
     return json_build_object('verdict', 'row', 'row', holdfast_session_json(s), 'lostTurnId', s.lost_turn_id);
   end
   $$`,
];

export class WrittenOnce extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
