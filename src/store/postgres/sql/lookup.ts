/**
 * Everything the resolver needs, from one snapshot: the anchor's turn, the sessions that anchor, token, key and
 * transcript name, and those sessions' heads and owners. A closed session is not found; the turn it once ran still is.
 */
export const lookup = {
  name: 'holdfast_lookup',
  text: `
    with anchor_turn as materialized (
      select t from turn t where t.scope = $1::text and t.response_id = $2::text
    ),
    prefix_turn as materialized (
      select t
        from unnest($6::text[], $7::integer[]) as wanted (fp, items)
        join turn t on t.scope = $1::text and t.transcript_fp = wanted.fp and t.item_count = wanted.items
       where t.state in ('completed', 'incomplete')
       order by t.item_count desc, t.started_at desc
       limit 1
    ),
    found as materialized (
      select 'anchor' as evidence, s
        from anchor_turn a join bridge_session s on s.id = (a.t).session_id
       where s.state <> 'closed'
      union all
      select 'token', s
        from bridge_session s
       where s.id = $3::text and s.scope = $1::text and s.state <> 'closed'
      union all
      select 'keyed', s
        from session_key k join bridge_session s on s.id = k.session_id
       where k.scope = $1::text and k.kind = $4::text and k.hash = $5::text and s.state <> 'closed'
      union all
      select 'prefix', s
        from prefix_turn p join bridge_session s on s.id = (p.t).session_id
       where s.state <> 'closed'
    )
    select json_build_object(
      'anchorTurn', (select holdfast_turn_json(a.t) from anchor_turn a),
      'prefixTurn', (select holdfast_turn_json(p.t) from prefix_turn p),
      'sessions', coalesce((select json_object_agg(f.evidence, holdfast_session_json(f.s)) from found f), '{}'),
      'heads', coalesce(
        (select json_agg(holdfast_turn_json(t))
           from turn t
          where t.id in (select (f.s).head_turn_id from found f) and t.scope = $1::text), '[]'),
      'owners', coalesce(
        (select json_agg(holdfast_worker_json(w))
           from worker w
          where w.id in (select (f.s).owner_worker_id from found f)), '[]')
    )::text as answer`,
} as const;
