import { Migration } from '@mikro-orm/migrations';

/**
 * Actions of the bridge on a turn, beside the provider's data: outcome, form sent, bytes and times. For operators only: no
 * decision depends on it. Written in the call that records the turn's end. Null for turns of older releases and for turns
 * that no author ended.
 */
const statements = [
  'alter table turn add column facts json',
  `create function holdfast_settle_told(
     p_session text, p_me text, p_nonce text, p_epoch bigint, p_turn text,
     p_end text, p_response_id text, p_input bytea, p_output bytea, p_transcript_fp text, p_item_count integer,
     p_replay text, p_usage json, p_error json, p_anchor_lost boolean,
     p_state text, p_snapshot jsonb, p_machine_version integer,
     p_shared json, p_hashes text[], p_data bytea[], p_facts json
   ) returns json language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     answer json;
   begin
     if p_shared is null then
       answer := holdfast_settle(p_session, p_me, p_nonce, p_epoch, p_turn, p_end, p_response_id, p_input, p_output,
         p_transcript_fp, p_item_count, p_replay, p_usage, p_error, p_anchor_lost, p_state, p_snapshot,
         p_machine_version);
     else
       answer := holdfast_settle_shared(p_session, p_me, p_nonce, p_epoch, p_turn, p_end, p_response_id, p_input,
         p_output, p_transcript_fp, p_item_count, p_replay, p_usage, p_error, p_anchor_lost, p_state, p_snapshot,
         p_machine_version, p_shared, p_hashes, p_data);
     end if;
     if p_facts is not null and answer ->> 'verdict' in ('ok', 'branch') then
       update turn
          set facts = p_facts
        where id = p_turn and session_id = p_session and author_worker_id = p_me and epoch = p_epoch and facts is null;
     end if;
     return answer;
   end
   $$`,
];

export class TurnFactsColumn extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
