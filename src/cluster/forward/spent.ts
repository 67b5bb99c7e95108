/** Ids that were used, each remembered until nothing with that id can be valid any more. */
export interface Spent {
  /** `full`: nothing more can be remembered now, so that nothing more may be let in. */
  spend(id: string, untilMs: number, nowMs: number): 'first' | 'again' | 'full';
}

/** @param capacity most ids remembered at once; only holders of a secret can fill it */
export function createSpent(capacity: number): Spent {
  const until = new Map<string, number>();
  const forget = (nowMs: number, all: boolean) => {
    for (const [id, end] of until) {
      if (end <= nowMs) until.delete(id);
      else if (!all) return;
    }
  };
  return {
    spend(id, untilMs, nowMs) {
      // Ids come roughly in the order in which they expire: the front is enough, unless room is short.
      forget(nowMs, until.size >= capacity);
      if (until.has(id)) return 'again';
      if (until.size >= capacity) return 'full';
      until.set(id, untilMs);
      return 'first';
    },
  };
}
