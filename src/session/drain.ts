import type { Clock } from '../clock.ts';
import type { Dispatcher } from './dispatcher.ts';
import type { Roster } from './roster.ts';

/** Interval at which a drain checks whether the last turn has ended, in milliseconds. */
const LOOK_EVERY = 25;
/** Time allowed for settling cancelled turns, in milliseconds. */
const SETTLE_GRACE = 5_000;

/** Sends every session the drain event: idle ones release themselves at once, the others when their turn has ended. */
export function releaseIdle(roster: Roster): void {
  for (const session of [...roster.all()]) session.send({ type: 'worker.draining' });
}

/**
 * Drains a worker that admits no new requests. Running turns may complete until `deadlineMs`; the remaining ones are
 * cancelled and settled. Turns that cannot be settled within 5 s are left to the session's next owner.
 *
 * @param deadlineMs time for running turns to complete, in milliseconds from now
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
