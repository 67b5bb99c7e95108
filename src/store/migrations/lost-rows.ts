import { Migration } from '@mikro-orm/migrations';

/**
 * Handling of workers whose rows were lost in a failover of the database.
 *
 * `holdfast_beat` is a heartbeat that restores the sender's row. The old id is safe: a stored death stays stored, and a
 * session claimed in the time without a row has a new epoch.
 *
 * `holdfast_judge` inserts a row with a full lease for an owner without one. From then on the usual rules apply: the
 * owner's heartbeat restores its row, or the lease expires.
 */
const statements = [
  `create function holdfast_beat(
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
   $$`,
  `create function holdfast_judge(p_id text) returns json
     language plpgsql volatile set lock_timeout = '2s' as $$
   declare
     found_state text;
   begin
     insert into worker (id, state, version, heartbeat_expires_at)
       values (p_id, 'serving', 'unknown', now() + interval '10 seconds')
       on conflict (id) do nothing;
     update worker set state = 'dead' where id = p_id and state <> 'dead' and heartbeat_expires_at < now();
     select state into found_state from worker where id = p_id;
     return json_build_object('verdict', case when found_state = 'dead' then 'dead' else 'alive' end);
   end
   $$`,
];

export class LostRows extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}
