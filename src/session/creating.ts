import type { Evidence } from '../resolve/types.ts';
import type { KeyRef } from '../store/port.ts';

/**
 * Hard keys whose session is being created on this worker. A second request with such a key waits for the outcome
 * instead of dialing too.
 */
export interface CreatingKeys {
  /** Resolves as soon as no session is being created under the request's hard key. */
  settled(evidence: Evidence): Promise<void>;
  begin(scope: string, keys: readonly KeyRef[]): void;
  end(scope: string, keys: readonly KeyRef[]): void;
}

/** Creates the set of hard keys of one worker. */
export function createCreatingKeys(): CreatingKeys {
  const creating = new Map<string, { promise: Promise<void>; resolve: () => void }>();
  const nameOf = (scope: string, { kind, hash }: KeyRef) => `${scope}\n${kind}\n${hash}`;
  return {
    async settled({ scope, hardKey, anchor }) {
      // An anchored request is placed by its anchor; a session that is being created under its key does not matter to
      // it.
      if (hardKey !== null && anchor === null) await creating.get(nameOf(scope, hardKey))?.promise;
    },
    begin(scope, keys) {
      for (const key of keys) {
        const name = nameOf(scope, key);
        if (!creating.has(name)) creating.set(name, Promise.withResolvers<void>());
      }
    },
    end(scope, keys) {
      for (const key of keys) {
        const name = nameOf(scope, key);
        creating.get(name)?.resolve();
        creating.delete(name);
      }
    },
  };
}
