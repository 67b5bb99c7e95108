import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { createMachine, type InspectionEvent, waitFor } from 'xstate';
import {
  type ActorOptions,
  type DurableActor,
  defineProgram,
  type Effect,
  type Step,
  startActor,
} from '../../src/runtime/index.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { orderMachine } from './order-machine.ts';

const program = defineProgram(orderMachine, { commits: ['charge'], version: 1 });
type Options = ActorOptions<typeof orderMachine>;

const boom = (): never => {
  throw new Error('boom');
};

/** Opens an order whose effects and commits the test controls. */
function open(
  options: Partial<Options> & { onEffect?: (effect: Effect, actor: DurableActor<typeof orderMachine>) => void } = {},
) {
  const clock = createManualClock();
  const effects: string[] = [];
  const errors: unknown[] = [];
  const attempts: {
    effect: Effect;
    count: number;
    answer: (value: Awaited<ReturnType<NonNullable<Options['commit']>>>) => void;
    fail: (error: unknown) => void;
  }[] = [];
  const actor: DurableActor<typeof orderMachine> = startActor(program, {
    id: 'order-1',
    input: {},
    clock,
    durations: (name) => ({ patience: 1_000, bank: 300 })[name] ?? Number.POSITIVE_INFINITY,
    perform(effect) {
      effects.push(effect.params ? `${effect.type}:${(effect.params as { what: string }).what}` : effect.type);
      options.onEffect?.(effect, actor);
    },
    commit: (effect, count) =>
      new Promise((answer, fail) => {
        attempts.push({ effect, count, answer, fail });
      }),
    onError: (error) => errors.push(error),
    ...options,
  });
  const settle = async () => {
    for (let i = 0; i < 5; i += 1) await Promise.resolve();
  };
  return { actor, clock, effects, errors, attempts, settle };
}

async function paying() {
  const order = open();
  await order.settle();
  order.actor.send({ type: 'add', items: 1 });
  order.actor.send({ type: 'pay' });
  return order;
}

describe('effects', () => {
  it('Effects run after the step that yielded them, never inside it', async () => {
    const seen: string[] = [];
    const order = open({
      onEffect: (_, actor) => seen.push(actor.state),
      inspect: { step: ({ value }) => void seen.push(`step to ${String(value)}`) },
    });
    await order.settle();
    order.actor.send({ type: 'nudge' });
    expect(seen).toEqual(['step to open', 'open', 'step to open', 'open']);
    expect(order.effects).toEqual(['greet', 'announce:nudged']);
  });

  it('Effects may send events, which are processed in order after the step', async () => {
    const order = open({
      onEffect({ type }, actor) {
        if (type !== 'announce' || actor.state !== 'open') return;
        actor.send({ type: 'add', items: 2 });
        actor.send({ type: 'pay' });
        expect(actor.context.items).toBe(0);
      },
    });
    await order.settle();
    order.actor.send({ type: 'nudge' });
    expect(order.actor.context.items).toBe(2);
    expect(order.actor.state).toBe('paying');
  });

  it('Effects that throw are reported, and the actor keeps serving', async () => {
    const order = open({
      onEffect({ type }) {
        if (type === 'explode') throw new Error('boom');
      },
    });
    await order.settle();
    order.actor.send({ type: 'boom' });
    order.actor.send({ type: 'add', items: 1 });
    expect(order.errors).toHaveLength(1);
    expect(order.actor.context.items).toBe(1);
  });
});

describe('throwing callbacks', () => {
  it('A throw in an effect becomes an event, before waiting events and after the other effects of its step', async () => {
    const order = open({
      onEffect({ type }, actor) {
        if (type !== 'explode') return;
        actor.send({ type: 'nudge' });
        boom();
      },
      effectFailed: () => ({ type: 'forgotten' }),
    });
    await order.settle();
    order.actor.send({ type: 'boom' });
    expect(order.effects).toEqual(['greet', 'explode', 'announce:gone']);
    expect([order.actor.stopped, order.errors]).toEqual([true, []]);
  });

  it('A throw while that event is created is reported, and the actor keeps serving', async () => {
    const order = open({ onEffect: ({ type }) => type === 'explode' && boom(), effectFailed: () => boom() });
    await order.settle();
    order.actor.send({ type: 'boom' });
    order.actor.send({ type: 'add', items: 1 });
    expect([order.errors.length, order.actor.context.items]).toEqual([1, 1]);
  });

  it('A throw in an observer is reported and changes nothing', async () => {
    const order = open({ inspect: { step: boom, xstate: boom }, onStopped: boom });
    await order.settle();
    order.actor.send({ type: 'add', items: 1 });
    order.actor.send({ type: 'pay' });
    expect(order.actor.state).toBe('paying');
    order.actor.stop();
    // Expected errors: the first one of each observer, and the one of the stop.
    expect(order.errors).toHaveLength(3);
  });

  it('A throw in a step stops the actor', async () => {
    const stopped: string[] = [];
    const order = open({
      durations: (name) => (name === 'bank' ? boom() : 1_000),
      onStopped: () => stopped.push('stopped'),
    });
    await order.settle();
    order.actor.send({ type: 'add', items: 1 });
    order.actor.send({ type: 'pay' });
    expect([order.actor.stopped, stopped, order.errors.length]).toEqual([true, ['stopped'], 1]);
    order.actor.send({ type: 'nudge' });
    expect(order.effects).toEqual(['greet']);
  });
});

describe('an unanswered commit', () => {
  it('During an unanswered commit all other events wait in order, and none is merged or dropped', async () => {
    const order = await paying();
    order.actor.send({ type: 'cancel' });
    order.actor.send({ type: 'pack' });
    expect(order.actor.state).toBe('paying');
    order.attempts[0]!.answer({ event: { type: 'declined' } });
    await order.settle();
    expect(order.actor.state).toBe('open');
    expect(order.effects).toEqual(['greet', 'apologise', 'greet']);
  });

  it('During an unanswered commit the deadline of the waiting state is processed before waiting events', async () => {
    const order = await paying();
    order.actor.send({ type: 'cancel' });
    order.clock.advance(300);
    expect(order.effects).toEqual(['greet', 'apologise']);
    expect(order.actor.state).toBe('paying');
    order.attempts[0]!.answer({ event: { type: 'paid' } });
    await order.settle();
    expect(order.effects).toEqual(['greet', 'apologise', 'ship', 'announce:gone']);
    expect(order.actor.stopped).toBe(true);
  });

  it('A commit without an answer is repeated unchanged until it is answered', async () => {
    const order = await paying();
    for (let count = 0; count < 6; count += 1) {
      expect(order.attempts).toHaveLength(count + 1);
      order.attempts[count]!.answer({ unknown: 'no answer' });
      await order.settle();
      order.clock.advance(1_000);
    }
    expect(new Set(order.attempts.map(({ effect }) => effect)).size).toBe(1);
    expect(order.attempts.map(({ count }) => count)).toEqual([0, 1, 2, 3, 4, 5, 6]);
    order.attempts.at(-1)!.answer({ event: { type: 'paid' } });
    await order.settle();
    expect(order.actor.state).toBe('packing');
    expect(order.clock.armed).toBe(0);
  });

  it.each(['rejects', 'throws'])('A commit that %s counts as a verdict and is tried once', async (how) => {
    const failures: string[] = [];
    const order = open({
      ...(how === 'throws' ? { commit: () => boom() } : {}),
      commitFailed({ type }, error) {
        failures.push(`${type}: ${(error as Error).message}`);
        return { type: 'declined' };
      },
    });
    await order.settle();
    order.actor.send({ type: 'add', items: 1 });
    order.actor.send({ type: 'pay' });
    if (how === 'rejects') order.attempts[0]!.fail(new Error('boom'));
    await order.settle();
    expect([order.actor.state, failures]).toEqual(['open', ['charge: boom']]);
    order.clock.advance(900);
    expect(order.attempts.length).toBeLessThan(2);
  });

  it('A commit that fails without a conversion to a verdict stops the actor', async () => {
    const order = await paying();
    order.attempts[0]!.fail(new Error('boom'));
    await order.settle();
    expect([order.actor.stopped, order.errors.length, order.clock.armed]).toEqual([true, 1, 0]);
  });

  it('An answer after the stop is ignored', async () => {
    const order = await paying();
    order.actor.send({ type: 'cancel' });
    expect(order.actor.stop()).toEqual([{ type: 'cancel' }]);
    order.attempts[0]!.answer({ event: { type: 'paid' } });
    await order.settle();
    expect(order.effects).toEqual(['greet']);
    expect(order.clock.armed).toBe(0);
  });

  it('idle() resolves only with the verdict', async () => {
    const order = await paying();
    let idle = false;
    void order.actor.idle().then(() => {
      idle = true;
    });
    await order.settle();
    expect(idle).toBe(false);
    order.attempts[0]!.answer({ event: { type: 'paid' } });
    await order.settle();
    expect(idle).toBe(true);
  });
});

describe('deadlines', () => {
  it('A deadline fires while its state lasts, and not after the state was left', async () => {
    const order = await paying();
    order.attempts[0]!.answer({ event: { type: 'paid' } });
    await order.settle();
    order.clock.advance(10_000);
    expect(order.actor.state).toBe('packing');
    const forgotten = open();
    await forgotten.settle();
    forgotten.clock.advance(999);
    expect(forgotten.actor.stopped).toBe(false);
    forgotten.clock.advance(1);
    expect(forgotten.effects).toEqual(['greet', 'announce:gone']);
  });

  it('A deadline restarts when it is touched', async () => {
    const order = open();
    await order.settle();
    order.clock.advance(900);
    order.actor.touch('patience');
    order.clock.advance(900);
    expect(order.actor.stopped).toBe(false);
    order.clock.advance(100);
    expect(order.actor.stopped).toBe(true);
  });

  it('The rest of a restarted deadline is waited for in whole milliseconds, so that rounding cannot repeat it at the same time', async () => {
    const clock = createManualClock();
    const waits: number[] = [];
    const order = open({ clock: { ...clock, after: (ms, fn) => clock.after(waits[waits.push(ms) - 1]!, fn) } });
    await order.settle();
    clock.advance(900.1);
    order.actor.touch('patience');
    clock.advance(1_000.1);
    expect(order.actor.stopped).toBe(false);
    clock.advance(1);
    expect(order.actor.stopped).toBe(true);
    expect(waits.filter((ms) => !Number.isInteger(ms))).toEqual([]);
    expect(waits.length).toBe(2);
  });

  it('A deadline given as an absolute time fires at that time, however long ago it was set', async () => {
    const clock = createManualClock();
    const order = open({ clock, input: { dueAt: clock.wall() + 400 } });
    await order.settle();
    clock.advance(399);
    expect(order.actor.stopped).toBe(false);
    clock.advance(1);
    expect(order.actor.stopped).toBe(true);
  });

  it('A deadline longer than the maximum timer still fires at its time', async () => {
    const order = open({ durations: () => 5_000_000_000 });
    await order.settle();
    order.clock.advance(4_999_999_999);
    expect(order.actor.stopped).toBe(false);
    order.clock.advance(1);
    expect(order.actor.stopped).toBe(true);
  });

  it('A deadline that expired in a state that was left since is not delivered', async () => {
    const order = open({
      onEffect({ type }, actor) {
        // The deadline expires while this effect runs, after the event that leaves the state.
        if (type !== 'announce' || actor.state !== 'open') return;
        actor.send({ type: 'add', items: 1 });
        actor.send({ type: 'pay' });
        order.clock.advance(1_000);
      },
    });
    await order.settle();
    order.actor.send({ type: 'nudge' });
    expect(order.actor.state).toBe('paying');
    expect(order.effects).not.toContain('announce:gone');
  });
});

describe('the actor', () => {
  it.each([false, true])(
    'An XState actor executes the machine once it is asked for; inspected from the start: %s',
    async (loud) => {
      const inspected: string[] = [];
      const xstate = loud ? (event: InspectionEvent) => void inspected.push(event.type) : undefined;
      const order = open({ inspect: { step() {}, xstate } });
      const states: string[] = [];
      order.actor.xstate.subscribe((snapshot) => states.push(String(snapshot.value)));
      const paid = waitFor(order.actor.xstate, (snapshot) => snapshot.matches('packing'));
      await order.settle();
      order.actor.send({ type: 'add', items: 1 });
      order.actor.send({ type: 'pay' });
      order.attempts[0]!.answer({ event: { type: 'paid' } });
      await paid;
      expect(states).toEqual(['open', 'paying', '[object Object]']);
      expect(new Set(inspected)).toEqual(
        new Set(loud ? ['actor', 'event', 'action', 'microstep', 'snapshot'].map((name) => `@xstate.${name}`) : []),
      );
      order.actor.stop();
      expect(order.actor.xstate.getSnapshot().status).toBe('stopped');
    },
  );

  it('Steps and effects are the same with and without an XState actor', async () => {
    const types = ['add', 'pay', 'paid', 'pack', 'nudge', 'boom', 'too_slow', 'cancel', 'unheard of'];
    const reached = new Set<string>();
    await fc.assert(
      fc.asyncProperty(fc.array(fc.constantFrom(...types), { maxLength: 20 }), async (events) => {
        const runs = [undefined, () => {}].map((xstate) => {
          const steps: unknown[] = [];
          const step = ({ event, value, context, status }: Step) => {
            steps.push({ event, value, context, status });
            reached.add(`${JSON.stringify(value)} ${status}`);
          };
          const order = open({
            inspect: { step, xstate },
            commit: async (_, count) => (count === 0 ? { unknown: 'not yet' } : { event: { type: 'paid' } }),
            effectFailed: () => ({ type: 'nudge' }),
            onEffect: ({ type }) => type === 'explode' && boom(),
          });
          return { ...order, steps };
        });
        for (const type of events) {
          for (const { actor } of runs) actor.send({ type, items: 1 } as never);
          for (const { settle } of runs) await settle();
          for (const { clock } of runs) clock.advance(100);
          for (const { settle } of runs) await settle();
        }
        for (const { actor } of runs) actor.stop();
        const [quiet, loud] = runs.map(({ steps, effects, errors }) => ({ steps, effects, errors }));
        expect(loud).toEqual(quiet);
        expect(quiet!.errors).toEqual([]);
      }),
      // The same draws each time: they have to reach the states that are named below.
      { numRuns: 100, seed: 20261129 },
    );
    expect([...reached]).toContain('{"packing":{"box":"full","label":"printed"}} active');
    expect([...reached]).toContain('"gone" done');
    expect([...reached]).toContain('"open" stopped');
  });

  it('The state of an actor is a path that ends at a parallel state', async () => {
    const order = await paying();
    order.attempts[0]!.answer({ event: { type: 'paid' } });
    await order.settle();
    order.actor.send({ type: 'pack' });
    expect(order.actor.state).toBe('packing');
    expect(order.actor.snapshot().value).toEqual({ packing: { box: 'full', label: 'printed' } });
  });

  it('An actor ends by itself in a final state, after the effects of that state', async () => {
    const stopped: string[] = [];
    const order = open({ onStopped: () => stopped.push('stopped') });
    await order.settle();
    order.clock.advance(1_000);
    expect(order.effects.at(-1)).toBe('announce:gone');
    expect(stopped).toEqual(['stopped']);
    order.actor.send({ type: 'nudge' });
    expect(order.effects.at(-1)).toBe('announce:gone');
  });
});

describe('deadlines of other machines', () => {
  /** Starts a machine whose deadline `wait`, of one second, sends `late`. */
  function start(machine: Parameters<typeof createMachine>[0]) {
    const clock = createManualClock();
    const actor = startActor(defineProgram(createMachine(machine), { commits: [], version: 1 }), {
      id: 'm',
      input: {},
      clock,
      durations: () => 1_000,
      perform: () => {},
      commit: () => Promise.reject(new Error('none')),
      onError: boom,
    });
    return { clock, actor };
  }
  const meta = { deadlines: [{ name: 'wait', event: 'late' }] };

  it('States that share the object of their declaration have a deadline each', () => {
    const { clock, actor } = start({
      initial: 'one',
      states: { one: { meta, on: { go: 'two' } }, two: { meta, on: { late: 'over' } }, over: {} },
    });
    clock.advance(900);
    actor.send({ type: 'go' });
    clock.advance(900);
    expect(actor.state).toBe('two');
    clock.advance(100);
    expect(actor.state).toBe('over');
  });

  it('Each region of a parallel state has the deadlines of its own states', () => {
    const region = (event: string) => ({
      initial: 'rests',
      states: { rests: { on: { [event]: 'waits' } }, waits: { meta, on: { late: 'rests' } } },
    });
    const { clock, actor } = start({ type: 'parallel', states: { left: region('left'), right: region('right') } });
    for (const side of ['right', 'left']) {
      actor.send({ type: side });
      const waiting = { left: 'rests', right: 'rests', [side]: 'waits' };
      expect(actor.snapshot().value).toEqual(waiting);
      clock.advance(999);
      expect(actor.snapshot().value).toEqual(waiting);
      clock.advance(1);
      expect(actor.snapshot().value).toEqual({ left: 'rests', right: 'rests' });
    }
  });
});
