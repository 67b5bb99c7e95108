/**
 * Extends a lease. `dead` is a terminal state: for a dead or missing row nothing is written, and the worker gets `dead`.
 */
export const heartbeat = `create function holdfast_heartbeat(
  p_id text, p_state text, p_lease_ms double precision
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
begin
  update worker
     set heartbeat_expires_at = now() + p_lease_ms * interval '1 ms', state = p_state
   where id = p_id and state <> 'dead';
  return json_build_object('verdict', case when found then 'ok' else 'dead' end);
end
$$`;
