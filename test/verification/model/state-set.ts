const CHUNK = 1 << 16;

/**
 * Set of states, numbered in order of insertion. States are stored as packed bytes and indexed by an open-addressing
 * hash table of their numbers.
 */
export class StateSet {
  readonly #stride: number;
  readonly #words: number;
  readonly #chunks: Uint32Array[] = [];
  #table = new Uint32Array(1 << 16);
  #size = 0;

  /**
   * Creates an empty set.
   *
   * @param stride bytes of one state, a multiple of four
   */
  constructor(stride: number) {
    this.#stride = stride;
    this.#words = stride / 4;
  }

  get size(): number {
    return this.#size;
  }

  /** Number of bytes allocated. */
  get bytes(): number {
    return this.#chunks.length * CHUNK * this.#stride + this.#table.byteLength;
  }

  /**
   * Adds a state.
   *
   * @param state words of one state
   * @returns its number, or -1 - number when it was known
   */
  add(state: Uint32Array): number {
    const mask = this.#table.length - 1;
    let at = this.#hash(state) & mask;
    for (let entry = this.#table[at]!; entry !== 0; entry = this.#table[at]!) {
      if (this.#same(entry - 1, state)) return -entry;
      at = (at + 1) & mask;
    }
    const number = this.#size;
    const offset = number % CHUNK;
    if (offset === 0) this.#chunks.push(new Uint32Array(CHUNK * this.#words));
    this.#chunks.at(-1)!.set(state, offset * this.#words);
    this.#table[at] = number + 1;
    this.#size += 1;
    if (this.#size * 2 > this.#table.length) this.#grow();
    return number;
  }

  /** Copies a state into `into`. */
  read(number: number, into: Uint32Array): void {
    const chunk = this.#chunks[Math.floor(number / CHUNK)]!;
    const start = (number % CHUNK) * this.#words;
    for (let k = 0; k < this.#words; k += 1) into[k] = chunk[start + k]!;
  }

  #hash(state: Uint32Array): number {
    let hash = 0x811c9dc5;
    for (let k = 0; k < this.#words; k += 1) {
      hash = Math.imul(hash ^ state[k]!, 0x9e3779b1);
      hash ^= hash >>> 15;
    }
    hash = Math.imul(hash, 0x85ebca6b);
    return (hash ^ (hash >>> 13)) >>> 0;
  }

  #same(number: number, state: Uint32Array): boolean {
    const chunk = this.#chunks[Math.floor(number / CHUNK)]!;
    const start = (number % CHUNK) * this.#words;
    for (let k = 0; k < this.#words; k += 1) if (chunk[start + k] !== state[k]) return false;
    return true;
  }

  #grow(): void {
    const table = new Uint32Array(this.#table.length * 2);
    const mask = table.length - 1;
    const state = new Uint32Array(this.#words);
    for (let number = 0; number < this.#size; number += 1) {
      this.read(number, state);
      let at = this.#hash(state) & mask;
      while (table[at] !== 0) at = (at + 1) & mask;
      table[at] = number + 1;
    }
    this.#table = table;
  }
}
