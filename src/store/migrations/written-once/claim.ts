/**
 * Takes a session over: epoch + 1 under a new nonce. See `../fence/claim.ts` for the conditions.
 *
 * A turn left running by a dead owner ends as `lost` and is moved to the ended turns. A session whose turn row is missing
 * (lost in a failover) can still be claimed.
 */
export const claim = `create or replace function holdfast_claim(
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
$$`;
