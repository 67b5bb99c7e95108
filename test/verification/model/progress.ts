/** Data for the progress check: which states are at rest, and the steps on which progress may rely. */
export interface Progress {
  /** Adds the next state, in the order of state numbers. Its edges must follow. */
  state(quiet: boolean, servable: boolean, more: boolean): void;
  edge(to: number): void;
  /** Returns the first state from which no state at rest can be reached. */
  firstStuck(): { state: number; property: 'everyRequestEnds' | 'servesAgain' } | null;
}

const QUIET = 1;
const SERVES = 2;
const MORE = 4;
const CHUNK = 1 << 20;

/** List of numbers that grows without copying. */
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
 * Creates the progress check. It uses only the bridge's own steps, answers of its store and its deadlines, and relies
 * neither on faults nor on the upstream. From every state these steps must lead to rest: every request has ended and,
 * if another request could still be made, no turn is active.
 */
export function createProgress(): Progress {
  const starts = createList();
  const targets = createList();
  const states: number[] = [];

  /**
   * Computes the states from which a wanted state can be reached. Iterates backwards until nothing changes; most steps
   * lead to a later state, so few rounds are needed.
   */
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
