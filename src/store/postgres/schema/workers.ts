/**
 * Inserts a worker's row. The same worker may repeat the call. Any other use of a known id is an error; in particular, a
 * dead worker never returns under its old id.
 */
const register = `create or replace function holdfast_register(
  p_id text, p_internal_url text, p_liveness_path text, p_version text, p_lease_ms double precision
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
begin
  insert into worker as w (id, internal_url, liveness_path, state, version, heartbeat_expires_at)
    values (p_id, p_internal_url, p_liveness_path, 'serving', p_version, now() + p_lease_ms * interval '1 ms')
    on conflict (id) do update
      set heartbeat_expires_at = excluded.heartbeat_expires_at
    where w.state = 'serving'
      and w.internal_url is not distinct from excluded.internal_url
      and w.liveness_path is not distinct from excluded.liveness_path
      and w.version = excluded.version;
  if not found then
    raise exception 'worker id % was used before', p_id;
  end if;
  return json_build_object('verdict', 'ok');
end
$$`;

/**
 * Extends a lease. `dead` is a terminal state: nothing is written for a dead row, and the worker gets `dead`.
 *
 * A row that a failover of the database has lost is restored. The old id is safe: a stored death stays stored, and a session
 * claimed in the time without a row has a new epoch.
 */
const heartbeat = `create or replace function holdfast_heartbeat(
  p_id text, p_state text, p_lease_ms double precision,
  p_internal_url text, p_liveness_path text, p_version text
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  expires timestamptz := now() + p_lease_ms * interval '1 ms';
  known text;
begin
  update worker as w set heartbeat_expires_at = expires, state = p_state
   where id = p_id and w.state <> 'dead'
  returning w.version into known;
  if found and (p_version is null or known = p_version) then
    return json_build_object('verdict', 'ok');
  end if;
  if p_version is null then
    return json_build_object('verdict', 'dead');
  end if;
  insert into worker as w (id, internal_url, liveness_path, state, version, heartbeat_expires_at)
    values (p_id, p_internal_url, p_liveness_path, p_state, p_version, expires)
    on conflict (id) do update
      set internal_url = excluded.internal_url,
          liveness_path = excluded.liveness_path,
          state = excluded.state,
          version = excluded.version,
          heartbeat_expires_at = excluded.heartbeat_expires_at
    where w.state <> 'dead';
  if not found then
    return json_build_object('verdict', 'dead');
  end if;
  return json_build_object('verdict', 'ok', 'restored', true);
end
$$`;

/**
 * Stores the death of a worker whose lease has expired. One UPDATE checks the very row that it locks, and `now()` dates
 * from before it waited, so a heartbeat that commits first always wins.
 *
 * A worker without a row gets one with a full lease. From then on the usual rules apply: its heartbeat restores its row, or
 * the lease expires.
 */
const declareExpired = `create or replace function holdfast_declare_expired(p_id text) returns json
  language plpgsql volatile set lock_timeout = '2s' as $$
declare
  found_state text;
begin
  insert into worker (id, state, version, heartbeat_expires_at)
    values (p_id, 'serving', 'unknown', now() + interval '10 seconds')
    on conflict (id) do nothing;
  update worker set state = 'dead' where id = p_id and heartbeat_expires_at < now();
  select state into found_state from worker where id = p_id;
  return json_build_object('verdict', case when found_state = 'dead' then 'dead' else 'alive' end);
end
$$`;

/**
 * Stores a death that is certain. A missing row is inserted, so that sessions left with an active turn become claimable.
 */
const declareDead = `create or replace function holdfast_declare_dead(p_id text)
returns json language plpgsql volatile set lock_timeout = '2s' as $$
begin
  insert into worker (id, state, version, heartbeat_expires_at) values (p_id, 'dead', 'unknown', now())
    on conflict (id) do update set state = 'dead';
  return json_build_object('verdict', 'dead');
end
$$`;

export const workers = [register, heartbeat, declareExpired, declareDead];
