/** What an operator may match: one id of any kind, or a key or its hash. `$1` search, `$2` state, `$6` owner, `$7` busy. */
const matching = `
  ($2::text is null or s.state = $2::text)
  and ($6::text is null or s.owner_worker_id = $6::text)
  and ($7::boolean is null or (s.active_turn_id is not null) = $7::boolean)
  and ($1::text is null or s.id = $1::text
       or s.id in (select t.session_id from turn t where t.id = $1::text)
       or s.id in (select t.session_id from turn t where t.response_id = $1::text)
       or s.id in (select k.session_id from session_key k 
                  where k.hash in ($1::text, encode(sha256(convert_to($1::text, 'UTF8')), 'hex'))))`;

/**
 * Statements of operators and the janitor. Each is one statement and decides on the rows it locks itself.
 *
 * What a turn stores as `json` leaves as its text: PostgreSQL stores escapes there that its operators refuse to decode.
 */
export const adminCalls = {
  listSessions: {
    name: 'holdfast_list_sessions',
    text: `
      select json_build_object(
        'total', (select count(*) from bridge_session s where ${matching}),
        'rows', coalesce((
          select json_agg(page.row order by page.updated_at desc, page.id desc)
            from (
              select s.id, s.updated_at,
                     (holdfast_session_json(s)::jsonb || jsonb_build_object(
                        'createdAt', s.created_at, 'updatedAt', s.updated_at,
                        'turnCount', (select count(*) from turn t where t.session_id = s.id),
                        'lastTurn', (
                          select json_build_object('state', t.state, 'facts', t.facts::text)
                            from turn t where t.session_id = s.id
                           order by t.started_at desc, t.id limit 1))) as row
                from bridge_session s
               where ${matching}
                 and ($3::timestamptz is null or (s.updated_at, s.id) < ($3::timestamptz, $4::text))
               order by s.updated_at desc, s.id desc
               limit $5::integer) page), '[]'))::text as answer`,
  },
  turnDetails: {
    name: 'holdfast_turn_details',
    text: `
      select (holdfast_turn_json(t)::jsonb || jsonb_build_object(
                'startedAt', t.started_at, 'endedAt', t.ended_at, 'branched', t.branched,
                'inputBytes', octet_length(i.input), 'outputBytes', octet_length(i.output)))::text as answer,
             t.usage::text as usage, t.error::text as error, t.facts::text as facts
        from turn t left join turn_items i on i.turn_id = t.id
       where t.session_id = $1::text
       order by t.started_at desc, t.id
       limit $2::integer`,
  },
  keysOf: {
    name: 'holdfast_keys_of',
    text: `select json_build_object('kind', k.kind, 'hash', k.hash)::text as answer
             from session_key k where k.session_id = $1::text order by k.kind, k.hash`,
  },
  ownedSessions: {
    name: 'holdfast_owned_sessions',
    text: `
      select json_build_object('workerId', s.owner_worker_id, 'sessions', count(*),
                               'busy', count(s.active_turn_id))::text as answer
        from bridge_session s where s.owner_worker_id is not null
       group by s.owner_worker_id`,
  },
  forksOf: {
    name: 'holdfast_forks_of',
    text: `
      select json_build_object('turnId', t.id, 'sessionId', t.session_id, 'parentTurnId', t.parent_turn_id,
                               'state', t.state)::text as answer
        from turn mine join turn t on t.parent_turn_id = mine.id
       where mine.session_id = $1::text and t.session_id <> $1::text
       order by t.started_at desc, t.id
       limit $2::integer`,
  },
  operatorRelease: {
    name: 'holdfast_operator_release',
    text: `select holdfast_operate($1::text, 'release') as answer`,
  },
  operatorClose: {
    name: 'holdfast_operator_close',
    text: `select holdfast_operate($1::text, 'close') as answer`,
  },
  dropAnchor: {
    name: 'holdfast_drop_anchor',
    text: `select holdfast_operate($1::text, 'drop-anchor') as answer`,
  },
  purgeSessions: {
    name: 'holdfast_purge_sessions',
    text: `
      with idle as (
        select s.id from bridge_session s
         where s.updated_at < now() - make_interval(hours => $1::integer)
           and (s.active_turn_id is null or not exists (
             select 1 from worker w
              where w.id = s.owner_worker_id and w.state <> 'dead'
                and w.heartbeat_expires_at >= now() - make_interval(hours => $1::integer)))
           and not exists (
             select 1 from turn mine join turn child on child.parent_turn_id = mine.id
              where mine.session_id = s.id and child.session_id <> s.id)
           and not exists (
             select 1 from turn mine join bridge_session other on other.head_turn_id = mine.id
              where mine.session_id = s.id and other.id <> s.id)
         limit $2::integer
         for update of s skip locked)
      delete from bridge_session s using idle where s.id = idle.id returning s.id as answer`,
  },
  purgeTurns: {
    name: 'holdfast_purge_turns',
    text: `
      with over as (
        select t.id from turn t
         where t.state <> 'active' and t.ended_at < now() - make_interval(hours => $1::integer)
           and not exists (select 1 from turn child where child.parent_turn_id = t.id)
           and not exists (select 1 from bridge_session s where s.head_turn_id = t.id)
         limit $2::integer
         for update of t skip locked)
      delete from turn t using over where t.id = over.id returning t.id as answer`,
  },
  purgeWorkers: {
    name: 'holdfast_purge_workers',
    text: `
      with gone as (
        select w.id from worker w
         where w.heartbeat_expires_at < now() - make_interval(hours => $1::integer)
           and not exists (select 1 from bridge_session s where s.owner_worker_id = w.id)
         limit $2::integer
         for update of w skip locked)
      delete from worker w using gone where w.id = gone.id returning w.id as answer`,
  },
  purgeShared: {
    name: 'holdfast_purge_shared',
    text: `
      with unused as (
        select i.scope, i.hash from shared_item i
         where not exists (select 1 from turn_shared_item n where n.scope = i.scope and n.hash = i.hash)
         limit $1::integer
         for update of i skip locked)
      delete from shared_item i using unused u
       where i.scope = u.scope and i.hash = u.hash
      returning i.hash as answer`,
  },
  keepStory: {
    name: 'holdfast_keep_story',
    text: `
      insert into session_story (turn_id, session_id, record)
      select $1::text, s.id, $3::json from bridge_session s where s.id = $2::text
          on conflict (turn_id) do nothing
      returning turn_id as answer`,
  },
  story: {
    name: 'holdfast_story',
    text: `select record::text as answer from session_story
            where session_id = $1::text order by created_at desc limit 1`,
  },
  eraseResponse: {
    name: 'holdfast_erase_response',
    text: `
      with found as (
        update turn t set replay = 'never', forms = null
         where t.scope = $1::text and holdfast_key(t.response_id) = holdfast_key($2::text)
           and t.response_id = $2::text
        returning t.id),
      erased as (delete from turn_items i using found f where i.turn_id = f.id),
      forgotten as (delete from turn_item i using found f where i.turn_id = f.id)
      select id as answer from found`,
  },
} as const;
