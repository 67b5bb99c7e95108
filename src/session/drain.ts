import type { Clock } from '../clock.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { Roster } from './roster.ts';

/** How often a drain looks whether the last turn has ended, milliseconds. */
const LOOK_EVERY = 25;

/**
 * Empties a worker that admits nothing new: idle sessions are given back at once, running turns may end by themselves
 * until `deadlineMs`, and those that do not are cancelled and settled.
 */
export async function drain(
  { roster, dispatcher, clock }: { roster: Roster; dispatcher: Dispatcher; clock: Clock },
  deadlineMs: number,
): Promise<void> {
  const settled = async (ms: number) => {
    const until = clock.now() + ms;
    while ((dispatcher.inFlight > 0 || roster.size > 0) && clock.now() < until) {
      await new Promise<void>((look) => clock.after(LOOK_EVERY, look));
    }
    return dispatcher.inFlight === 0 && roster.size === 0;
  };
  for (const session of [...roster.all()]) session.send({ type: 'worker.draining' });
  if (await settled(deadlineMs)) return;
  for (const session of [...roster.all()]) session.send({ type: 'turn.cancelled', reason: 'drain' });
  await settled(5_000);
}
