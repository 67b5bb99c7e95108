import { MOST_COUNTED, type PurgeKind } from '../../admin-port.ts';
import type { Statement } from '../executor.ts';

/**
 * Builds the statement for one page of sessions, most recently changed first, with their number. Parameters: `$1` state,
 * `$2` owner, `$3` busy, `$4` and `$5` cursor (`updatedAt` and id of the last row of the previous page), `$6` most rows;
 * `$7` the search, where the source uses one.
 *
 * The order starts with the hour of the change because an index covers that: only the sessions of one hour are sorted. The
 * count is capped, since only the display uses it.
 */
function listing(name: string, source: string): Statement {
  const matching = `
                 ($1::text is null or s.state = $1::text)
                 and ($2::text is null or s.owner_worker_id = $2::text)
                 and ($3::boolean is null or (s.active_turn_id is not null) = $3::boolean)`;
  return {
    name,
    text: `
      select json_build_object(
        'total', (select count(*) from (select from ${source} where ${matching} limit ${MOST_COUNTED}) counted),
        'rows', coalesce((
          select json_agg(page.row order by page.updated_at desc, page.id desc)
            from (
              select s.id, s.updated_at,
                     (holdfast_session_json(s)::jsonb || jsonb_build_object(
                        'createdAt', s.created_at, 'updatedAt', s.updated_at,
                        'turnCount', (
                          select count(*)
                            from (select from turn t where t.session_id = s.id limit ${MOST_COUNTED}) counted),
                        'lastTurn', (
                          select json_build_object('state', t.state, 'facts', t.facts::text)
                            from turn t where t.session_id = s.id
                           order by t.started_at desc limit 1))) as row
                from ${source}
               where ${matching}
                 and (s.changed_hour, s.updated_at, s.id) < (
                   coalesce(date_trunc('hour', $4::timestamptz at time zone 'UTC'), 'infinity'),
                   coalesce($4::timestamptz, 'infinity'),
                   coalesce($5::text, ''))
               order by s.changed_hour desc, s.updated_at desc, s.id desc
               limit $6::integer) page), '[]'))::text as answer`,
  };
}

/** Sessions named by an id of any kind, or by a key or its hash. */
const FOUND = `(
                select $7::text as id
                 union select t.session_id from turn t where t.id = $7::text
                 union select t.session_id from only turn t
                        where holdfast_key(t.response_id) = holdfast_key($7::text) and t.response_id = $7::text
                 union select k.session_id from session_key k
                        where k.hash in ($7::text, encode(sha256(convert_to($7::text, 'UTF8')), 'hex'))
                ) named join bridge_session s on s.id = named.id`;

/** One statement per access path: a condition with an optional parameter would prevent the use of its index. */
export const listCalls = {
  all: listing('holdfast_list_sessions', 'bridge_session s'),
  found: listing('holdfast_find_sessions', FOUND),
  busy: listing(
    'holdfast_busy_sessions',
    'active_turn a join bridge_session s on s.active_turn_id = a.id and s.id = a.session_id',
  ),
  owned: listing('holdfast_sessions_of', '(select * from bridge_session where owner_worker_id = $2::text) s'),
} as const;

/**
 * Statements for operators. Each is one statement and decides on rows that it locks itself.
 *
 * Values stored as `json` are returned as text: PostgreSQL stores escapes in them that its operators refuse to decode.
 */
export const adminCalls = {
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
      select json_build_object('workerId', owned.id, 'sessions', owned.sessions,
                               'busy', coalesce(running.sessions, 0))::text as answer
        from (select s.owner_worker_id as id, count(*) as sessions
                from bridge_session s where s.owner_worker_id is not null
               group by s.owner_worker_id) owned
        left join (select s.owner_worker_id as id, count(*) as sessions
                     from active_turn a join bridge_session s on s.id = a.session_id and s.active_turn_id = a.id
                    group by s.owner_worker_id) running on running.id = owned.id`,
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
    text: 'select holdfast_erase($1::text, $2::text) as answer',
  },
} as const;

/** Statements of the janitor by kind of row: one function each, with the same parameters and the same form of answer. */
export const purgeCalls: Readonly<Record<PurgeKind, Statement>> = {
  sessions: purgeCall('sessions'),
  turns: purgeCall('turns'),
  workers: purgeCall('workers'),
  shared: purgeCall('shared'),
};

function purgeCall(kind: PurgeKind): Statement {
  const name = `holdfast_purge_${kind}`;
  return { name, text: `select ${name}($1::integer, $2::text[], $3::integer)::text as answer` };
}
