/** Connection, open or being opened, that `shutdown` must end. */
export interface Ending {
  /** Closes in order; may take a moment. */
  close(): void;
  /** Closes at once. */
  destroy(): void;
}

/** Open connections of a transport. */
export interface LiveConnections {
  /**
   * Adds a connection.
   *
   * @returns a function that removes it again; it may be called more than once
   */
  add(one: Ending): () => void;
  closeAll(): void;
  destroyAll(): void;
  /** Resolves when no connection is left. */
  emptied(): Promise<void>;
}

export function createLiveConnections(): LiveConnections {
  const live = new Set<Ending>();
  let waiting: (() => void)[] = [];
  return {
    add(one) {
      live.add(one);
      return () => {
        live.delete(one);
        if (live.size > 0) return;
        const told = waiting;
        waiting = [];
        for (const tell of told) tell();
      };
    },
    closeAll() {
      for (const one of [...live]) one.close();
    },
    destroyAll() {
      for (const one of [...live]) one.destroy();
    },
    emptied: () =>
      live.size === 0
        ? Promise.resolve()
        : new Promise((resolve) => {
            waiting.push(resolve);
          }),
  };
}
