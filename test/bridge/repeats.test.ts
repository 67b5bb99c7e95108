import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/system.ts';
import { createManualClock, digestOf, expectedDigest, type TestBridge, testBridge } from '../../src/testing/index.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import type { TurnFault } from '../../src/testing/simulator/faults.ts';
import { ownEvents, post } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';
import { until } from '../support/until.ts';

type Headers = Record<string, string>;

const bodyOf = (text: string) => ({ model: 'm', stream: true, store: false, input: [user(text)] });
const again = { 'x-stainless-retry-count': '1' };

/** Ways to mark a request as a repeat: headers of the first attempt and of the next. */
const signs: [string, (name: string) => [Headers, Headers]][] = [
  ['its SDK counts attempts', () => [{ 'x-stainless-retry-count': '0' }, again]],
  ['it has an Idempotency-Key', (name) => [{ 'idempotency-key': name }, { 'idempotency-key': name }]],
  ['its thread has a name', (name) => [{ 'thread-id': name }, { 'thread-id': name }]],
  [
    'its turn has an id',
    (name) => {
      const turn = { 'x-codex-turn-metadata': JSON.stringify({ turn_id: name }) };
      return [turn, turn];
    },
  ],
];

it('A repeat that overtakes the close of the connection it replaces receives the running turn', async () => {
  let requests = 0;
  // The bridge waits a moment for the close; with a manual clock that moment lasts until the close has arrived.
  const clock = createManualClock();
  const at = await testBridge({
    clock,
    inspect({ type, actorRef }) {
      if (type === '@xstate.actor' && (actorRef as { logic?: { id?: string } }).logic?.id === 'turn') requests += 1;
    },
  });
  try {
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
    const live = await openLive(at.url, bodyOf('overtaken'), { 'x-stainless-retry-count': '0' });
    await live.until('response.output_item.added');
    const repeat = openLive(at.url, bodyOf('overtaken'), again);
    await until(() => requests === 2);
    live.hangUp();
    const second = await repeat;
    expect(second.headers['x-holdfast-outcome']).toBe('reattached');
    held.release();
    expect((await second.rest()).events.at(-1)!.type).toBe('response.completed');
    expect(at.simulator.journal.of('create')).toHaveLength(1);
  } finally {
    let closed = false;
    const closing = at.close().then(() => (closed = true));
    await until(() => {
      clock.advance(100);
      return closed;
    });
    await closing;
  }
});

describe.each([
  ['websocket', 'one worker'],
  ['http', 'one worker'],
  ['websocket', 'two workers'],
  ['http', 'two workers'],
])('repeats over %s, with %s', (transport, workers) => {
  let first: TestBridge;
  let second: TestBridge;
  /** Number of clients whose departure the first worker has noticed. */
  let left = 0;
  beforeAll(async () => {
    const database = createMemoryDatabase('0'.repeat(64));
    const means = {
      env: { HOLDFAST_UPSTREAM_TRANSPORT: transport },
      openStore: async () => createMemoryStore({ clock: systemClock, database }),
    };
    first = await testBridge({
      ...means,
      inspect: (event) => {
        if (event.type === '@xstate.event' && event.event.type === 'client.gone') left += 1;
      },
    });
    second = workers === 'one worker' ? first : await testBridge({ ...means, simulator: first.simulator });
  });
  afterAll(async () => {
    if (second !== first) await second?.close();
    await first?.close();
  });

  let names = 0;
  const newName = () => `request ${transport} ${(names += 1)}`;
  const generations = (text: string) =>
    first.simulator.journal.of('create').filter((create) => JSON.stringify(create).includes(text)).length;
  const newest = async () => {
    const [session] = await first.store.sessions(1);
    return session ? ((await first.store.turnsOf(session.id, 1))[0] ?? null) : null;
  };
  /** Starts a turn and disconnects its client once output was shown. */
  const cut = async (text: string, headers: Headers, ...ends: TurnFault[]) => {
    const held = first.simulator.script.onTurn({}, [{ kind: 'hold', at: { deltas: 1 } }, ...ends]);
    const live = await openLive(first.url, bodyOf(text), headers);
    await live.until('response.output_item.added');
    const before = left;
    live.hangUp();
    await until(() => left > before);
    return held;
  };

  it.each(signs)('A repeat after a disconnect receives the running turn when %s', async (_, sign) => {
    const name = newName();
    const [one, next] = sign(name);
    const held = await cut(name, one);
    const live = await openLive(second.url, bodyOf(name), next);
    expect(live.headers['x-holdfast-outcome']).toBe('reattached');
    held.release();
    const { events } = await live.rest();
    const own = ownEvents(events);
    expect(own.map(({ data }) => data.sequence_number)).toEqual(own.map((__, index) => index));
    expect(own.at(-1)!.type).toBe('response.completed');
    expect(generations(name)).toBe(1);
  });

  it.each(signs)('A repeat after a disconnect receives the turn that has ended since when %s', async (_, sign) => {
    const name = newName();
    const [one, next] = sign(name);
    (await cut(name, one)).release();
    await until(async () => (await newest())?.state === 'completed');
    const answer = await post(second.url, bodyOf(name), next);
    expect(answer.headers['x-holdfast-outcome']).toBe('reattached');
    expect(answer.body.status).toBe('completed');
    expect(digestOf(answer.body)).toBe(expectedDigest({ items: [user(name)] as never }));
    expect(generations(name)).toBe(1);
    // An undelivered answer is delivered once: the next request is a new one.
    expect((await post(second.url, bodyOf(name), next)).headers['x-holdfast-outcome']).not.toBe('reattached');
    expect(generations(name)).toBe(2);
  });

  it('A request without any mark of a repeat is a generation of its own', async () => {
    const name = newName();
    const held = await cut(name, {});
    const answer = await post(second.url, bodyOf(name));
    expect(answer.body.status).toBe('completed');
    expect(generations(name)).toBe(2);
    held.release();
  });

  it('A repeat does not take over a stream that its client still reads', async () => {
    const name = newName();
    const held = first.simulator.script.onTurn({}, { kind: 'hold', at: { deltas: 1 } });
    const live = await openLive(first.url, bodyOf(name), {});
    await live.until('response.output_item.added');
    const answer = await post(second.url, bodyOf(name), again);
    expect(answer.body.status).toBe('completed');
    expect(generations(name)).toBe(2);
    held.release();
    const { events, cut: wasCut } = await live.rest();
    expect([wasCut, events.at(-1)!.type]).toEqual([false, 'response.completed']);
  });

  it('A repeat of a failed turn is generated again', async () => {
    const name = newName();
    (await cut(name, {}, { kind: 'failed', code: 'server_error', at: 'before_terminal' })).release();
    await until(async () => (await newest())?.state === 'failed');
    const answer = await post(second.url, bodyOf(name), again);
    expect(answer.body.status).toBe('completed');
    expect(generations(name)).toBe(2);
  });
});
