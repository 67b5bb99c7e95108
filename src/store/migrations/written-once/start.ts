/**
 * Moves a session from "no turn active, head H, epoch E" to "turn T active", or does nothing. See `../fence/start.ts`.
 *
 * The turn is inserted as a running one. The check that its id has not ended in another session comes last: if it is just
 * ending there, the insert waits for that, and only then is the result certain.
 */
export const start = `create or replace function holdfast_start(
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
$$`;
