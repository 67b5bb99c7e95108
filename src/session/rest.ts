import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import type { Turn } from './turn.ts';

/** Milliseconds between two looks at the same request, from the second repetition on; each wait doubles. */
const FLOOR = 25;

/**
 * The one wait between two attempts to place a request. The first repetition is made at once, every later one after a
 * longer wait, up to `ownerPoll`: a request that nothing moves costs a bounded number of look-ups.
 *
 * @returns false when the request has ended, or was held as long as it may be: it is not to be looked at again
 */
export type Rest = (turn: Turn) => Promise<boolean>;

export function createRest(clock: Clock, deadlines: Pick<Config['deadlines'], 'ownerPoll' | 'requestHold'>): Rest {
  return async (turn) => {
    const ms = turn.rests === 0 ? 0 : Math.min(deadlines.ownerPoll, FLOOR * 2 ** Math.min(turn.rests - 1, 16));
    turn.rests += 1;
    if (ms > 0) await new Promise<void>((over) => clock.after(ms, over));
    return !turn.stream.finished && clock.now() < turn.times.received + deadlines.requestHold;
  };
}
