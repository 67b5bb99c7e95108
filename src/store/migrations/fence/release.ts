/**
 * Gives an idle session up. The owner of an active turn is never cleared: such a session could never be claimed again,
 * because no death is ever recorded for a missing owner. Only claims raise the epoch, so an unowned session at the caller's
 * epoch is one that the caller has released before.
 */
export const release = `create function holdfast_release(
  p_session text, p_me text, p_nonce text, p_epoch bigint,
  p_state text, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  s bridge_session;
begin
  select * into s from bridge_session where id = p_session for update;
  if not found or s.epoch <> p_epoch then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.owner_worker_id is null then
    return json_build_object('verdict', 'already');
  end if;
  if s.owner_worker_id <> p_me or s.owner_nonce <> p_nonce then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.active_turn_id is not null then
    return json_build_object('verdict', 'busy');
  end if;
  update bridge_session
     set owner_worker_id = null,
         owner_nonce = null,
         state = p_state,
         snapshot = p_snapshot,
         machine_version = p_machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where id = p_session;
  return json_build_object('verdict', 'ok');
end
$$`;
