/**
 * Takes a session over: epoch + 1 under a new nonce.
 *
 * An idle session may be claimed at any time by a worker that read its current epoch and revision. A session with an active
 * turn may be claimed only after its owner is stored as dead. Leases are never compared here: a lease read before the lock
 * proves nothing after it. An owner without a row (lost in a failover) gets one with a full lease, which then expires like
 * any other; without it the session could never be claimed again.
 */
export const claim = `create function holdfast_claim(
  p_session text, p_me text, p_nonce text, p_epoch_read bigint, p_revision_read bigint
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  s bridge_session;
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
    update turn
       set state = 'lost', branched = true, ended_at = now()
     where id = s.active_turn_id and state = 'active';
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
$$`;
