/**
 * Inserts session, keys and first turn, or nothing. See `../fence/create.ts` for the races on its keys.
 *
 * The turn is inserted as a running one, and the session records the turn of another session at which it begins. The check
 * that the id has not ended in another session comes last: if it is just ending there, the insert waits for that first.
 */
export const create = `create or replace function holdfast_create(
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
$$`;
