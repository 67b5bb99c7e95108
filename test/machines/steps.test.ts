import fc from 'fast-check';
import { expect, it } from 'vitest';
import { defineProgram, type Step, startActor } from '../../src/runtime/index.ts';
import { createManualClock } from '../../src/testing/index.ts';
import { models } from './models.ts';

it.each(models)(
  'The $name machine takes the same steps with and without an XState actor',
  async ({ machine, events }) => {
    // Without commits every event is delivered at once.
    const program = defineProgram(machine, { commits: [], version: 1 });
    const states = new Set<string>();
    const wishes = fc.array(fc.tuple(fc.boolean(), fc.nat({ max: 10_000 })), { maxLength: 25, size: 'max' });
    await fc.assert(
      fc.asyncProperty(wishes, async (chosen) => {
        const runs = [undefined, () => {}].map((xstate) => {
          const seen: unknown[] = [];
          const step = ({ event, value, context, status }: Step) => {
            seen.push({ event, value, context, status });
            states.add(JSON.stringify(value));
          };
          const actor = startActor(program, {
            id: 'one',
            input: { turnId: 't' },
            clock: createManualClock(),
            durations: () => 1_000,
            perform: ({ type, params }) => seen.push({ type, params }),
            inspect: { step, xstate },
          });
          return { actor, seen };
        });
        const [quiet, loud] = runs as [(typeof runs)[0], (typeof runs)[0]];
        await quiet.actor.idle();
        for (const [isAny, wish] of chosen) {
          if (quiet.actor.stopped) break;
          const all = events.map(({ event }) => event(quiet.actor.context as never));
          const fitting = all.filter((event) => quiet.actor.snapshot().can(event));
          const from = isAny || fitting.length === 0 ? all : fitting;
          for (const { actor } of runs) actor.send(from[wish % from.length]!);
        }
        expect(loud.actor.state).toBe(quiet.actor.state);
        for (const { actor } of runs) actor.stop();
        expect(loud.seen).toEqual(quiet.seen);
      }),
    );
    expect(states.size).toBeGreaterThan(4);
  },
);
