/** What is kept for progress: which states are at rest, and the steps that may be counted on. */
export interface Progress {
  /** The next state, in the order of their numbers; its edges follow. */
  state(quiet: boolean, servable: boolean, more: boolean): void;
  edge(to: number): void;
  /** The first state from which rest cannot be reached. */
  firstStuck(): { state: number; property: 'everyRequestEnds' | 'servesAgain' } | null;
}

const QUIET = 1;
const SERVES = 2;
const MORE = 4;
const CHUNK = 1 << 20;

/** A list of numbers that grows without being copied. */
function createList() {
  const chunks: Uint32Array[] = [];
  let size = 0;
  return {
    get size() {
      return size;
    },
    push(value: number) {
      const offset = size % CHUNK;
      if (offset === 0) chunks.push(new Uint32Array(CHUNK));
      chunks.at(-1)![offset] = value;
      size += 1;
    },
    at: (index: number) => chunks[Math.floor(index / CHUNK)]![index % CHUNK]!,
  };
}

/**
 * Progress over the steps that happen by themselves: the bridge's own, its store's answers and its deadlines. Neither a
 * fault nor any goodwill of the upstream is counted on. From every state rest must be reachable by these alone: every
 * request that was asked has ended and, where another could still be asked, no turn is active any more.
 */
export function createProgress(): Progress {
  const starts = createList();
  const targets = createList();
  const states: number[] = [];

  /** Backwards through the numbers until nothing changes: most steps lead to a later state, so few rounds do. */
  function reaching(wanted: number): Uint8Array {
    const good = new Uint8Array(states.length);
    for (let changed = true; changed; ) {
      changed = false;
      for (let state = states.length - 1; state >= 0; state -= 1) {
        if (good[state]) continue;
        let reached = (states[state]! & wanted) === wanted;
        const end = state + 1 < states.length ? starts.at(state + 1) : targets.size;
        for (let k = starts.at(state); k < end && !reached; k += 1) reached = good[targets.at(k)] === 1;
        if (reached) {
          good[state] = 1;
          changed = true;
        }
      }
    }
    return good;
  }

  return {
    state(quiet, servable, more) {
      states.push((quiet ? QUIET : 0) | (servable ? SERVES : 0) | (more ? MORE : 0));
      starts.push(targets.size);
    },
    edge: (to) => targets.push(to),
    firstStuck() {
      const ends = reaching(QUIET);
      const serves = reaching(QUIET | SERVES);
      for (let state = 0; state < states.length; state += 1) {
        if (!ends[state]) return { state, property: 'everyRequestEnds' };
        if (states[state]! & MORE && !serves[state]) return { state, property: 'servesAgain' };
      }
      return null;
    },
  };
}
