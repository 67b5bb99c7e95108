import type { Clock } from '../../clock.ts';
import type { Ids } from '../../ids.ts';

/**
 * Tickets that each open one WebSocket. A browser cannot set a header on a WebSocket, and a token in a URL would end up
 * in logs and histories. The page therefore exchanges its token for a short-lived, single-use ticket.
 */
export interface Tickets {
  issue(): string;
  /** Uses up a ticket. Returns true only for a valid ticket, and only once. */
  redeem(ticket: string | null): boolean;
}

/** Lifetime of a ticket, in milliseconds. */
const GOOD_FOR = 30_000;
/** Maximum number of valid tickets; the oldest are dropped first. */
const MOST = 100;

/** Creates an empty set of tickets. */
export function createTickets({ clock, ids }: { clock: Pick<Clock, 'now'>; ids: Ids }): Tickets {
  const until = new Map<string, number>();
  return {
    issue() {
      const ticket = ids.uuid();
      until.set(ticket, clock.now() + GOOD_FOR);
      for (const oldest of until.keys()) {
        if (until.size <= MOST) break;
        until.delete(oldest);
      }
      return ticket;
    },
    redeem(ticket) {
      const end = ticket === null ? undefined : until.get(ticket);
      if (ticket === null || end === undefined) return false;
      until.delete(ticket);
      return clock.now() < end;
    },
  };
}
