/**
 * Stores a death that is certain. A missing row is inserted, so that sessions left with an active turn become claimable.
 */
export const declareDead = `create function holdfast_declare_dead(p_id text)
returns json language plpgsql volatile set lock_timeout = '2s' as $$
begin
  insert into worker as w (id, state, version, heartbeat_expires_at) values (p_id, 'dead', 'unknown', now())
    on conflict (id) do update set state = 'dead' where w.state <> 'dead';
  return json_build_object('verdict', 'dead');
end
$$`;
