/**
 * Inserts a worker's row. The same worker may repeat the call. Any other use of a known id is an error; in particular, a
 * dead worker never returns under its old id.
 */
export const register = `create function holdfast_register(
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
