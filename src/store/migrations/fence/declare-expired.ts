/**
 * Stores the death of a worker whose lease has expired. One UPDATE checks the very row that it locks, and `now()` dates
 * from before it waited, so a heartbeat that commits first always wins.
 */
export const declareExpired = `create function holdfast_declare_expired(p_id text)
returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  found_state text;
begin
  update worker set state = 'dead' where id = p_id and state <> 'dead' and heartbeat_expires_at < now();
  select state into found_state from worker where id = p_id;
  return json_build_object(
    'verdict', case when found_state is null then 'missing' when found_state = 'dead' then 'dead' else 'alive' end);
end
$$`;
