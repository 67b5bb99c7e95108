import type { Clock } from '../clock.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { Roster } from './roster.ts';

/** How often a drain looks whether the last turn has ended, milliseconds. */
const LOOK_EVERY = 25;
/** What a cancelled turn may take to be settled, milliseconds. */
const SETTLE_GRACE = 5_000;

/** Gives back every session that is idle; the others follow when their turns have ended. */
export function releaseIdle(roster: Roster): void {
  for (const session of [...roster.all()]) session.send({ type: 'worker.draining' });
}

/**
 * Empties a worker that admits nothing new: running turns may end by themselves until `deadlineMs`, those that do not are
 * cancelled and settled, and what cannot be settled in a bounded time is left to the next owner.
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
  releaseIdle(roster);
  if (await settled(deadlineMs)) return;
  for (const session of [...roster.all()]) session.send({ type: 'turn.cancelled', reason: 'drain' });
  if (await settled(SETTLE_GRACE)) return;
  for (const session of [...roster.all()]) session.abandon();
}
