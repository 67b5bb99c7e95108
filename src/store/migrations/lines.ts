import { Migration } from '@mikro-orm/migrations';

/**
 * Columns and tables for matching a conversation by its items, and the single function that ends a turn.
 *
 * - `second_fp`, `third_fp`: further fingerprints of the place at which the turn ends. The indexes over places end in
 *   `started_at`, so that the newest turns of a place shared by very many conversations are read without the others.
 * - `holdfast_key`: providers make response ids of any length, and an index entry holds less than 3 KB.
 * - `forms`: opaque here. Hashes of content, erased together with it.
 * - `turn_item`: the turn that produced an item which later requests may reference. The primary key starts with the turn,
 *   for the cascade; `started_at` is that of the turn, for the same reason as above.
 *
 * **The settle function.** The author always completes the turn row; the head moves only under the fence, and only to a
 * completed or incomplete turn. The first recorded end stays, except that the author's real end replaces `lost` (which
 * another worker, or the cleanup of an orphan, may have written while the author was still receiving). A turn whose end was
 * recorded outside the fence stays `branched`, so a repeated call gets the same answer as the first one. Nothing is written
 * for a turn that the caller did not start, nor by a call whose end is not kept: facts, items, shared items and item ids
 * belong to the recorded end.
 *
 * `p_call` carries everything but the binary data. JSON written by a provider (usage, error) and stored verbatim is passed
 * as a string: parsing `p_call` decodes its strings, and `\u0000` cannot be decoded.
 *
 * Shared items are locked in the order of their hashes before they are referenced: an item that the janitor is about to
 * remove is either seen as referenced or inserted again.
 */
const statements = [
  'alter table turn add column client_fp text',
  'alter table turn add column second_fp text',
  'alter table turn add column third_fp text',
  'alter table turn add column forms text',
  `create function holdfast_key(id text) returns text language sql immutable parallel safe as $$
  select case when octet_length(id) <= 1024 then id else md5(id) end
$$`,
  'drop index turn_response_id_unique',
  `create unique index turn_response_id_unique on turn (scope, holdfast_key(response_id)) where response_id is not null`,
  'drop index turn_transcript_fp_index',
  `create index turn_transcript_fp_index on turn (scope, transcript_fp, started_at) where transcript_fp is not null`,
  `create index turn_second_fp_index on turn (scope, second_fp, started_at) where second_fp is not null`,
  `create index turn_third_fp_index on turn (scope, third_fp, started_at) where third_fp is not null`,
  `create table turn_item (
     turn_id text not null,
     item_id text not null,
     scope text not null,
     started_at timestamptz not null,
     constraint turn_item_pkey primary key (turn_id, item_id),
     constraint turn_item_turn_id_foreign foreign key (turn_id) references turn (id) on delete cascade
   )`,
  'create index turn_item_item_id_index on turn_item (scope, item_id, started_at)',
  `create or replace function holdfast_turn_json(t turn) returns json language sql stable as $$
  select json_build_object(
    'id', t.id,
    'sessionId', t.session_id,
    'scope', t.scope,
    'parentTurnId', t.parent_turn_id,
    'epoch', t.epoch,
    'authorWorkerId', t.author_worker_id,
    'shape', t.shape,
    'state', t.state,
    'responseId', t.response_id,
    'requestFp', t.request_fp,
    'contextFp', t.context_fp,
    'transcriptFp', t.transcript_fp,
    'clientFp', t.client_fp,
    'itemCount', t.item_count,
    'replay', t.replay,
    'storedUpstream', t.stored_upstream,
    'credentialFp', t.credential_fp,
    'clientTurnId', t.client_turn_id)
$$`,
  'drop function holdfast_settle_told',
  'drop function holdfast_settle_shared',
  'drop function holdfast_settle',
  `create function holdfast_settle(p_call json, p_input bytea, p_output bytea, p_hashes text[], p_data bytea[])
   returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     c record;
     s record;
     t record;
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
     select scope, author_worker_id, epoch, state, branched, started_at into t
       from turn where id = c.turn and session_id = c.session;
     if not found or t.author_worker_id <> c.me or t.epoch <> c.epoch then
       return json_build_object('verdict', 'branch');
     end if;
     if t.state <> 'active' and (t.state <> 'lost' or c.ended = 'lost') then
       return json_build_object('verdict', case when t.branched then 'branch' else 'already' end);
     end if;
     under_fence := coalesce(
       s.owner_worker_id = c.me and s.owner_nonce = c.nonce and s.epoch = c.epoch and s.active_turn_id = c.turn, false);
     moves_head := c.ended in ('completed', 'incomplete');
     update turn
        set state = c.ended,
            branched = not under_fence,
            response_id = c.response_id,
            transcript_fp = c.transcript_fp,
            client_fp = c.client_fp,
            second_fp = c.second_fp,
            third_fp = c.third_fp,
            forms = c.forms,
            item_count = c.item_count,
            replay = c.replay,
            usage = c.usage::json,
            error = c.error::json,
            facts = coalesce(facts, c.facts::json),
            ended_at = now()
      where id = c.turn;
     if p_hashes is not null then
       insert into shared_item (scope, hash, data)
         select t.scope, n.hash, n.data from unnest(p_hashes, p_data) as n (hash, data) order by n.hash
         on conflict (scope, hash) do update set hash = excluded.hash;
     end if;
     if p_input is not null then
       insert into turn_items (turn_id, input, output, shared) values (c.turn, p_input, p_output, c.shared::json)
         on conflict (turn_id)
         do update set input = excluded.input, output = excluded.output, shared = excluded.shared;
     end if;
     if p_hashes is not null then
       insert into turn_shared_item (turn_id, scope, hash)
         select c.turn, t.scope, hash from unnest(p_hashes) as hash
         on conflict do nothing;
     end if;
     if t.state = 'lost' then
       delete from turn_item where turn_id = c.turn;
     end if;
     if c.item_ids is not null then
       insert into turn_item (turn_id, item_id, scope, started_at)
         select c.turn, item_id, t.scope, t.started_at from unnest(c.item_ids) as item_id
         on conflict do nothing;
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
];

export class Lines extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
