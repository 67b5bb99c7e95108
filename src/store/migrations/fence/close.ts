/**
 * Closes an idle session permanently and frees its keys in the same call. No lookup by key or token finds a closed session.
 */
export const close = `create function holdfast_close(
  p_session text, p_me text, p_nonce text, p_epoch bigint, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  s bridge_session;
begin
  select * into s from bridge_session where id = p_session for update;
  if not found or s.epoch <> p_epoch then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.state = 'closed' then
    return json_build_object('verdict', 'already');
  end if;
  if (s.owner_worker_id = p_me and s.owner_nonce = p_nonce) is not true then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.active_turn_id is not null then
    return json_build_object('verdict', 'busy');
  end if;
  delete from session_key where session_id = p_session;
  update bridge_session
     set owner_worker_id = null,
         owner_nonce = null,
         state = 'closed',
         snapshot = p_snapshot,
         machine_version = p_machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where id = p_session;
  return json_build_object('verdict', 'ok');
end
$$`;
