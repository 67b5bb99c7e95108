/** Something open, or being opened, that `shutdown` must end. */
export interface Ending {
  /** Politely; may take a moment. */
  close(): void;
  /** At once. */
  destroy(): void;
}

/** Everything a transport has open. */
export interface LiveConnections {
  /** The returned function takes it out again and may be called more than once. */
  add(one: Ending): () => void;
  closeAll(): void;
  destroyAll(): void;
  /** Resolves when nothing is left. */
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
