/**
 * Records the end of a turn: writes its final row and removes the running one. See `../lines.ts` for the ends that may be
 * replaced. The items of a replaced end (`lost`) are deleted with its row, so that everything of the new end is inserted
 * fresh.
 */
export const settle = `create or replace function holdfast_settle(
  p_call json, p_input bytea, p_output bytea, p_hashes text[], p_data bytea[]
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  c record;
  s record;
  t turn;
  under_fence boolean;
  moves_head boolean;
begin
  select * into c from json_to_record(p_call) as c (
    session text, me text, nonce text, epoch bigint, turn text,
    ended text, response_id text, transcript_fp text, client_fp text, second_fp text, third_fp text, forms text,
    item_count integer, replay text, usage text, error text, facts text, shared text, item_ids text[],
    anchor_lost boolean, state text, snapshot text, machine_version integer);
  select owner_worker_id, owner_nonce, epoch, active_turn_id, head_turn_id, anchor_lost, revision into s
    from bridge_session where id = c.session for update;
  if not found then
    return json_build_object('verdict', 'branch');
  end if;
  select * into t from turn where id = c.turn and session_id = c.session;
  if not found or t.author_worker_id <> c.me or t.epoch <> c.epoch then
    return json_build_object('verdict', 'branch');
  end if;
  if t.state <> 'active' and (t.state <> 'lost' or c.ended = 'lost') then
    return json_build_object('verdict', case when t.branched then 'branch' else 'already' end);
  end if;
  under_fence := coalesce(
    s.owner_worker_id = c.me and s.owner_nonce = c.nonce and s.epoch = c.epoch and s.active_turn_id = c.turn, false);
  moves_head := c.ended in ('completed', 'incomplete');
  t.state := c.ended;
  t.branched := not under_fence;
  t.response_id := c.response_id;
  t.transcript_fp := c.transcript_fp;
  t.client_fp := c.client_fp;
  t.second_fp := c.second_fp;
  t.third_fp := c.third_fp;
  t.forms := c.forms;
  t.item_count := c.item_count;
  t.replay := c.replay;
  t.usage := c.usage::json;
  t.error := c.error::json;
  t.facts := coalesce(t.facts, c.facts::json);
  t.ended_at := now();
  delete from turn where id = c.turn;
  insert into turn select t.*;
  if p_hashes is not null then
    insert into shared_item (scope, hash, data)
      select t.scope, n.hash, n.data from unnest(p_hashes, p_data) as n (hash, data) order by n.hash
      on conflict (scope, hash) do update set hash = excluded.hash;
  end if;
  if p_input is not null then
    insert into turn_items (turn_id, input, output, shared) values (c.turn, p_input, p_output, c.shared::json);
  end if;
  if p_hashes is not null then
    insert into turn_shared_item (turn_id, scope, hash)
      select c.turn, t.scope, hash from unnest(p_hashes) as hash;
  end if;
  if c.item_ids is not null then
    insert into turn_item (turn_id, item_id, scope, started_at)
      select c.turn, item_id, t.scope, t.started_at from unnest(c.item_ids) as item_id;
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
   where id = c.session;
  return json_build_object('verdict', 'ok', 'revision', s.revision + 1);
end
$$`;
