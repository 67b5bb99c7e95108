import { columnsOf, endColumns, startColumns, Turn } from '../../entities.ts';
import { sessionJson } from '../statements.ts';

/**
 * The fence: functions that check owner, nonce, epoch and head before they write. `src/store/rules.ts` states the same rules
 * for rows outside the database; the contract of the store holds both to each other.
 *
 * All are VOLATILE plpgsql, so under READ COMMITTED every statement in them sees what was committed before that statement
 * began. Each function **locks the session row first and reads everything else after that**. A claim in a single statement
 * cannot do so: it re-reads the locked row but not the rows joined to it, and would take sessions from live owners.
 *
 * `p_scope` comes first and is named for every table but `worker`: a call reads and writes one shard of a distributed
 * database, or one partition, and cannot touch a row of another scope.
 *
 * `lock_timeout` keeps backends from queueing behind a locked row. Its error counts as `unknown`.
 *
 * `enable_seqscan = off`: every row is read by a key. Statements of a function are planned once per connection; in a new
 * database, before the first `analyze`, the planner takes `turn` for a table of one page and would read it whole for as
 * long as it grows (half the commits per second after 2,000 turns).
 *
 * Old and new workers share the database during a rolling restart. After the first release, a change of a function's
 * parameters, or of the meaning of its answer, therefore needs a new function name.
 */

const turnColumns = new Map(columnsOf(Turn).map((column) => [column.property, column]));
const started = startColumns.map((property) => turnColumns.get(property)!);
const ended = endColumns.map((property) => turnColumns.get(property)!);

/** Parameters of a started turn, and its columns with their values. */
const startParameters = started.map(({ name, type }) => `p_turn_${name} ${type}`).join(', ');
const startNames = started.map(({ name }) => name).join(', ');
const startValues = started.map(({ name }) => `p_turn_${name}`).join(', ');

/**
 * Columns of an ended turn as fields of the call, all as text. Parsing the call decodes strings of JSON that a provider wrote,
 * and `\u0000` cannot be decoded.
 */
const endFields = ended.map(({ name }) => `${name} text`).join(', ');
/** Facts of the bridge stay as they were recorded first. */
const endAssignments = ended
  .map(({ name, type }) => {
    const value = type === 'json' ? `c.${name}::json` : `c.${name}`;
    return `t.${name} := ${name === 'facts' ? `coalesce(t.facts, ${value})` : value};`;
  })
  .join('\n  ');

/**
 * Inserts session, keys and first turn, or nothing.
 *
 * Two calls for the same new key race on the primary key of `session_key`; the loser's inserts are rolled back to the
 * savepoint of the inner block. `inserting` tells which insert failed: the name in the error would be that of a partition's
 * or a shard's constraint. Two copies of the *same* call race on the session's primary key, which is inserted first,
 * so a copy never takes its own keys for those of another session. A copy that arrives after its turn has ended, or after
 * its session was claimed, is `fenced`: it must not cause a frame to be sent.
 *
 * The remaining lease is computed with `clock_timestamp()`, because `now()` is the start of the call, before it waited for
 * locks. The check that the turn's id has not ended in another session comes last: if it is just ending there, the insert
 * waits for that first.
 */
const create = `create or replace function holdfast_create(
  p_scope text, p_session text, p_me text, p_nonce text,
  p_upstream text, p_model text, p_head text, p_key_kinds text[], p_key_hashes text[],
  ${startParameters},
  p_state text, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  s bridge_session;
  session_exists boolean;
  lease_left float8;
  inserting text;
begin
  for attempt in 1..2 loop
    select * into s from bridge_session where scope = p_scope and id = p_session for update;
    session_exists := found;
    select floor(extract(epoch from heartbeat_expires_at - clock_timestamp()) * 1000) into lease_left
      from worker where id = p_me and state <> 'dead';
    if not found then
      return json_build_object('verdict', 'fenced');
    end if;
    if session_exists then
      if s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = 1 and s.active_turn_id = p_turn_id then
        return json_build_object(
          'verdict', 'already', 'leaseLeftMs', lease_left, 'epoch', s.epoch, 'revision', s.revision);
      end if;
      return json_build_object('verdict', 'fenced');
    end if;
    begin
      inserting := 'session';
      insert into bridge_session (
        scope, id, state, snapshot, machine_version, revision, owner_worker_id, owner_nonce, epoch,
        active_turn_id, head_turn_id, fork_turn_id, upstream_id, model
      ) values (
        p_scope, p_session, p_state, p_snapshot, p_machine_version, 1, p_me, p_nonce, 1,
        p_turn_id, p_head, p_head, p_upstream, p_model
      );
      inserting := 'keys';
      insert into session_key (scope, kind, hash, session_id)
        select p_scope, wanted.kind, wanted.hash, p_session
          from unnest(p_key_kinds, p_key_hashes) as wanted(kind, hash)
         order by wanted.kind, wanted.hash;
      inserting := 'turn';
      insert into active_turn (scope, session_id, epoch, author_worker_id, state, replay, ${startNames})
        values (p_scope, p_session, 1, p_me, 'active', 'never', ${startValues});
      if exists (select from turn where scope = p_scope and id = p_turn_id) then
        raise exception 'turn % exists in another session', p_turn_id;
      end if;
      return json_build_object('verdict', 'ok', 'leaseLeftMs', lease_left, 'epoch', 1, 'revision', 1);
    exception when unique_violation then
      if inserting = 'keys' then
        return json_build_object('verdict', 'key_taken');
      elsif inserting <> 'session' then
        raise;
      end if;
    end;
  end loop;
  raise exception 'session % exists and cannot be read', p_session;
end
$$`;

/**
 * Moves a session from "no turn active, head H, epoch E" to "turn T active", or does nothing.
 *
 * An existing turn row is either the active one (a repeat of this call: `already`) or has ended: a late copy of the call
 * must never activate it again (`ended`). An unknown session has no owner, so the check of the owner refuses it. The check
 * that the id has not ended in another session comes last: if it is just ending there, the insert waits for that, and only
 * then is the result certain.
 */
const start = `create or replace function holdfast_start(
  p_scope text, p_session text, p_me text, p_nonce text, p_epoch bigint, p_expected_head text,
  ${startParameters},
  p_state text, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  s bridge_session;
  lease_left float8;
begin
  select * into s from bridge_session where scope = p_scope and id = p_session for update;
  if (s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = p_epoch) is not true then
    return json_build_object('verdict', 'fenced');
  end if;
  select floor(extract(epoch from heartbeat_expires_at - clock_timestamp()) * 1000) into lease_left
    from worker where id = p_me and state <> 'dead';
  if not found then
    return json_build_object('verdict', 'fenced');
  end if;
  if exists (select from any_turn where scope = p_scope and id = p_turn_id) then
    if s.active_turn_id = p_turn_id then
      return json_build_object('verdict', 'already', 'leaseLeftMs', lease_left, 'revision', s.revision);
    end if;
    return json_build_object('verdict', 'ended');
  end if;
  if s.active_turn_id is not null then
    return json_build_object('verdict', 'busy');
  end if;
  if s.head_turn_id is distinct from p_expected_head then
    return json_build_object('verdict', 'head_moved');
  end if;
  insert into active_turn (scope, session_id, epoch, author_worker_id, state, replay, ${startNames})
    values (p_scope, p_session, p_epoch, p_me, 'active', 'never', ${startValues});
  if exists (select from turn where scope = p_scope and id = p_turn_id) then
    raise exception 'turn % exists in another session', p_turn_id;
  end if;
  update bridge_session
     set active_turn_id = p_turn_id,
         state = p_state,
         snapshot = p_snapshot,
         machine_version = p_machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where scope = p_scope and id = p_session;
  return json_build_object('verdict', 'ok', 'leaseLeftMs', lease_left, 'revision', s.revision + 1);
end
$$`;

/**
 * Records the end of a turn: writes its final row and removes the running one. The author always completes the turn row;
 * the head moves only under the fence, and only to a completed or incomplete turn.
 *
 * The first recorded end stays, except that the author's real end replaces `lost` (which another worker, or the cleanup of
 * an orphan, may have written while the author was still receiving). The items of a replaced end are deleted with its row,
 * so that everything of the new end is inserted fresh. A turn whose end was recorded outside the fence stays `branched`, so
 * a repeated call gets the same answer as the first one. Nothing is written for a turn that the caller did not start, nor by
 * a call whose end is not kept. An unknown session has no turns, so its settle finds none.
 *
 * `p_call` carries everything but the binary data. Shared items are locked in the order of their hashes before they are
 * referenced: an item that the janitor is about to remove is either seen as referenced or inserted again.
 */
const settle = `create or replace function holdfast_settle(
  p_scope text, p_call json, p_input bytea, p_output bytea, p_hashes text[], p_data bytea[]
) returns json language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  c record;
  s record;
  t turn;
  runs boolean;
  under_fence boolean;
  moves_head boolean;
begin
  select * into c from json_to_record(p_call) as c (
    session text, me text, nonce text, epoch bigint, turn text, ended text,
    ${endFields},
    shared text, item_ids text[], anchor_lost boolean, state text, snapshot text, machine_version integer);
  select owner_worker_id, owner_nonce, epoch, active_turn_id, head_turn_id, anchor_lost, revision into s
    from bridge_session where scope = p_scope and id = c.session for update;
  select * into t from active_turn where scope = p_scope and id = c.turn and session_id = c.session;
  runs := found;
  if not runs then
    select * into t from turn where scope = p_scope and id = c.turn and session_id = c.session;
  end if;
  if not found or t.author_worker_id <> c.me or t.epoch <> c.epoch then
    return json_build_object('verdict', 'branch');
  end if;
  if not runs and (t.state <> 'lost' or c.ended = 'lost') then
    return json_build_object('verdict', case when t.branched then 'branch' else 'already' end);
  end if;
  under_fence := coalesce(
    s.owner_worker_id = c.me and s.owner_nonce = c.nonce and s.epoch = c.epoch and s.active_turn_id = c.turn, false);
  moves_head := c.ended in ('completed', 'incomplete');
  t.state := c.ended;
  t.branched := not under_fence;
  ${endAssignments}
  t.ended_at := now();
  if runs then
    delete from active_turn where scope = p_scope and id = c.turn;
  else
    delete from turn where scope = p_scope and id = c.turn;
  end if;
  insert into turn select t.*;
  if p_hashes is not null then
    insert into shared_item (scope, hash, data)
      select p_scope, n.hash, n.data from unnest(p_hashes, p_data) as n (hash, data) order by n.hash
      on conflict (scope, hash) do update set hash = excluded.hash;
  end if;
  if p_input is not null then
    insert into turn_items (scope, turn_id, input, output, shared)
      values (p_scope, c.turn, p_input, p_output, c.shared::json);
  end if;
  if p_hashes is not null then
    insert into turn_shared_item (scope, turn_id, hash)
      select p_scope, c.turn, hash from unnest(p_hashes) as hash;
  end if;
  if c.item_ids is not null then
    insert into turn_item (scope, turn_id, item_id, started_at)
      select p_scope, c.turn, item_id, t.started_at from unnest(c.item_ids) as item_id;
  end if;
  if not under_fence then
    return json_build_object('verdict', 'branch');
  end if;
  update bridge_session
     set active_turn_id = null,
         head_turn_id = case when moves_head then c.turn else s.head_turn_id end,
         anchor_lost = c.anchor_lost or (s.anchor_lost and not moves_head),
         state = c.state,
         snapshot = c.snapshot::jsonb,
         machine_version = c.machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where scope = p_scope and id = c.session;
  return json_build_object('verdict', 'ok', 'revision', s.revision + 1);
end
$$`;

/**
 * Takes a session over: epoch + 1 under a new nonce.
 *
 * An idle session may be claimed at any time by a worker that read its current epoch and revision. A session with an active
 * turn may be claimed only after its owner is stored as dead. Leases are never compared here: a lease read before the lock
 * proves nothing after it. An owner without a row (lost in a failover) gets one with a full lease, which then expires like
 * any other; without it the session could never be claimed again.
 *
 * A turn left running by a dead owner ends as `lost` and is moved to the ended turns. A session whose turn row is missing
 * (lost in a failover) can still be claimed.
 */
const claim = `create or replace function holdfast_claim(
  p_scope text, p_session text, p_me text, p_nonce text, p_epoch_read bigint, p_revision_read bigint
) returns json language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  s bridge_session;
  t turn;
  own_state text;
  owner_state text;
begin
  select * into s from bridge_session where scope = p_scope and id = p_session for update;
  if not found or s.state = 'closed' then
    return json_build_object('verdict', 'lost_race');
  end if;
  -- From one snapshot: a death in between would show an owner as dead and the caller, who may be the same worker, as alive.
  select (select w.state from worker w where w.id = p_me), (select w.state from worker w where w.id = s.owner_worker_id)
    into own_state, owner_state;
  if own_state is null or own_state = 'dead' then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = p_epoch_read + 1 then
    return json_build_object('verdict', 'row', 'row', ${sessionJson('s')}, 'lostTurnId', s.lost_turn_id);
  end if;
  if s.epoch <> p_epoch_read or s.revision <> p_revision_read then
    return json_build_object('verdict', 'lost_race');
  end if;
  if s.active_turn_id is not null then
    if owner_state is null then
      insert into worker (id, state, version, heartbeat_expires_at)
        values (s.owner_worker_id, 'serving', 'unknown', now() + interval '10 seconds')
        on conflict (id) do nothing;
    end if;
    if owner_state is distinct from 'dead' then
      return json_build_object('verdict', 'busy');
    end if;
    delete from active_turn where scope = p_scope and id = s.active_turn_id returning * into t;
    if found then
      t.state := 'lost';
      t.branched := true;
      t.ended_at := now();
      insert into turn select t.*;
    end if;
  end if;
  update bridge_session
     set owner_worker_id = p_me,
         owner_nonce = p_nonce,
         epoch = s.epoch + 1,
         active_turn_id = null,
         lost_turn_id = s.active_turn_id,
         state = 'stale',
         revision = s.revision + 1,
         updated_at = now()
   where scope = p_scope and id = p_session
  returning * into s;
  return json_build_object('verdict', 'row', 'row', ${sessionJson('s')}, 'lostTurnId', s.lost_turn_id);
end
$$`;

/**
 * Gives an idle session up. The owner of an active turn is never cleared: such a session could never be claimed again,
 * because no death is ever recorded for a missing owner. Only claims raise the epoch, so an unowned session at the caller's
 * epoch is one that the caller has released before.
 */
const release = `create or replace function holdfast_release(
  p_scope text, p_session text, p_me text, p_nonce text, p_epoch bigint,
  p_state text, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  s bridge_session;
begin
  select * into s from bridge_session where scope = p_scope and id = p_session for update;
  if not found or s.epoch <> p_epoch then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.owner_worker_id is null then
    return json_build_object('verdict', 'already');
  end if;
  if s.owner_worker_id <> p_me or s.owner_nonce <> p_nonce then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.active_turn_id is not null then
    return json_build_object('verdict', 'busy');
  end if;
  update bridge_session
     set owner_worker_id = null,
         owner_nonce = null,
         state = p_state,
         snapshot = p_snapshot,
         machine_version = p_machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where scope = p_scope and id = p_session;
  return json_build_object('verdict', 'ok');
end
$$`;

/**
 * Closes an idle session permanently and frees its keys in the same call. No lookup by key or token finds a closed session.
 * An unknown session has no owner, so the check of the owner refuses it.
 */
const close = `create or replace function holdfast_close(
  p_scope text, p_session text, p_me text, p_nonce text, p_epoch bigint, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  s bridge_session;
begin
  select * into s from bridge_session where scope = p_scope and id = p_session for update;
  if s.epoch <> p_epoch then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.state = 'closed' then
    return json_build_object('verdict', 'already');
  end if;
  if (s.owner_worker_id = p_me and s.owner_nonce = p_nonce) is not true then
    return json_build_object('verdict', 'fenced');
  end if;
  if s.active_turn_id is not null then
    return json_build_object('verdict', 'busy');
  end if;
  delete from session_key where scope = p_scope and session_id = p_session;
  update bridge_session
     set owner_worker_id = null,
         owner_nonce = null,
         state = 'closed',
         snapshot = p_snapshot,
         machine_version = p_machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where scope = p_scope and id = p_session;
  return json_build_object('verdict', 'ok');
end
$$`;

/**
 * Operators' actions on an idle session, by its id alone: its scope is looked up first. A single statement would decide on data read before it waited, and could take a
 * session at the moment one of its turns starts.
 */
const operate = `create or replace function holdfast_operate(p_session text, p_action text) returns text
language plpgsql volatile set lock_timeout = '2s' set enable_seqscan = off as $$
declare
  s bridge_session;
  own_scope text;
begin
  select scope into own_scope from bridge_session where id = p_session;
  select * into s from bridge_session where scope = own_scope and id = p_session for update;
  if not found or s.state = 'closed' then
    return 'missing';
  end if;
  if s.active_turn_id is not null then
    return 'busy';
  end if;
  update bridge_session
     set owner_worker_id = null,
         owner_nonce = null,
         state = case when p_action = 'close' then 'closed' else 'stale' end,
         epoch = s.epoch + 1,
         revision = s.revision + 1,
         updated_at = now()
   where scope = own_scope and id = p_session;
  if p_action = 'close' then
    delete from session_key where scope = own_scope and session_id = p_session;
  elsif p_action = 'drop-anchor' then
    update turn set stored_upstream = false where scope = own_scope and id = s.head_turn_id;
  end if;
  return 'ok';
end
$$`;

export const fence = [create, start, settle, claim, release, close, operate];
