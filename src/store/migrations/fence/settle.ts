/**
 * Records the end of a turn. Its author always completes the turn row; the head moves only under the fence, and only to a
 * completed or incomplete turn.
 *
 * The first recorded end stays, except that the author's real end replaces `lost` (which another worker, or the cleanup of
 * an orphan, may have written while the author was still receiving). A turn whose end was recorded outside the fence stays
 * `branched`, so a repeated call gets the same answer as the first one.
 *
 * Nothing is written for a turn that the caller did not start. Such a turn, or a missing one, gets `branch`.
 */
export const settle = `create function holdfast_settle(
  p_session text, p_me text, p_nonce text, p_epoch bigint, p_turn text,
  p_end text, p_response_id text, p_input bytea, p_output bytea, p_transcript_fp text, p_item_count integer,
  p_replay text, p_usage json, p_error json, p_anchor_lost boolean,
  p_state text, p_snapshot jsonb, p_machine_version integer
) returns json language plpgsql volatile set lock_timeout = '2s' as $$
declare
  s bridge_session;
  t turn;
  under_fence boolean;
  moves_head boolean := p_end in ('completed', 'incomplete');
begin
  select * into s from bridge_session where id = p_session for update;
  if not found then
    return json_build_object('verdict', 'branch');
  end if;
  select * into t from turn where id = p_turn and session_id = p_session;
  if not found or t.author_worker_id <> p_me or t.epoch <> p_epoch then
    return json_build_object('verdict', 'branch');
  end if;
  if t.state <> 'active' and (t.state <> 'lost' or p_end = 'lost') then
    return json_build_object('verdict', case when t.branched then 'branch' else 'already' end);
  end if;
  under_fence := coalesce(
    s.owner_worker_id = p_me and s.owner_nonce = p_nonce and s.epoch = p_epoch and s.active_turn_id = p_turn, false);
  update turn
     set state = p_end,
         branched = not under_fence,
         response_id = p_response_id,
         transcript_fp = p_transcript_fp,
         item_count = p_item_count,
         replay = p_replay,
         usage = p_usage,
         error = p_error,
         ended_at = now()
   where id = p_turn;
  if p_input is not null then
    insert into turn_items (turn_id, input, output) values (p_turn, p_input, p_output)
      on conflict (turn_id) do update set input = excluded.input, output = excluded.output;
  end if;
  if not under_fence then
    return json_build_object('verdict', 'branch');
  end if;
  update bridge_session
     set active_turn_id = null,
         head_turn_id = case when moves_head then p_turn else s.head_turn_id end,
         anchor_lost = p_anchor_lost or (s.anchor_lost and not moves_head),
         state = p_state,
         snapshot = p_snapshot,
         machine_version = p_machine_version,
         revision = s.revision + 1,
         updated_at = now()
   where id = p_session;
  return json_build_object('verdict', 'ok', 'revision', s.revision + 1);
end
$$`;
