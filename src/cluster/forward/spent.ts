/** Replay cache: used ids, each kept until a token with that id has expired. */
export interface Spent {
  /**
   * Marks an id as used.
   *
   * @param untilMs expiry of the id, in wall-clock milliseconds
   * @param nowMs current wall-clock milliseconds
   * @returns `again` for an id that was used before; `full` if the cache has no room, so that nothing more may be
   *   accepted
   */
  spend(id: string, untilMs: number, nowMs: number): 'first' | 'again' | 'full';
}

/**
 * Creates a replay cache.
 *
 * @param capacity maximum number of ids; only holders of a secret can fill it
 */
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
      // Ids arrive roughly in the order of their expiry: checking the front is enough, unless the cache is full.
      forget(nowMs, until.size >= capacity);
      if (until.has(id)) return 'again';
      if (until.size >= capacity) return 'full';
      until.set(id, untilMs);
      return 'first';
    },
  };
}
