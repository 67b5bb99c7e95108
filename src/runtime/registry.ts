/** The actors of one process: at most one per id, always that of the newest epoch. */
export interface Registry<T> {
  /**
   * Adds an actor. An actor of an older epoch is stopped first.
   *
   * @throws Error if an actor of the same or a newer epoch is registered
   */
  register(id: string, epoch: number, value: T): void;
  get(id: string): T | undefined;
  /** Returns the actor if it has exactly this epoch: an actor of an older epoch must not be used. */
  getExact(id: string, epoch: number): T | undefined;
  /**
   * Removes the actor if it has exactly this epoch.
   *
   * @returns true if it was removed
   */
  remove(id: string, epoch: number): boolean;
  values(): IterableIterator<T>;
  readonly size: number;
}

/**
 * Creates a registry.
 *
 * @param stop called with an actor that a newer epoch replaces, before the new one is added
 */
export function createRegistry<T>({ stop }: { stop(older: T): void }): Registry<T> {
  const entries = new Map<string, { epoch: number; value: T }>();
  return {
    register(id, epoch, value) {
      const present = entries.get(id);
      if (present && present.epoch >= epoch) {
        throw new Error(`${id} has an actor of epoch ${present.epoch}; one of epoch ${epoch} may not replace it`);
      }
      if (present) {
        entries.delete(id);
        stop(present.value);
      }
      entries.set(id, { epoch, value });
    },
    get: (id) => entries.get(id)?.value,
    getExact(id, epoch) {
      const entry = entries.get(id);
      return entry?.epoch === epoch ? entry.value : undefined;
    },
    remove: (id, epoch) => entries.get(id)?.epoch === epoch && entries.delete(id),
    *values() {
      for (const { value } of entries.values()) yield value;
    },
    get size() {
      return entries.size;
    },
  };
}
