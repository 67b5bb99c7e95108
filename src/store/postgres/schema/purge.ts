/**
 * The janitor's functions, one per kind of row. A call examines at most `p_limit` rows in index order. It returns where the
 * next call continues (`after`) and whether there is more. Each row is checked with a few index look-ups, so the cost of a
 * call does not grow with the tables. The limit counts examined rows: a limit on removed rows would read all others on the
 * way. Rows locked by another transaction are skipped.
 *
 * Finding rows by age reads all scopes; everything else about a row names its scope.
 *
 * They are functions, and not statements of the query builder, because a step decides row by row on what it has just
 * locked, in one round trip.
 */

/**
 * **Sessions** unused for `p_hours`, latest first, so that a fork is purged before the turn it continues. A session is
 * closed and its turns are removed from the newest on. Turns that another session continues stay, and so does the closed
 * row. A session with more turns than one call may examine is continued by the next call. `updated_at` is not changed.
 */
const sessions = `create or replace function holdfast_purge_sessions(p_hours integer, p_after text[], p_limit integer) returns json
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  cutoff timestamptz := now() - make_interval(hours => p_hours);
  after_hour timestamp := coalesce(
    p_after[1]::timestamp, date_trunc('hour', cutoff at time zone 'UTC') + interval '1 hour');
  after_id text := coalesce(p_after[2], '');
  s record;
  t record;
  visited integer := 0;
  room integer := p_limit;
  kept boolean;
  taken boolean;
  sessions integer := 0;
  turns integer := 0;
begin
  for s in
    select scope, id, changed_hour from bridge_session
     where (changed_hour, id) < (after_hour, after_id)
     order by changed_hour desc, id desc
     limit p_limit
  loop
    exit when room = 0;
    visited := visited + 1;
    perform from bridge_session b
      where b.scope = s.scope and b.id = s.id and b.updated_at < cutoff
        and (b.active_turn_id is null or not exists (
          select from worker w
           where w.id = b.owner_worker_id and w.state <> 'dead' and w.heartbeat_expires_at >= cutoff))
      for update skip locked;
    if found then
      kept := false;
      taken := false;
      for t in
        select id from any_turn where scope = s.scope and session_id = s.id order by started_at desc limit room + 1
      loop
        if room = 0 then
          kept := true;
          exit;
        end if;
        room := room - 1;
        if exists (select from any_turn child where child.scope = s.scope and child.parent_turn_id = t.id)
          or exists (
            select from bridge_session b
             where b.scope = s.scope and b.fork_turn_id = t.id and b.head_turn_id = t.id and b.id <> s.id)
        then
          kept := true;
        else
          delete from turn where scope = s.scope and id = t.id;
          delete from active_turn where scope = s.scope and id = t.id;
          taken := true;
          turns := turns + 1;
        end if;
      end loop;
      if kept then
        update bridge_session
           set owner_worker_id = null,
               owner_nonce = null,
               active_turn_id = null,
               state = 'closed',
               epoch = epoch + 1,
               revision = revision + 1
         where scope = s.scope and id = s.id and state <> 'closed';
        delete from session_key where scope = s.scope and session_id = s.id;
      else
        delete from bridge_session where scope = s.scope and id = s.id;
        sessions := sessions + 1;
      end if;
      exit when room = 0 and kept and taken;
    end if;
    after_hour := s.changed_hour;
    after_id := s.id;
  end loop;
  return json_build_object(
    'removed', json_build_object('sessions', sessions, 'turns', turns),
    'after', array[after_hour::text, after_id],
    'more', room = 0 or visited = p_limit);
end
$$`;

/**
 * **Turns** that ended more than `p_hours` ago in sessions still in use, latest first, so that a whole abandoned line is
 * removed in one pass: those without a successor that are not the head of a session. A closed session does not need its
 * head.
 */
const turns = `create or replace function holdfast_purge_turns(p_hours integer, p_after text[], p_limit integer) returns json
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  after_at timestamptz := coalesce(p_after[1]::timestamptz, now() - make_interval(hours => p_hours));
  after_id text := coalesce(p_after[2], '');
  t record;
  visited integer := 0;
  turns integer := 0;
begin
  for t in
    select scope, id, session_id, ended_at from turn
     where (ended_at, id) < (after_at, after_id)
     order by ended_at desc, id desc
     limit p_limit
  loop
    visited := visited + 1;
    after_at := t.ended_at;
    after_id := t.id;
    continue when exists (select from any_turn child where child.scope = t.scope and child.parent_turn_id = t.id)
      or exists (
        select from bridge_session s
         where s.scope = t.scope and s.id = t.session_id and s.head_turn_id = t.id and s.state <> 'closed')
      or exists (
        select from bridge_session s
         where s.scope = t.scope and s.fork_turn_id = t.id and s.head_turn_id = t.id);
    delete from turn
     where scope = t.scope
       and id = (select id from turn where scope = t.scope and id = t.id for update skip locked);
    turns := turns + found::integer;
  end loop;
  return json_build_object(
    'removed', json_build_object('turns', turns),
    'after', array[after_at::text, after_id],
    'more', visited = p_limit);
end
$$`;

/** **Workers** silent for more than `p_hours` that no session names. */
const workers = `create or replace function holdfast_purge_workers(p_hours integer, p_after text[], p_limit integer) returns json
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  cutoff timestamptz := now() - make_interval(hours => p_hours);
  after_id text := coalesce(p_after[1], '');
  w record;
  visited integer := 0;
  workers integer := 0;
begin
  for w in select id from worker where id > after_id order by id limit p_limit loop
    visited := visited + 1;
    after_id := w.id;
    continue when exists (select from bridge_session where owner_worker_id = w.id);
    delete from worker
     where id = (
       select id from worker where id = w.id and heartbeat_expires_at < cutoff for update skip locked);
    workers := workers + found::integer;
  end loop;
  return json_build_object(
    'removed', json_build_object('workers', workers),
    'after', array[after_id],
    'more', visited = p_limit);
end
$$`;

/**
 * Removes shared items that no turn references. Locks them before it checks for references: a settle that is about to
 * reference one already holds the lock, or waits and inserts the item again.
 */
const dropShared = `create or replace function holdfast_drop_shared(p_scope text, p_hashes text[]) returns integer
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  held text[];
  dropped integer;
begin
  held := array(
    select hash from shared_item where scope = p_scope and hash = any (p_hashes) for update skip locked);
  delete from shared_item i
   where i.scope = p_scope and i.hash = any (held)
     and not exists (select from turn_shared_item n where n.scope = p_scope and n.hash = i.hash);
  get diagnostics dropped = row_count;
  return dropped;
end
$$`;

/** **Shared items** that no turn references. */
const shared = `create or replace function holdfast_purge_shared(p_hours integer, p_after text[], p_limit integer) returns json
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  after_scope text := coalesce(p_after[1], '');
  after_hash text := coalesce(p_after[2], '');
  i record;
  visited integer := 0;
  dropped integer := 0;
  hashes text[] := '{}';
begin
  for i in
    select scope, hash from shared_item
     where (scope, hash) > (after_scope, after_hash)
     order by scope, hash
     limit p_limit
  loop
    visited := visited + 1;
    if i.scope <> after_scope then
      dropped := dropped + holdfast_drop_shared(after_scope, hashes);
      hashes := '{}';
    end if;
    after_scope := i.scope;
    after_hash := i.hash;
    continue when exists (select from turn_shared_item n where n.scope = i.scope and n.hash = i.hash);
    hashes := hashes || i.hash;
  end loop;
  dropped := dropped + holdfast_drop_shared(after_scope, hashes);
  return json_build_object(
    'removed', json_build_object('shared', dropped),
    'after', array[after_scope, after_hash],
    'more', visited = p_limit);
end
$$`;

/**
 * **Objects**: responses in the background that were recorded more than `p_hours` ago. Their turns have ended since, or are
 * purged by now too.
 */
const objects = `create or replace function holdfast_purge_objects(p_hours integer, p_after text[], p_limit integer) returns json
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  cutoff timestamptz := now() - make_interval(hours => p_hours);
  after_at timestamptz := coalesce(p_after[1]::timestamptz, '-infinity');
  after_scope text := coalesce(p_after[2], '');
  after_id text := coalesce(p_after[3], '');
  o record;
  visited integer := 0;
  objects integer := 0;
begin
  for o in
    select scope, object_id, created_at from provider_object
     where kind = 'responses' and created_at < cutoff
       and (created_at, scope, object_id) > (after_at, after_scope, after_id)
     order by created_at, scope, object_id
     limit p_limit
  loop
    visited := visited + 1;
    after_at := o.created_at;
    after_scope := o.scope;
    after_id := o.object_id;
    delete from provider_object
     where scope = o.scope
       and object_id = (
         select object_id from provider_object
          where scope = o.scope and object_id = o.object_id for update skip locked);
    objects := objects + found::integer;
  end loop;
  return json_build_object(
    'removed', json_build_object('objects', objects),
    'after', array[after_at::text, after_scope, after_id],
    'more', visited = p_limit);
end
$$`;

/** Erases the content of a response: its items, its forms, and the shared items that only it referenced. */
const erase = `create or replace function holdfast_erase(p_scope text, p_response text) returns text
language plpgsql volatile set lock_timeout = '2s' as $$
declare
  erased text;
  hashes text[];
begin
  update turn
     set replay = 'never',
         forms = null
   where scope = p_scope and holdfast_key(response_id) = holdfast_key(p_response) and response_id = p_response
  returning id into erased;
  hashes := array(select hash from turn_shared_item where scope = p_scope and turn_id = erased);
  delete from turn_items where scope = p_scope and turn_id = erased;
  delete from turn_item where scope = p_scope and turn_id = erased;
  perform holdfast_drop_shared(p_scope, hashes);
  return erased;
end
$$`;

export const purge = [sessions, turns, workers, dropShared, shared, objects, erase];
