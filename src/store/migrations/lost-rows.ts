import { Migration } from '@mikro-orm/migrations';

/**
 * Workers whose rows a failover of the database has lost.
 *
 * `holdfast_beat` is a heartbeat that restores the row of the worker that sends it. Under its old id, because nothing of
 * it can have been taken meanwhile: a death that was stored stays stored, and whatever was claimed has another epoch.
 *
 * `holdfast_judge` gives an owner without a row one with a full lease, so that it is judged like any other: its own
 * heartbeat restores the row, or the lease runs out.
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
