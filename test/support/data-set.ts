import type { ClientBase } from 'pg';

export interface DataSetSize {
  sessions: number;
  /** Turns of a session, on average. */
  turnsPerSession: number;
  /** One in this many sessions has `longTurns` additional turns; 0: none. */
  longEvery: number;
  longTurns: number;
}

/** Hours after which the rows of the data set count as unused. */
export const RETENTION_HOURS = 24;

/** `t` and the hash of its place: as random to an index as a UUID, and computable without a look-up. */
const turnId = (session: string, nth: string) => `'t' || md5(${session} || '.' || ${nth})`;
const fp = (text: string) => `md5(${text}) || md5(${text} || '+')`;

/**
 * Creates the rows that an installation has after two weeks without a janitor run: sessions of every age, most with a
 * few turns and some with very many, turns that failed or were abandoned by an edit, forks, keys, large items with and
 * without a turn that needs them, stories, dead workers. The rows are the same every time.
 *
 * | session n | |
 * | --- | --- |
 * | 3 of 5 | used within the retention; 1 of 5 of these was created long before it |
 * | 2 of 5 | unused for 1 to 14 days |
 * | n % 51 = 0 | begins at the first turn of session n - 1 |
 * | n % 199 = 7 | has an active turn; if the session is unused its worker is dead |
 */
export async function fillDatabase(client: ClientBase, size: DataSetSize): Promise<void> {
  const columns = `id, session_id, scope, parent_turn_id, epoch, author_worker_id, shape, state, branched, response_id,
    request_fp, context_fp, transcript_fp, client_fp, second_fp, forms, replay, stored_upstream,
    credential_fp, usage, facts, started_at, ended_at`;
  const row = `t.id, t.session_id, 's' || t.n % 20, t.parent, 1, t.worker, 'delta', t.state, t.branched,
    case when t.ok then 'resp_' || md5(t.id) end, ${fp('t.id')}, ${fp('t.n::text')},
    case when t.ok then ${fp(`'at' || t.id`)} end, case when t.ok then ${fp(`'by' || t.id`)} end,
    case when t.ok and t.k % 3 = 0 then ${fp(`'or' || t.id`)} end, case when t.ok then ${fp('t.id')} end,
    case when t.ok then 'exact' else 'never' end, false, ${fp(`'credential'`)},
    '{"input_tokens":1234,"input_tokens_details":{"cached_tokens":1000},"output_tokens":321,"total_tokens":1555}'::json,
    '{"outcome":"live_reuse","form":"delta","bytesFromClient":900,"bytesSent":400,"creates":1,"fault":null,"upstreamStatus":null,"heldMs":3,"firstEventMs":400,"totalMs":1900}'::json`;
  const statements = [
    `set session_replication_role = replica`,
    `set synchronous_commit = off`,
    `set work_mem = '256MB'`,
    `select setseed(0.5)`,
    `insert into worker (id, state, version, heartbeat_expires_at)
       select 'w' || n, case when n > 3 then 'dead' else 'serving' end, '1',
              now() + case when n > 3 then -n * interval '6 hours' else interval '1 day' end
         from generate_series(1, 60) n`,
    `create temp table s as
       select n, 's' || md5(n::text) as id, n % 5 >= 3 as unused, used as updated_at,
              used - case when n % 5 < 3 and n % 25 < 5 then random() * interval '14 days'
                          else random() * interval '2 hours' end as created_at,
              1 + floor(random() ^ 2 * 3 * (${size.turnsPerSession} - 1) + 0.5)::integer
                + case when ${size.longEvery} > 0 and n % ${Math.max(1, size.longEvery)} = 1 then ${size.longTurns} else 0 end as turns
         from (select n, now() - case when n % 5 >= 3 then interval '25 hours' + random() * interval '13 days'
                                      else random() * interval '23 hours' end as used
                 from generate_series(1, ${size.sessions}) n) s`,
    `create temp table t as
       select s.n, k, ${turnId('s.n', 'k')} as id, s.id as session_id, ending.state,
              ending.state in ('completed', 'incomplete') as ok,
              ending.state = 'completed' and random() < 0.005 as branched,
              'w' || case when s.unused then 4 + n % 57 else 1 + n % 3 end as worker,
              s.created_at + (s.updated_at - s.created_at) * (k - 1) / s.turns as started_at,
              s.created_at + (s.updated_at - s.created_at) * (k - 0.1) / s.turns as ended_at
         from s cross join generate_series(1, s.turns) k
        cross join lateral (
          select case when k = 1 then 'completed' else
                   (array['completed','incomplete','failed','cancelled','lost'])[
                     width_bucket(random(), array[0, 0.93, 0.95, 0.98, 0.99])] end as state) ending`,
    `alter table t add column parent text`,
    `create index on t (n, k)`,
    // At intervals, an edit continues from the turn before the last one.
    `update t set parent = ${turnId('t.n', 'before.k')}
       from (select n, k, max(k) filter (where ok and not branched) over (line rows between unbounded preceding and 1 preceding) as last,
                    max(k) filter (where ok and not branched) over (line rows between unbounded preceding and 2 preceding) as older
               from t window line as (partition by n order by k)) o
      cross join lateral (select case when o.k % 50 = 9 then o.older else o.last end as k) before
      where o.n = t.n and o.k = t.k and before.k is not null`,
    `update t set parent = ${turnId('(n - 1)', '1')} where k = 1 and n % 51 = 0`,
    `insert into bridge_session (id, scope, state, snapshot, machine_version, revision, owner_worker_id, owner_nonce,
                                 epoch, active_turn_id, head_turn_id, upstream_id, model, created_at, updated_at)
       select s.id, 's' || n % 20, case when unused then 'stale' else 'live' end,
              '{"value":{"live":"idle"},"context":{"creates":1,"generation":1,"fault":null,"reason":null,"attempt":0}}',
              1, turns * 2, 'w' || case when unused then 4 + n % 57 else 1 + n % 3 end, md5('nonce' || n), 1,
              case when n % 199 = 7 then ${turnId('n', '(turns + 1)')} end,
              (select t.id from t where t.n = s.n and t.ok and not t.branched order by t.k desc limit 1),
              'openai', 'model', created_at, updated_at
         from s order by created_at`,
    `insert into session_key (scope, kind, hash, session_id)
       select 's' || n % 20, 'thread', ${fp(`'key' || n`)}, id from s where n % 10 < 7`,
    `insert into turn (${columns}) select ${row}, t.started_at, t.ended_at from t order by t.ended_at`,
    `insert into active_turn (id, session_id, scope, parent_turn_id, epoch, author_worker_id, shape, state, request_fp,
                                 context_fp, replay, stored_upstream, credential_fp, started_at)
       select ${turnId('n', '(turns + 1)')}, s.id, 's' || n % 20,
              (select t.id from t where t.n = s.n and t.ok and not t.branched order by t.k desc limit 1), 1,
              'w' || case when unused then 4 + n % 57 else 1 + n % 3 end, 'delta', 'active', ${fp(`'r' || n`)},
              ${fp('n::text')}, 'never', false, ${fp(`'credential'`)}, updated_at
         from s where n % 199 = 7`,
    `insert into turn_items (scope, turn_id, input, output)
       select 's' || n % 20, id, decode(md5(id) || md5(id || 1) || md5(id || 2) || md5(id || 3), 'hex'),
              decode(md5(id || 4) || md5(id || 5) || md5(id || 6) || md5(id || 7) || md5(id || 8), 'hex')
         from t where ok order by ended_at`,
    `insert into turn_item (turn_id, item_id, scope, started_at)
       select id, 'msg_' || md5('item' || id), 's' || n % 20, started_at from t where ok and k % 2 = 0 order by ended_at`,
    `insert into shared_item (scope, hash, data)
       select 's' || n % 20, md5('shared' || n), decode(md5(n::text), 'hex')
         from generate_series(1, ${Math.ceil(size.sessions / 20)}) n`,
    `insert into turn_shared_item (turn_id, scope, hash)
       select ${turnId('n', '1')}, 's' || n % 20, md5('shared' || n)
         from generate_series(1, ${Math.ceil(size.sessions / 20)}) n where n % 4 <> 0`,
    `insert into provider_object (scope, object_id, kind, created_at)
     select t.scope, 'obj_' || t.id, case when random() < 0.5 then 'responses' else 'files' end, t.started_at from turn t`,
    `insert into session_story (scope, turn_id, session_id, record, created_at)
       select 's' || n % 20, id, session_id, '{"events":[]}', ended_at from t where state = 'failed' and n % 3 = 0`,
    `drop table s, t`,
    `reset session_replication_role`,
    `reset synchronous_commit`,
    `reset work_mem`,
    `update bridge_session s set fork_turn_id = p.id
       from turn t join turn p on p.id = t.parent_turn_id
      where t.session_id = s.id and p.session_id <> s.id`,
    `vacuum (analyze)`,
  ];
  for (const statement of statements) await client.query(statement);
}
