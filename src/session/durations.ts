import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import type { Lane } from './lane.ts';
import type { SessionSocket } from './socket.ts';

export interface DurationsOptions {
  lane: Lane;
  socket: SessionSocket;
  deadlines: Config['deadlines'];
  clock: Clock;
  random(): number;
  /** Returns the number of dials so far. */
  generation(): number;
}

const FIRST_REDIAL = 200;
const SLOWEST_REDIAL = 2_000;

/**
 * Returns whether only this socket can continue the conversation: the head is neither exactly replayable nor stored at
 * the provider.
 */
export function isOnlyHolder(lane: Lane, socket: SessionSocket): boolean {
  const { head } = lane;
  return head !== null && head.replay !== 'exact' && !head.storedUpstream && socket.anchor !== null;
}

/**
 * Returns a function that maps the name of a session deadline to its duration in milliseconds.
 *
 * @throws Error from the returned function, for an unknown name
 */
export function createDurations(options: DurationsOptions): (name: string) => number {
  const { lane, socket, deadlines, clock, random } = options;
  const age = deadlines.socketAge + (random() * 2 - 1) * deadlines.socketAgeJitter;
  return (name) => {
    switch (name) {
      case 'idle':
        if (isOnlyHolder(lane, socket)) return Number.POSITIVE_INFINITY;
        return deadlines[lane.kept];
      case 'age': {
        const limit = isOnlyHolder(lane, socket) ? deadlines.onlyHolderAge : age;
        return Math.max(0, limit - (clock.now() - socket.openedAt));
      }
      case 'redial':
        return Math.min(SLOWEST_REDIAL, FIRST_REDIAL * 2 ** Math.min(options.generation(), 4)) * (0.75 + random() / 2);
      default: {
        const ms = (deadlines as Record<string, number>)[name];
        if (ms === undefined) throw new Error(`no duration is known for the deadline ${name}`);
        return ms;
      }
    }
  };
}
