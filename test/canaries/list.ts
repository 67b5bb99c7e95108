/** A planted bug: one small weakening, and the tests that must notice it. */
export interface Canary {
  name: string;
  file: string;
  find: string;
  replace: string;
  /** Test files, relative to the project. */
  tests: readonly string[];
}

const store = ['test/store/postgres.test.ts', 'test/store/races.test.ts'];
const memory = ['test/store/memory.test.ts'];
const bridge = ['test/bridge/store-trouble.test.ts', 'test/bridge/recovery.test.ts', 'test/bridge/retries.test.ts'];
const machines = ['test/machines'];

export const canaries: readonly Canary[] = [
  {
    name: 'release without the fence',
    file: 'src/store/migrations/fence/release.ts',
    find: 'if s.owner_worker_id <> p_me or s.owner_nonce <> p_nonce then',
    replace: 'if false then',
    tests: store,
  },
  {
    name: 'release clears the owner of an active turn',
    file: 'src/store/migrations/fence/release.ts',
    find: 'if s.active_turn_id is not null then',
    replace: 'if false then',
    tests: store,
  },
  {
    name: 'claim takes a busy session from a live owner',
    file: 'src/store/migrations/fence/claim.ts',
    find: "if owner_state <> 'dead' then",
    replace: 'if false then',
    tests: store,
  },
  {
    name: 'claim does not raise the epoch',
    file: 'src/store/migrations/fence/claim.ts',
    find: 'epoch = s.epoch + 1,',
    replace: 'epoch = s.epoch,',
    tests: store,
  },
  {
    name: 'claim accepts rows that moved since they were read',
    file: 'src/store/migrations/fence/claim.ts',
    find: 's.epoch <> p_epoch_read or s.revision <> p_revision_read',
    replace: 'false',
    tests: store,
  },
  {
    name: 'claim by a worker that was declared dead',
    file: 'src/store/migrations/fence/claim.ts',
    find: "if not exists (select from worker where id = p_me and state <> 'dead') then",
    replace: 'if false then',
    tests: store,
  },
  {
    name: 'a claim whose answer was lost fences itself',
    file: 'src/store/migrations/fence/claim.ts',
    find: 's.epoch = p_epoch_read + 1 then',
    replace: 'false then',
    tests: store,
  },
  {
    name: 'start ignores the expected head',
    file: 'src/store/migrations/fence/start.ts',
    find: 's.head_turn_id is distinct from p_expected_head',
    replace: 'false',
    tests: store,
  },
  {
    name: 'start by a dead worker',
    file: 'src/store/migrations/fence/start.ts',
    find: "from worker where id = p_me and state <> 'dead';",
    replace: 'from worker where id = p_me;',
    tests: store,
  },
  {
    name: 'a late copy of a start wakes an ended turn',
    file: 'src/store/migrations/fence/start.ts',
    find: "return json_build_object('verdict', 'ended');",
    replace: "return json_build_object('verdict', 'ok', 'leaseLeftMs', lease_left, 'revision', s.revision);",
    tests: store,
  },
  {
    name: 'settle moves the head without the fence',
    file: 'src/store/migrations/fence/settle.ts',
    find: 'if not under_fence then',
    replace: 'if false then',
    tests: store,
  },
  {
    name: 'failed turns become heads',
    file: 'src/store/migrations/fence/settle.ts',
    find: "moves_head boolean := p_end in ('completed', 'incomplete');",
    replace: 'moves_head boolean := true;',
    tests: store,
  },
  {
    name: 'a heartbeat brings the dead back',
    file: 'src/store/migrations/fence/heartbeat.ts',
    find: " where id = p_id and state <> 'dead';",
    replace: ' where id = p_id;',
    tests: store,
  },
  {
    name: 'a live worker is declared dead',
    file: 'src/store/migrations/fence/declare-expired.ts',
    find: "and state <> 'dead' and heartbeat_expires_at < now();",
    replace: "and state <> 'dead';",
    tests: store,
  },
  {
    name: 'look-ups cross scopes',
    file: 'src/store/memory/reads.ts',
    find: "session && session.scope === scope && session.state !== 'closed'",
    replace: "session && session.state !== 'closed'",
    tests: memory,
  },
  {
    name: 'an unanswered call is read as fenced',
    file: 'src/session/commits.ts',
    find: "if (answer.verdict === 'unknown') return { unknown: answer.reason };",
    replace: "if (answer.verdict === 'unknown') return { event: { type: 'store.fenced' } };",
    tests: bridge,
  },
  {
    name: 'the frame leaves before the start is committed',
    file: 'machines/session.ts',
    find: `              target: 'committing',
              actions: 'commitStart',
              description: 'Ask the store for the right to start.',`,
    replace: `              target: 'committing',
              actions: ['countCreate', 'sendCreate', 'commitStart'],
              description: 'Ask the store for the right to start.',`,
    tests: [...bridge, ...machines],
  },
  {
    name: 'a lapsed lease is not looked at before the send',
    file: 'machines/session.ts',
    find: "event.type === 'store.started' && event.socketOpen && event.leaseValid,",
    replace: "event.type === 'store.started' && event.socketOpen,",
    tests: bridge,
  },
  {
    name: 'the terminal waits for ever when a settle is not answered',
    file: 'machines/session.ts',
    find: "meta: { deadlines: [{ name: 'settleWait', event: 'deadline.settle_wait' }] },",
    replace: '',
    tests: [...bridge, ...machines],
  },
  {
    name: 'the terminal is lost when a settle is refused',
    file: 'machines/session.ts',
    find: "actions: ['deliverTerminal', 'commitBareSettle'] as const,",
    replace: "actions: ['commitBareSettle'] as const,",
    tests: bridge,
  },
  {
    name: 'a third create',
    file: 'machines/session.ts',
    find: `      event.resendable &&
      context.creates < 2,`,
    replace: '      event.resendable,',
    tests: bridge,
  },
  {
    name: 'the socket of a cancelled turn is kept',
    file: 'machines/session.ts',
    find: "actions: [{ type: 'endTurn', params: cancelled }, 'closeSocket'],\n              description: 'Cancelled: the socket is retired, its late frames reach nobody.',",
    replace:
      "actions: [{ type: 'endTurn', params: cancelled }],\n              description: 'Cancelled: the socket is retired, its late frames reach nobody.',",
    tests: bridge,
  },
  {
    name: 'an anchor on a socket that does not hold it',
    file: 'src/transcript/planner.ts',
    find: 'const held = parentResponseId !== null && socketAnchor === parentResponseId;',
    replace: 'const held = parentResponseId !== null;',
    tests: bridge,
  },
  {
    name: 'a turn is sent again after its output was shown',
    file: 'src/session/resend.ts',
    find: 'if (turn.sawOutput || turn.stream.shown || turn.stream.finished) return false;',
    replace: '',
    tests: bridge,
  },
  {
    name: 'a token names a session that was recovered since',
    file: 'src/resolve/situation.ts',
    find: ' && byToken.epoch === token.epoch',
    replace: '',
    tests: ['test/resolve'],
  },
  {
    name: 'a stream is taken up by another request',
    file: 'src/resolve/situation.ts',
    find: 'if (actor.activeRequestFp === null || actor.activeRequestFp !== evidence.requestFp) return false;',
    replace: 'if (actor.activeRequestFp === null) return false;',
    tests: ['test/resolve', 'test/bridge/retries.test.ts'],
  },
  {
    name: 'an actor of an older epoch is used again',
    file: 'src/runtime/registry.ts',
    find: 'return entry?.epoch === epoch ? entry.value : undefined;',
    replace: 'return entry?.value;',
    tests: ['test/runtime'],
  },
  {
    name: 'a snapshot is restored into the state it was left in',
    file: 'src/runtime/rehydrate.ts',
    find: '    [snapshot] = transition(program.machine, base as never, options.takeover as never) as [typeof base, unknown];',
    replace: '',
    tests: ['test/runtime'],
  },
  {
    name: 'a deadline is not armed',
    file: 'src/runtime/timers.ts',
    find: 'for (const id of present) if (!armed.has(id)) armed.set(id, program.deadlines.get(id)!.map(arm));',
    replace: '',
    tests: ['test/runtime'],
  },
  {
    name: 'events overtake an unanswered commit',
    file: 'src/runtime/actor.ts',
    find: 'return urgent.shift() ?? (pending ? undefined : letters.shift());',
    replace: 'return urgent.shift() ?? letters.shift();',
    tests: ['test/runtime'],
  },
  {
    name: 'a queue slot is never given back',
    file: 'src/session/lane.ts',
    find: '      waiting = waiting.filter((each) => each !== turn);\n      return waiting.length < before;',
    replace: '      return waiting.includes(turn) && before > 0;',
    tests: bridge,
  },
  {
    name: 'an undelivered answer is thrown away',
    file: 'src/session/lane.ts',
    find: '      if (turn) linger(turn);',
    replace: '',
    tests: bridge,
  },
  {
    name: 'one changed word does not break the match of a transcript',
    file: 'src/transcript/identity.ts',
    find: "if (type === 'message') return canonical({ ...item, type, content: contentOf(item) }, omit);",
    replace: "if (type === 'message') return canonical({ type, role: item.role }, omit);",
    tests: ['test/property'],
  },
  {
    name: 'what cannot be said again exactly is approximated',
    file: 'src/transcript/replay.ts',
    find: "return added.every(isExactItem) ? 'exact' : 'anchor_only';",
    replace: "return 'exact';",
    tests: ['test/bridge/rotation.test.ts'],
  },
  {
    name: 'a hop is used twice',
    file: 'src/cluster/forward/spent.ts',
    find: "if (until.has(id)) return 'again';",
    replace: '',
    tests: ['test/forward'],
  },
  {
    name: 'the client’s own anchor is not shown',
    file: 'src/transcript/shown.ts',
    find: "const foreign = 'previous_response_id' in response && anchor !== form.previousResponseId;",
    replace: 'const foreign = false;',
    tests: bridge,
  },
];
