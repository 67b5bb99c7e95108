import { expect, it } from 'vitest';
import { createActor } from 'xstate';
import { sessionMachine } from '../../machines/session.ts';
import { explain, stateText } from '../../src/observe/explain.ts';
import type { FlightRecord } from '../../src/observe/trace.ts';
import { createRecorder } from '../../src/observe/trace.ts';
import { TurnRecord } from '../../src/session/turn.ts';
import type { SessionRow, TurnRow, WorkerRow } from '../../src/store/port.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { reporting } from '../support/steps.ts';

const sessionId = '5e551000-2b43-4d6e-9a5e-000000000001';
const turnId = '70000000-2b43-4d6e-9a5e-00000000000a';
const workerId = 'aaaa1111-2b43-4d6e-9a5e-00000000000b';

/** Returns the record of a turn that is sent, answered, and then loses its socket during the output. */
function lostTurn(): FlightRecord {
  const clock = createManualClock(Date.UTC(2030, 0, 1, 12));
  const recorder = createRecorder({ workerId: () => workerId, clock });
  const session = createActor(sessionMachine, {
    id: `${sessionId}@2`,
    input: {},
    inspect: reporting(recorder.observe),
  });
  session.start();
  const turn = new TurnRecord(turnId, { step: recorder.observe });
  recorder.place(turn, sessionId);
  turn.note({ type: 'queue' });
  session.send({ type: 'socket.opened', generation: 1 });
  clock.advance(4);
  session.send({ type: 'store.started', socketOpen: true, leaseValid: true });
  turn.note({ type: 'commit' });
  turn.note({ type: 'send' });
  session.send({ type: 'upstream.progress' });
  session.send({ type: 'socket.lost', generation: 1, resendable: false });
  session.send({ type: 'client.back' });
  return {
    ...recorder.story(sessionId)!,
    ending: {
      ...{ turn: turnId, outcome: 'created', shape: 'fresh', form: 'full', terminal: 'lost', totalMs: 40 },
      ...{ fault: 'bridge_upstream_lost', upstreamStatus: null, heldMs: 4, firstEventMs: 9 },
    },
  };
}

const row = { state: 'stale', ownerWorkerId: workerId, epoch: 3, activeTurnId: null } as SessionRow;
const worker = { id: workerId, state: 'dead', leaseLeftMs: -5 } as WorkerRow;
const turnRow = { id: turnId, state: 'lost', authorWorkerId: workerId, epoch: 2 } as TurnRow;

it('A story gives the cause when the upstream could not be reached', () => {
  const lost = lostTurn();
  const rows = { session: row, turns: [turnRow], workers: [worker] };
  expect(explain(lost, rows).join()).not.toContain('Problem with the upstream');
  const story = explain({ ...lost, ending: { ...lost.ending!, cause: 'ECONNREFUSED at api.test' } }, rows);
  expect(story.at(-1)).toBe('Problem with the upstream connection: ECONNREFUSED at api.test.');
});

it('A story names the decision row if the record has it', () => {
  const lost = lostTurn();
  const rows = { session: row, turns: [turnRow], workers: [worker] };
  expect(explain(lost, rows).join()).not.toContain('Decided by row');
  expect(explain({ ...lost, ending: { ...lost.ending!, decidedBy: 'created' } }, rows)).toContain(
    'Decided by row created: No earlier row matches.',
  );
});

it('A story describes the owner, the events, and why the client got its answer', () => {
  const story = explain(lostTurn(), { session: row, turns: [turnRow], workers: [worker] });
  expect(story[0]).toBe('Session 5e551000, as recorded by worker aaaa1111 up to epoch 2.');
  expect(story[1]).toBe(
    'According to its row, the session is stale, owned by worker aaaa1111, which is dead, in epoch 3, with no turn active.',
  );
  expect(story).toContain('12:00:00.000 Turn 70000000 was placed on the session.');
  expect(story).toContain(
    '12:00:00.004 Epoch 2: the store granted the start; it went to live.streaming (flow.waiting, client.attached). ' +
      'The start is stored: send the frame.',
  );
  expect(story).toContain(
    '12:00:00.004 Epoch 2: socket 1 was lost; it went to live.settling.asking. ' +
      'The socket was lost and the turn must not be resent: it ends as lost.',
  );
  expect(story).toContain(
    '12:00:00.004 Epoch 2: a retry by the client resumed the stream, which has no effect in that state; ' +
      'it stayed in live.settling.asking.',
  );
  expect(story.at(-5)).toBe('Turn 70000000 was started by worker aaaa1111 in epoch 2 and is recorded as lost.');
  expect(story.at(-2)).toMatch(/^The client got 502 bridge_upstream_lost \(code bridge_upstream_lost\)/);
  expect(story.at(-1)).toMatch(/^Reason for the client's answer: bridge_upstream_lost: .+\./);
});

it('A story is written without rows, without an end, and for an unknown machine', () => {
  const nothing = { session: null, turns: [], workers: [] };
  const record = lostTurn();
  const running = explain({ ...record, ending: null, dropped: 12 }, nothing);
  expect(running[1]).toContain('no row');
  expect(running[2]).toBe('12 earlier events were dropped from the record.');
  expect(running.at(-1)).toContain('it stayed in live.settling.asking');
  const foreign = explain({ ...record, base: { value: 'unheard of', context: {} } }, nothing);
  expect(foreign.join('\n')).toContain('socket 1 was lost; it went to live.settling.asking.');
});

it('A story reports that the client received something else than what was recorded', () => {
  const rows = { session: row, turns: [{ ...turnRow, state: 'completed' } as TurnRow], workers: [] };
  expect(explain(lostTurn(), rows).join('\n')).toContain('is recorded as completed, but its client received lost.');
});

it('States are written in readable form', () => {
  expect(stateText('stale')).toBe('stale');
  expect(stateText({ live: 'idle' })).toBe('live.idle');
  expect(stateText({ live: { streaming: { flow: 'flowing', client: 'detached' } } })).toBe(
    'live.streaming (flow.flowing, client.detached)',
  );
});
