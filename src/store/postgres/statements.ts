import { BridgeSession, columnsOf, Turn, Worker } from '../entities.ts';
import { TURNS_PER_ITEM } from '../items.ts';
import { MOST_CANDIDATES, MOST_REPEATED } from '../port.ts';

/** Pairs of `json_build_object` for a row in the port's shape, so that no caller maps columns again. */
const pairsOf = (alias: string, entity: Parameters<typeof columnsOf>[0]) =>
  columnsOf(entity)
    .filter(({ hidden }) => !hidden)
    .map(({ property, name }) => `'${property}', ${alias}.${name}`)
    .join(', ');

/** Returns the SQL of a session's row as JSON. @param alias of `bridge_session`, or a variable of that type */
export const sessionJson = (alias: string) => `json_build_object(${pairsOf(alias, BridgeSession)})`;

/** Returns the SQL of a turn's row as JSON. @param alias of `turn` or `any_turn` */
export const turnJson = (alias: string) => `json_build_object(${pairsOf(alias, Turn)})`;

/** Returns the SQL of a worker's row as JSON. @param alias of `worker` */
export const workerJson = (alias: string) => `json_build_object(${pairsOf(alias, Worker)},
      'leaseLeftMs', floor(extract(epoch from ${alias}.heartbeat_expires_at - now()) * 1000))`;

/**
 * Hand-written reads of a turn's way through the bridge. Each needs one snapshot and one round trip: recursion, lateral
 * joins that fix the access path, and one JSON answer over several tables, which the query builder could only hold as
 * fragments of the same text. They are prepared under their names.
 *
 * Each names the scope for every table but `worker`, so that it reads one shard of a distributed database, or one partition.
 */

/** Selects the newest turns that end at a place, by one of the three fingerprint columns. */
const endingAt = (column: string) => `
          (select t.id, t.session_id, t.started_at
             from turn t
            where t.scope = $1::text and t.${column} = place.fp and t.state in ('completed', 'incomplete')
              and t.id <> all ($7::text[])
            order by t.started_at desc
            limit ${MOST_CANDIDATES})`;

/**
 * Ids that begin with a text. The range lets the index over a column serve in every collation, since no id holds anything
 * that is sorted behind `z`; the second condition then decides.
 */
const begins = (id: string) =>
  `${id} >= $1::text and ${id} <= $1::text || repeat('z', 64) and starts_with(${id}, $1::text)`;

/** Ids in a table of turns, which is read scope by scope. */
const beginning = (id: string, table: string, column = id) => `
    (select t.id, t."sessionId"
       from every_scope
      cross join lateral (
        select ${id} as id, t.session_id as "sessionId" from ${table} t
         where t.scope = every_scope.scope and ${column} is not null and ${begins(id)}
         limit $2) t
      limit $2)`;

/** For operators, who know no scope. */
export const idsBeginning = {
  name: 'holdfast_ids_beginning',
  text: [
    `
    (select s.id, s.id as "sessionId" from bridge_session s where ${begins('s.id')} limit $2)`,
    beginning('t.id', 'any_turn'),
    beginning('holdfast_key(t.response_id)', 'turn', 't.response_id'),
  ].join('\n    union all'),
};

/**
 * Everything that the resolver needs, from one snapshot: the anchor's turn, the turns that end at the given places, the
 * sessions named by these, the token and the key, and the heads and owners of those sessions. A closed session is not
 * found; its turns still are.
 *
 * A turn can match at most three times, once per column. So `3 * MOST_CANDIDATES` hits are enough for all candidates. Rows
 * carry only ids until the end, so that no out-of-line column of a turn is fetched. The sessions are read one by one
 * (`limit` enforces it): for a handful of ids the planner would otherwise scan the whole table, up to some thousand
 * sessions.
 */
export const lookup = {
  name: 'holdfast_lookup',
  text: `
    with anchor_turn as materialized (
      select t.id, t.session_id
        from turn t
       where t.scope = $1::text and holdfast_key(t.response_id) = holdfast_key($2::text) and t.response_id = $2::text
    ),
    hit as materialized (
      select place.depth, t.id, t.session_id, t.started_at
        from unnest($6::text[]) with ordinality as place (fp, depth)
       cross join lateral (${['transcript_fp', 'second_fp', 'third_fp'].map(endingAt).join('\n          union all')}
        ) t
       order by place.depth, t.started_at desc
       limit ${3 * MOST_CANDIDATES}
    ),
    candidate as materialized (
      select h.id, h.session_id, min(h.depth) as depth, h.started_at
        from hit h
       group by h.id, h.session_id, h.started_at
       order by min(h.depth), h.started_at desc
       limit ${MOST_CANDIDATES}
    ),
    keyed as materialized (
      select k.session_id as id
        from session_key k
       where k.scope = $1::text and k.kind = $4::text and k.hash = $5::text
    ),
    named as materialized (
      select $3::text as id
       union select a.session_id from anchor_turn a
       union select k.id from keyed k
       union select c.session_id from candidate c
    ),
    found as materialized (
      select one.*
        from named n
       cross join lateral (
         select s.* from bridge_session s
          where s.scope = $1::text and s.id = n.id and s.state <> 'closed' limit 1) one
    )
    select json_build_object(
      'anchorTurn', (select ${turnJson('t')} from turn t join anchor_turn a on t.scope = $1::text and a.id = t.id),
      'keyed', (select k.id from keyed k),
      'candidates', coalesce(
        (select json_agg(${turnJson('t')} order by c.depth, c.started_at desc)
           from candidate c join turn t on t.scope = $1::text and t.id = c.id), '[]'),
      'sessions', coalesce((select json_agg(${sessionJson('f')}) from found f), '[]'),
      'named', coalesce(
        (select json_agg(distinct k.session_id)
           from session_key k
          where k.scope = $1::text and k.session_id in (select f.id from found f)), '[]'),
      'heads', coalesce(
        (select json_agg(${turnJson('t')})
           from any_turn t
          where t.scope = $1::text and t.id in (select f.head_turn_id from found f)), '[]'),
      'owners', coalesce(
        (select json_agg(${workerJson('w')})
           from worker w
          where w.id in (select f.owner_worker_id from found f)), '[]')
    )::text as answer`,
} as const;

/** One turn, running or ended. */
export const oneTurn = {
  name: 'holdfast_turn',
  text: `select ${turnJson('t')} as row from any_turn t where t.scope = $1::text and t.id = $2::text`,
} as const;

/**
 * Newest turns with the same request fingerprint that may be reattached to. Their number is bounded, however often the
 * request was made.
 */
export const repeated = {
  name: 'holdfast_repeated',
  text: `
    select json_build_object('turn', ${turnJson('newest')}, 'author', ${workerJson('w')})::text as answer
      from (
        select t.*
          from any_turn t
         where hashtextextended(t.scope || t.request_fp, 0) = hashtextextended($1::text || $2::text, 0)
           and t.request_fp = $2::text and t.scope = $1::text
         order by t.started_at desc
         limit ${MOST_REPEATED}) newest
      join worker w on w.id = newest.author_worker_id
     where newest.state = 'active'
        or (newest.state in ('completed', 'incomplete')
            and newest.ended_at > now() - $3::float8 * interval '1 millisecond')
     order by newest.started_at desc`,
} as const;

/** Newest turns whose output holds an item, for each given id. */
export const references = {
  name: 'holdfast_references',
  text: `
    select wanted.item_id as "itemId", t.id as "turnId", t.stored_upstream as "storedUpstream",
           t.credential_fp as "credentialFp"
      from unnest($2::text[]) with ordinality as wanted (item_id, nth)
     cross join lateral (
       select i.turn_id, i.started_at
         from turn_item i
        where i.scope = $1::text and i.item_id = wanted.item_id
        order by i.started_at desc
        limit ${TURNS_PER_ITEM}) i
      join turn t on t.scope = $1::text and t.id = i.turn_id
     order by i.started_at desc, wanted.nth`,
} as const;

/**
 * Ids of a turn and its ancestors within the scope. `union` drops known rows, so a cycle terminates. The rows are
 * unordered; `rootFirst` sorts them.
 *
 * Here and below, `limit 1` makes the planner read row by row through the primary key: for a line it would otherwise
 * estimate enough rows to hash a whole table, as PostgreSQL 15 does.
 */
const line = `
    with recursive line as (
      select t.id, t.parent_turn_id
        from any_turn t
       where t.scope = $1::text and t.id = $2::text
      union
      select parent.id, parent.parent_turn_id
        from line
       cross join lateral (
         select t.id, t.parent_turn_id from any_turn t
          where t.scope = $1::text and t.id = line.parent_turn_id limit 1) parent
    )`;

/** The line with its rows and items. The recursion carries only ids; rows and items are fetched once. */
export const lineage = {
  name: 'holdfast_lineage',
  text: `${line}
    select ${turnJson('one')}::text as turn, items.input, items.output, items.shared
      from line
     cross join lateral (select t.* from any_turn t where t.scope = $1::text and t.id = line.id limit 1) one
      left join lateral (
        select i.input, i.output, i.shared from turn_items i
         where i.scope = $1::text and i.turn_id = line.id limit 1) items on true`,
} as const;

/** The line reduced to what matching its items requires. */
export const lineForms = {
  name: 'holdfast_line',
  text: `${line}
    select one.id, one.parent_turn_id as "parentTurnId", one.forms
      from line
     cross join lateral (
       select t.id, t.parent_turn_id, t.forms from any_turn t
        where t.scope = $1::text and t.id = line.id limit 1) one`,
} as const;

/** Large items of a scope by their hashes. */
export const sharedItems = {
  name: 'holdfast_shared_items',
  text: 'select hash, data from shared_item where scope = $1::text and hash = any($2::text[])',
} as const;
