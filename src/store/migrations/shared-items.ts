import { Migration } from '@mikro-orm/migrations';

/**
 * Large items, stored once per scope: a file pasted into every conversation is stored once.
 *
 * `turn_items.shared` holds their positions; `turn_shared_item` the turns that reference them, so that an item is removed
 * with its last reference. The settle locks the items before it references them: an item that the janitor is about to
 * remove is either seen as referenced or inserted again. Large items belong to the recorded end. `branch` is also the
 * answer to a settle that wrote nothing because the turn had ended before, so the function checks first, under the lock
 * that the settle itself takes, whether this call records the end.
 */
const statements = [
  'alter table turn_items add column shared json',
  `create table shared_item (
     scope text not null,
     hash text not null,
     data bytea not null,
     created_at timestamptz not null default now(),
     constraint shared_item_pkey primary key (scope, hash)
   )`,
  `create table turn_shared_item (
     turn_id text not null,
     scope text not null,
     hash text not null,
     constraint turn_shared_item_pkey primary key (turn_id, scope, hash),
     constraint turn_shared_item_turn_id_foreign foreign key (turn_id) references turn_items (turn_id) on delete cascade,
     constraint turn_shared_item_shared_item_foreign foreign key (scope, hash) references shared_item (scope, hash)
   )`,
  'create index turn_shared_item_hash_index on turn_shared_item (scope, hash)',
  `create function holdfast_settle_shared(
     p_session text, p_me text, p_nonce text, p_epoch bigint, p_turn text,
     p_end text, p_response_id text, p_input bytea, p_output bytea, p_transcript_fp text, p_item_count integer,
     p_replay text, p_usage json, p_error json, p_anchor_lost boolean,
     p_state text, p_snapshot jsonb, p_machine_version integer,
     p_shared json, p_hashes text[], p_data bytea[]
   ) returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     answer json;
     s_scope text;
   begin
     perform from bridge_session where id = p_session for update;
     select t.scope into s_scope
       from turn t
      where t.id = p_turn and t.session_id = p_session and t.author_worker_id = p_me and t.epoch = p_epoch
        and (t.state = 'active' or (t.state = 'lost' and p_end <> 'lost'));
     answer := holdfast_settle(p_session, p_me, p_nonce, p_epoch, p_turn, p_end, p_response_id, p_input, p_output,
       p_transcript_fp, p_item_count, p_replay, p_usage, p_error, p_anchor_lost, p_state, p_snapshot,
       p_machine_version);
     if s_scope is not null and answer ->> 'verdict' in ('ok', 'branch') then
       insert into shared_item (scope, hash, data)
         select s_scope, n.hash, n.data from unnest(p_hashes, p_data) as n (hash, data) order by n.hash
         on conflict (scope, hash) do update set hash = excluded.hash;
       insert into turn_shared_item (turn_id, scope, hash)
         select p_turn, s_scope, h from unnest(p_hashes) h
         on conflict do nothing;
       update turn_items set shared = p_shared where turn_id = p_turn;
     end if;
     return answer;
   end
   $$`,
];

export class SharedItems extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
