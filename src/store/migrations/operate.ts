import { Migration } from '@mikro-orm/migrations';

/**
 * Operators' actions on an idle session. Like the fence functions it locks the row first and reads everything after that. A
 * single statement would decide on data read before it waited, and could take a session at the moment one of its turns
 * starts.
 */
const statement = `create function holdfast_operate(p_session text, p_action text) returns text
   language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     s bridge_session;
   begin
     select * into s from bridge_session where id = p_session for update;
     if not found or s.state = 'closed' then
       return 'missing';
     end if;
     if s.active_turn_id is not null then
       return 'busy';
     end if;
     update bridge_session
        set owner_worker_id = null,
            owner_nonce = null,
            state = case when p_action = 'close' then 'closed' else 'stale' end,
            epoch = s.epoch + 1,
            revision = s.revision + 1,
            updated_at = now()
      where id = p_session;
     if p_action = 'close' then
       delete from session_key where session_id = p_session;
     elsif p_action = 'drop-anchor' then
       update turn set stored_upstream = false where id = s.head_turn_id;
     end if;
     return 'ok';
   end
   $$`;

export class Operate extends Migration {
  override up(): void {
    this.addSql(statement);
  }
}
