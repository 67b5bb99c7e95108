/** Plain reads of rows for the resolver's second look-up, the session explorer and the start of a worker. */
export const rowReads = {
  session: {
    name: 'holdfast_session',
    text: 'select holdfast_session_json(s)::text as answer from bridge_session s where s.id = $1::text',
  },
  turn: {
    name: 'holdfast_turn',
    text: 'select holdfast_turn_json(t)::text as answer from turn t where t.id = $1::text',
  },
  turnsOf: {
    name: 'holdfast_turns_of',
    text: `select holdfast_turn_json(t)::text as answer
             from turn t
            where t.session_id = $1::text
            order by t.started_at desc
            limit $2::integer`,
  },
  sessions: {
    name: 'holdfast_sessions',
    text: `select holdfast_session_json(s)::text as answer
             from bridge_session s
            order by s.created_at desc
            limit $1::integer`,
  },
  workers: {
    name: 'holdfast_workers',
    text: `select (holdfast_worker_json(w)::jsonb
                   || jsonb_build_object('leaseUntilMs', extract(epoch from w.heartbeat_expires_at) * 1000))::text as answer
             from worker w
            order by w.created_at`,
  },
  pepper: {
    name: 'holdfast_pepper',
    text: `select value as answer from holdfast_meta where name = 'pepper'`,
  },
} as const;
