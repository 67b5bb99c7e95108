import fc from 'fast-check';
import { expect, it } from 'vitest';
import { createActor } from 'xstate';
import { type SessionEvent, sessionMachine } from '../../machines/session.ts';
import { replay } from '../../src/observe/explain.ts';
import type { FlightRecord } from '../../src/observe/trace.ts';
import { createRecorder, endedBadly, type RecorderOptions } from '../../src/observe/trace.ts';
import { rehydrate } from '../../src/runtime/index.ts';
import { sessionProgram } from '../../src/session/session.ts';
import type { TurnLine } from '../../src/session/turn.ts';
import { TurnRecord } from '../../src/session/turn.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { reporting } from '../support/steps.ts';

const sessionId = '6d1f6a52-2b43-4d6e-9a5e-000000000001';
const turnId = '6d1f6a52-2b43-4d6e-9a5e-00000000000a';
const clock = createManualClock();
const recorderOf = (over: Partial<RecorderOptions> = {}) => createRecorder({ workerId: () => 'w1', clock, ...over });

const boolean = fc.boolean();
const generation = fc.integer({ min: 0, max: 4 });
const plain = (...types: string[]) => fc.constantFrom(...types).map((type) => ({ type }) as SessionEvent);
/** Arbitrary events of the machine; most generations are near those that a session reaches. */
const anyEvent: fc.Arbitrary<SessionEvent> = fc.oneof(
  plain(
    'turn.wanted',
    'client.gone',
    'client.back',
    'upstream.progress',
    'upstream.anchor_refused',
    'store.not_created',
  ),
  plain('store.head_moved', 'store.busy', 'store.cleared', 'store.fenced', 'deadline.connect', 'deadline.redial'),
  plain('deadline.start_wait', 'deadline.settle_wait', 'deadline.first_event', 'deadline.silence', 'deadline.grace'),
  plain(
    'deadline.turn_budget',
    'deadline.idle',
    'deadline.age',
    'operator.release',
    'operator.close',
    'worker.draining',
  ),
  plain('worker.dead', 'session.claimed', 'turn.wanted'),
  fc.record({ type: fc.constant('socket.opened' as const), generation }),
  fc.record({ type: fc.constant('socket.opened' as const), generation: fc.constant(1) }),
  fc.record({ type: fc.constant('socket.failed' as const), generation }),
  fc.record({ type: fc.constant('socket.refused' as const), generation }),
  fc.record({ type: fc.constant('socket.lost' as const), generation, resendable: boolean }),
  fc.record({ type: fc.constant('history.missing' as const), generation }),
  fc.record({
    type: fc.constant('frame.not_sent' as const),
    cause: fc.constantFrom('lease' as const, 'socket' as const),
  }),
  fc.record({ type: fc.constant('upstream.ended' as const), keepSocket: boolean }),
  fc.record({ type: fc.constant('store.started' as const), socketOpen: boolean, leaseValid: boolean }),
  fc.record({ type: fc.constant('store.settled' as const), socketOpen: boolean }),
  fc.record({ type: fc.constant('store.rejected' as const), rowExists: boolean }),
  fc.constant({ type: 'turn.cancelled' as const, reason: 'superseded' as const }),
);

/** Returns events with every value that makes a difference, for the socket of this generation. */
const variants = (at: number): SessionEvent[] => {
  const [yes, no] = [true, false];
  return [
    ...['turn.wanted', 'client.gone', 'client.back', 'upstream.progress', 'upstream.anchor_refused', 'store.busy'],
    ...['store.cleared', 'deadline.redial', 'deadline.start_wait', 'deadline.settle_wait', 'operator.release'],
  ]
    .map((type) => ({ type }) as SessionEvent)
    .concat(
      { type: 'socket.opened', generation: at },
      { type: 'socket.opened', generation: at },
      { type: 'socket.failed', generation: at },
      { type: 'socket.lost', generation: at, resendable: yes },
      { type: 'frame.not_sent', cause: 'socket' },
      { type: 'upstream.ended', keepSocket: yes },
      { type: 'store.started', socketOpen: yes, leaseValid: yes },
      { type: 'store.started', socketOpen: no, leaseValid: yes },
      { type: 'store.settled', socketOpen: yes },
      { type: 'store.rejected', rowExists: yes },
    );
};

/** Index into the events that the machine handles in its current state. */
const meant = fc.nat({ max: 1_000 });

const throughJson = (record: FlightRecord | null): FlightRecord => JSON.parse(JSON.stringify(record));

it('Any sequence of events replays from plain JSON to the snapshot that the actor reached', () => {
  const states = new Set<string>();
  let dropped = 0;
  fc.assert(
    fc.property(
      fc.array(fc.oneof(anyEvent, meant, meant), { maxLength: 80, size: '+1' }),
      fc.integer({ min: 4, max: 64 }),
      (wishes, capacity) => {
        const recorder = recorderOf({ events: capacity });
        const actor = createActor(sessionMachine, {
          id: `${sessionId}@1`,
          input: {},
          inspect: reporting(recorder.observe),
        });
        actor.start();
        for (const wish of wishes) {
          const now = actor.getSnapshot();
          if (now.status !== 'active') break;
          const fitting = variants(now.context.generation).filter((event) => now.can(event));
          const event = typeof wish === 'number' ? fitting[wish % Math.max(1, fitting.length)] : wish;
          if (event) actor.send(event);
        }
        const live = actor.getSnapshot();
        const record = throughJson(recorder.story(sessionId));
        const replayed = replay(record);
        states.add(JSON.stringify(live.value));
        dropped += record.dropped;
        expect(replayed.value).toEqual(live.value);
        expect(replayed.context).toEqual(live.context);
        expect(replayed.status).toBe(live.status);
        expect(record.events.length).toBeLessThanOrEqual(capacity);
      },
    ),
    { numRuns: 400, verbose: true },
  );
  // The sequences reach many states, and some are longer than what is kept.
  expect(states.size).toBeGreaterThan(15);
  expect(dropped).toBeGreaterThan(0);
});

it('The record of an actor that took a session over replays from its initial state', () => {
  const recorder = recorderOf();
  const { snapshot } = rehydrate(sessionProgram, {
    persisted: { value: { live: 'idle' }, context: { generation: 3, creates: 1, turns: 9, takeovers: 1 } },
    machineVersion: sessionProgram.version,
    input: {},
    takeover: { type: 'session.claimed' },
  });
  const older = createActor(sessionMachine, { id: `${sessionId}@1`, input: {}, inspect: reporting(recorder.observe) });
  older.start();
  const actor = createActor(sessionMachine, {
    id: `${sessionId}@2`,
    input: {},
    snapshot,
    inspect: reporting(recorder.observe),
  });
  actor.start();
  actor.send({ type: 'turn.wanted' });
  older.stop();
  actor.send({ type: 'socket.opened', generation: 4 });
  const record = throughJson(recorder.story(sessionId));
  expect(record).toMatchObject({ epoch: 2, base: { value: 'stale', context: { takeovers: 2, turns: 9 } } });
  expect(record.events.map(({ actor: who, event }) => `${who} ${event}`)).toEqual([
    'session@1 xstate.init',
    'session@2 xstate.init',
    'session@2 turn.wanted',
    'session@1 xstate.stop',
    'session@2 socket.opened',
  ]);
  expect(replay(record)).toMatchObject({ value: actor.getSnapshot().value, context: actor.getSnapshot().context });
});

it('A record whose beginning this machine does not know is refused', () => {
  const recorder = recorderOf();
  createActor(sessionMachine, { id: `${sessionId}@1`, input: {}, inspect: reporting(recorder.observe) }).start();
  const record = throughJson(recorder.story(sessionId));
  expect(() => replay({ ...record, base: null })).toThrow('no beginning');
  expect(() => replay({ ...record, base: { value: 'gone', context: {} } })).toThrow();
});

it('The events of a session and of its turns are listed in order with times, and repetitions are counted', () => {
  const recorder = recorderOf();
  const session = createActor(sessionMachine, {
    id: `${sessionId}@1`,
    input: {},
    inspect: reporting(recorder.observe),
  });
  session.start();
  const turn = new TurnRecord(turnId, { step: recorder.observe });
  recorder.place(turn, sessionId);
  turn.note({ type: 'queue' });
  clock.advance(250);
  for (let i = 0; i < 100; i += 1) session.send({ type: 'socket.lost', generation: 9, resendable: false });
  turn.note({ type: 'fail' });
  const { events, dropped } = recorder.story(sessionId)!;
  expect(events.map(({ actor, event, state, times }) => [actor, event, JSON.parse(state), times])).toEqual([
    ['session@1', 'xstate.init', { connecting: 'dialing' }, undefined],
    [`turn:${turnId}`, 'queue', 'queued', undefined],
    ['session@1', 'socket.lost', { connecting: 'dialing' }, 100],
    [`turn:${turnId}`, 'fail', 'failed', undefined],
  ]);
  expect(events[2]!.t - events[1]!.t).toBe(250);
  expect(dropped).toBe(0);
});

it('No field that could hold content or credentials is recorded', () => {
  const recorder = recorderOf();
  const session = createActor(sessionMachine, {
    id: `${sessionId}@1`,
    input: {},
    inspect: reporting(recorder.observe),
  });
  session.start();
  session.send({ type: 'socket.opened', generation: 1, headers: { authorization: 'sk-1' } } as never);
  session.send({ type: 'turn.cancelled', reason: 'the whole prompt', input: 'a prompt' } as never);
  expect(JSON.stringify(recorder.story(sessionId))).not.toMatch(/prompt|sk-1/);
});

it('Ended sessions are remembered for a while, and running ones always', () => {
  const recorder = recorderOf({ ended: 3 });
  const start = (id: string) => {
    const actor = createActor(sessionMachine, { id: `${id}@1`, input: {}, inspect: reporting(recorder.observe) });
    actor.start();
    return actor;
  };
  const id = (n: number) => `${sessionId.slice(0, -2)}${10 + n}`;
  start(id(0));
  for (let n = 1; n <= 6; n += 1) start(id(n)).stop();
  expect([0, 1, 2, 3, 4, 5, 6].map((n) => recorder.story(id(n)) !== null)).toEqual([
    true,
    ...[false, false, false],
    ...[true, true, true],
  ]);
  expect(recorder.size).toBe(4);
});

const line = (over: Partial<TurnLine> = {}): TurnLine => ({
  ...{ response: null, tenant: 'local', key: null, model: 'm', status: 200, ownMs: 3 },
  ...{
    request: 'r',
    session: sessionId,
    epoch: 1,
    turn: turnId,
    transport: 'http',
    outcome: 'created',
    decidedBy: 'created',
    shape: 'fresh',
    form: 'full',
  },
  ...{
    terminal: 'lost',
    fault: 'bridge_upstream_lost',
    cause: null,
    upstreamStatus: null,
    upstreamRequest: null,
    heldMs: 3,
    firstEventMs: 9,
    totalMs: 40,
  },
  ...{ itemsFromClient: 1, itemsSent: 1, bytesFromClient: 9, bytesSent: 9, tokens: null, tokenIgnored: null },
  ...over,
});

it('A bad end is distinguished from ordinary ones', () => {
  expect(endedBadly(line())).toBe(true);
  expect(endedBadly(line({ terminal: 'cancelled', fault: 'bridge_lease_lapsed' }))).toBe(true);
  expect(endedBadly(line({ terminal: 'failed', fault: null, upstreamStatus: 503 }))).toBe(true);
  expect(endedBadly(line({ terminal: 'failed', fault: null, upstreamStatus: 400 }))).toBe(false);
  expect(endedBadly(line({ terminal: 'cancelled', fault: 'bridge_turn_cancelled' }))).toBe(false);
  expect(endedBadly(line({ terminal: 'completed', fault: null }))).toBe(false);
});

it('The story of a bad end is handed over, a bounded number per minute, and a receiver that throws is survived', () => {
  const taken: FlightRecord[] = [];
  const recorder = recorderOf({
    onBadEnd(_session, _turn, record) {
      taken.push(record);
      throw new Error('nowhere to put it');
    },
  });
  createActor(sessionMachine, { id: `${sessionId}@1`, input: {}, inspect: reporting(recorder.observe) }).start();
  recorder.turnEnded(line({ terminal: 'completed', fault: null }));
  recorder.turnEnded(line({ session: null }));
  recorder.turnEnded(line({ session: 'unknown' }));
  expect(taken).toEqual([]);
  for (let i = 0; i < 100; i += 1) recorder.turnEnded(line());
  expect(taken.length).toBeLessThanOrEqual(60);
  const before = taken.length;
  expect(taken[0]).toMatchObject({ sessionId, ending: { turn: turnId, fault: 'bridge_upstream_lost', totalMs: 40 } });
  expect(JSON.parse(JSON.stringify(taken[0]))).toEqual(taken[0]);
  clock.advance(60_000);
  recorder.turnEnded(line());
  expect(taken.length).toBe(before + 1);
});

it('A record has the ending of the last turn only if that was a bad end', () => {
  const recorder = recorderOf();
  createActor(sessionMachine, { id: `${sessionId}@1`, input: {}, inspect: reporting(recorder.observe) }).start();
  expect(recorder.story(sessionId)?.ending).toBeNull();
  recorder.turnEnded(line({ cause: 'ECONNREFUSED at h' }));
  expect(recorder.story(sessionId)?.ending).toMatchObject({ turn: turnId, cause: 'ECONNREFUSED at h' });
  recorder.turnEnded(line({ terminal: 'completed', fault: null }));
  expect(recorder.story(sessionId)?.ending).toBeNull();
});
