/** Message of the inspector's protocol from a source of its own: a program that inspects machines of its own. */
interface Reported {
  type: string;
  sessionId: string;
  [field: string]: unknown;
}

const types = new Set(['@xstate.actor', '@xstate.event', '@xstate.snapshot']);
/** Fields that name an actor. Each source has names of its own, so that no two sources appear as one. */
const names = ['sessionId', 'rootId', 'parentId', 'sourceId'] as const;
/** Largest number of actors of one source that a viewer who joins later is shown. */
const MOST_ACTORS = 200;

/** Programs that report machines of their own, and what viewers are shown of them. */
export interface Sources {
  /**
   * Adds a source.
   *
   * @returns a function that takes its messages, and one that removes it
   */
  add(): { take(text: string): void; remove(): void };
  /** Returns the actors that the sources have reported, as messages for a viewer that joins. */
  actors(): string[];
  readonly size: number;
}

/**
 * Creates the list of sources without any.
 *
 * @param show sends a message to the viewers
 */
export function createSources(show: (text: string) => void): Sources {
  const sources = new Map<number, Map<string, Reported>>();
  let last = 0;
  return {
    add() {
      const number = (last += 1);
      const actors = new Map<string, Reported>();
      sources.set(number, actors);
      return {
        take(text) {
          const message = parsed(text);
          if (!message) return;
          for (const name of names) {
            if (typeof message[name] === 'string') message[name] = `source ${number}:${message[name]}`;
          }
          const known = actors.get(message.sessionId);
          if (message.type === '@xstate.actor') actors.set(message.sessionId, message);
          else if (known && message.type === '@xstate.snapshot') known.snapshot = message.snapshot;
          if (actors.size > MOST_ACTORS) actors.delete(actors.keys().next().value!);
          show(JSON.stringify(message));
        },
        remove: () => void sources.delete(number),
      };
    },
    actors: () => [...sources.values()].flatMap((actors) => [...actors.values()].map((each) => JSON.stringify(each))),
    get size() {
      return sources.size;
    },
  };
}

/** Returns a message of the protocol; null for anything else. */
function parsed(text: string): Reported | null {
  try {
    const message = JSON.parse(text) as Partial<Reported> | null;
    const isOne = types.has(message?.type ?? '') && typeof message?.sessionId === 'string';
    return isOne ? (message as Reported) : null;
  } catch {
    return null;
  }
}
