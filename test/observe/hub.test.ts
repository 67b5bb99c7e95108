import { expect, it } from 'vitest';
import { createInspectionHub, createSelection, type InspectionHub } from '../../src/observe/inspect/hub.ts';
import { createRecorder, type Recorder } from '../../src/observe/trace.ts';
import { startActor } from '../../src/runtime/index.ts';
import { sessionProgram } from '../../src/session/session.ts';
import { TurnRecord } from '../../src/session/turn.ts';
import { createManualClock } from '../../src/testing/index.ts';

interface Message {
  type: string;
  id: string;
  sessionId: string;
  rootId: string;
  parentId?: string;
  name?: string;
  definition?: string;
  createdAt: string;
  event?: Record<string, unknown>;
  snapshot?: { status: string; value: unknown; context: unknown };
}

const clock = createManualClock();
const sessionId = '6d1f6a52-2b43-4d6e-9a5e-000000000001';
const turnId = '6d1f6a52-2b43-4d6e-9a5e-00000000000a';

/** A hub with the recorder that it follows. */
type Hub = InspectionHub & Pick<Recorder, 'observe' | 'place'>;

const hubOf = (over: Partial<Parameters<typeof createInspectionHub>[0]> = {}) => {
  const errors: unknown[] = [];
  const recorder = createRecorder({ workerId: () => 'w1', clock });
  const inner = createInspectionHub({
    recorder,
    workerId: () => 'w1',
    content: false,
    clock,
    onError: (error) => errors.push(error),
    ...over,
  });
  const hub: Hub = {
    observe: recorder.observe,
    place: recorder.place,
    join: inner.join,
    get viewers() {
      return inner.viewers;
    },
  };
  return { hub, errors };
};

function watch(hub: InspectionHub, wish = '') {
  const messages: Message[] = [];
  const leave = hub.join({
    selection: createSelection(new URLSearchParams(wish), 50),
    send: (text) => void messages.push(JSON.parse(text)),
  });
  return { messages, leave };
}

const startSession = (hub: Hub, id = sessionId, epoch = 1) =>
  startActor(sessionProgram, {
    id: `${id}@${epoch}`,
    input: {},
    perform: () => {},
    commit: async () => ({ unknown: 'never' }),
    clock,
    durations: () => Number.POSITIVE_INFINITY,
    inspect: { step: hub.observe },
  });

const startTurn = (hub: Hub, id = turnId) => new TurnRecord(id, { step: hub.observe });

it('An actor is shown from its start to its end, with a unique id on every message', () => {
  const { hub, errors } = hubOf();
  const { messages } = watch(hub);
  const session = startSession(hub);
  session.send({ type: 'socket.failed', generation: 1 });
  session.stop();
  expect(messages.map(({ type, event }) => `${type.slice(8)} ${event?.type ?? ''}`)).toEqual([
    'actor ',
    'event xstate.init',
    'snapshot xstate.init',
    'event socket.failed',
    'snapshot socket.failed',
    'snapshot xstate.stop',
  ]);
  expect(messages[0]).toMatchObject({
    sessionId: `session:${sessionId}`,
    rootId: `session:${sessionId}`,
    name: 'session 6d1f6a52 epoch 1',
    createdAt: String(clock.wall()),
  });
  expect(JSON.parse(messages[0]!.definition!).states.live.states.settling.states.asking.on).toHaveProperty([
    'store.settled',
  ]);
  expect(messages[4]!.snapshot).toMatchObject({
    status: 'active',
    value: { connecting: 'pausing' },
    context: { generation: 1 },
  });
  expect(new Set(messages.map(({ id }) => id)).size).toBe(messages.length);
  expect(messages.every(({ id }) => id.startsWith('w1:'))).toBe(true);
  expect(errors).toEqual([]);
});

it('A late viewer receives the running actors in their current state, and none that have ended', () => {
  const { hub } = hubOf();
  const ended = startTurn(hub, `${turnId.slice(0, -1)}b`);
  ended.note({ type: 'fail' });
  const turn = startTurn(hub);
  const session = startSession(hub);
  session.send({ type: 'socket.failed', generation: 1 });
  hub.place(turn, sessionId);
  turn.note({ type: 'queue' });
  const { messages } = watch(hub);
  expect(messages.map(({ type, sessionId: id, parentId, snapshot }) => [type, id, parentId, snapshot?.value])).toEqual([
    ['@xstate.actor', `session:${sessionId}`, undefined, { connecting: 'pausing' }],
    ['@xstate.actor', `turn:${turnId}`, `session:${sessionId}`, 'queued'],
  ]);
  session.stop();
});

it('A turn is drawn below its session as soon as it has one, and below the next session when it moves', () => {
  const { hub } = hubOf();
  const { messages } = watch(hub);
  const turn = startTurn(hub);
  expect(messages).toEqual([]);
  const other = `${sessionId.slice(0, -1)}2`;
  hub.place(turn, sessionId);
  turn.note({ type: 'queue' });
  turn.note({ type: 'hand_back' });
  hub.place(turn, other);
  turn.note({ type: 'cancel' });
  expect(messages.map(({ type, parentId, rootId, event }) => [type.slice(8), parentId, rootId, event?.type])).toEqual([
    ['actor', `session:${sessionId}`, `session:${sessionId}`, undefined],
    ['event', undefined, `session:${sessionId}`, 'queue'],
    ['snapshot', undefined, `session:${sessionId}`, 'queue'],
    ['event', undefined, `session:${sessionId}`, 'hand_back'],
    ['snapshot', undefined, `session:${sessionId}`, 'hand_back'],
    ['actor', `session:${other}`, `session:${other}`, undefined],
    ['event', undefined, `session:${other}`, 'cancel'],
    ['snapshot', undefined, `session:${other}`, 'cancel'],
  ]);
});

it('A session keeps its identity in the picture when a newer epoch takes it over, on this or another worker', () => {
  const { hub } = hubOf();
  const { messages } = watch(hub);
  const older = startSession(hub, sessionId, 1);
  const newer = startSession(hub, sessionId, 2);
  const before = messages.length;
  older.stop();
  expect(messages.length).toBe(before);
  newer.send({ type: 'socket.failed', generation: 1 });
  expect(messages.length).toBe(before + 2);
  const elsewhere = hubOf({ workerId: () => 'w2' });
  const there = watch(elsewhere.hub);
  startSession(elsewhere.hub, sessionId, 3).stop();
  expect(there.messages[0]).toMatchObject({ sessionId: messages[0]!.sessionId, name: 'session 6d1f6a52 epoch 3' });
  const ids = new Set([...messages, ...there.messages].map(({ id }) => id));
  expect(ids.size).toBe(messages.length + there.messages.length);
  newer.stop();
});

it('A filtered view shows only the requested sessions with their turns', () => {
  const { hub } = hubOf();
  const { messages } = watch(hub, `session=${sessionId}`);
  const wanted = startSession(hub);
  const other = startSession(hub, `${sessionId.slice(0, -1)}2`);
  const turn = startTurn(hub);
  hub.place(turn, `${sessionId.slice(0, -1)}2`);
  turn.note({ type: 'queue' });
  expect(new Set(messages.map((each) => each.sessionId))).toEqual(new Set([`session:${sessionId}`]));
  wanted.stop();
  other.stop();
});

it('Only fields on the list of harmless fields are shown, unless content is requested', () => {
  const secret = 'my grandmother’s recipe';
  const say = (hub: Hub) => {
    const session = startSession(hub);
    session.send({ type: 'socket.failed', generation: 1, text: secret, authorization: 'Bearer sk-1' } as never);
    session.send({ type: 'turn.cancelled', reason: secret } as never);
    session.stop();
  };
  const closed = hubOf();
  const narrow = watch(closed.hub);
  say(closed.hub);
  expect(JSON.stringify(narrow.messages)).not.toContain('grandmother');
  expect(JSON.stringify(narrow.messages)).not.toContain('sk-1');
  expect(narrow.messages.find(({ event }) => event?.type === 'socket.failed')!.event).toEqual({
    type: 'socket.failed',
    generation: 1,
  });
  const open = hubOf({ content: true });
  const wide = watch(open.hub);
  say(open.hub);
  expect(JSON.stringify(wide.messages)).toContain('grandmother');
  expect(JSON.stringify(wide.messages)).not.toContain('sk-1');
});

it('Without a viewer the hub does no work and keeps no ended actor', () => {
  let asked = 0;
  const { hub, errors } = hubOf({
    workerId() {
      asked += 1;
      return 'w1';
    },
  });
  const { leave } = watch(hub);
  leave();
  asked = 0;
  for (let i = 0; i < 2_000; i += 1) {
    const turn = startTurn(hub, `${turnId.slice(0, 30)}${String(i).padStart(6, '0')}`);
    hub.place(turn, sessionId);
    turn.note({ type: 'queue' });
    turn.note({ type: 'cancel' });
  }
  expect(asked).toBe(0);
  expect(errors).toEqual([]);
  expect(hub.viewers).toBe(0);
  expect(watch(hub).messages).toEqual([]);
});

it('The recorder keeps every running actor and none that has ended', () => {
  const recorder = createRecorder({ workerId: () => 'w1', clock });
  const start = (nth: number) => new TurnRecord(`${turnId.slice(0, -3)}${nth}`, { step: recorder.observe });
  const alive = start(100);
  for (let nth = 101; nth < 200; nth += 1) {
    const turn = start(nth);
    recorder.place(turn, sessionId);
    if (nth % 2 === 0) turn.note({ type: 'fail' });
    else turn.stop();
    recorder.place(turn, sessionId);
  }
  expect([...recorder.running()]).toEqual([alive]);
});

it('An error of one viewer reaches neither the machine nor other viewers', () => {
  const { hub, errors } = hubOf();
  let broken = true;
  hub.join({
    selection: createSelection(new URLSearchParams(), 50),
    send() {
      if (broken) throw new Error('broken viewer');
    },
  });
  const { messages } = watch(hub);
  const session = startSession(hub);
  expect(session.state).toBe('connecting.dialing');
  expect(errors.length).toBeGreaterThan(0);
  broken = false;
  session.send({ type: 'socket.failed', generation: 1 });
  expect(messages.map(({ event }) => event?.type)).toContain('socket.failed');
  session.stop();
});

it('The sample of sessions is the same on every worker, stays within its limit, and is refilled when a session ends', () => {
  const ids = Array.from({ length: 2_000 }, (_, i) => `6d1f6a52-2b43-4d6e-9a5e-${String(i).padStart(12, '0')}`);
  const half = createSelection(new URLSearchParams('sample=0.5'), 10_000);
  const again = createSelection(new URLSearchParams('sample=0.5'), 10_000);
  const chosen = ids.filter((id) => half.wants(id));
  expect(chosen.length).toBeGreaterThan(850);
  expect(chosen.length).toBeLessThan(1_150);
  expect([...ids].reverse().filter((id) => again.wants(id))).toEqual([...chosen].reverse());
  const few = createSelection(new URLSearchParams(), 2);
  expect(ids.slice(0, 4).map((id) => few.wants(id))).toEqual([true, true, false, false]);
  few.release(ids[0]!);
  expect(few.wants(ids[3]!)).toBe(true);
  expect(few.wants(ids[1]!)).toBe(true);
});
