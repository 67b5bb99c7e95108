import type { Clock } from '../../clock.ts';
import type { Ids } from '../../ids.ts';

/**
 * Tickets for one WebSocket each. A browser cannot put a header on a WebSocket, and a token in an address would end up
 * in logs and histories: the page exchanges its token for a ticket that is worth nothing a moment later.
 */
export interface Tickets {
  issue(): string;
  /** True once for a ticket that is still good. */
  redeem(ticket: string | null): boolean;
}

/** Milliseconds a ticket is good for. */
const GOOD_FOR = 30_000;
/** More are not kept; the oldest are the first to go. */
const MOST = 100;

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
