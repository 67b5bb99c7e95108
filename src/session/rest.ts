import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import type { Turn } from './turn.ts';

/** Wait before the second repetition of a placement attempt, in milliseconds. Each later wait doubles. */
const FLOOR = 25;

/**
 * Waits between two placement attempts of a request. The first repetition follows at once; the waits before later ones
 * grow up to `ownerPoll`. This bounds the number of look-ups for a request whose situation does not change.
 *
 * @returns false if the request has ended or was held for `requestHold`: do not try again
 */
export type Rest = (turn: Turn) => Promise<boolean>;

/** Creates the wait between two placement attempts. */
export function createRest(clock: Clock, deadlines: Pick<Config['deadlines'], 'ownerPoll' | 'requestHold'>): Rest {
  return async (turn) => {
    const ms = turn.rests === 0 ? 0 : Math.min(deadlines.ownerPoll, FLOOR * 2 ** Math.min(turn.rests - 1, 16));
    turn.rests += 1;
    if (ms > 0) await new Promise<void>((over) => clock.after(ms, over));
    return !turn.stream.finished && clock.now() < turn.times.received + deadlines.requestHold;
  };
}
