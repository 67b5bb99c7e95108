import type { Fault } from './faults.ts';

/**
 * End of a turn from the simulator's point of view. `abandoned`: the peer disconnected. `scripted`: the turn's program
 * ended without any of the other ends.
 */
export type TurnEnd = 'completed' | 'incomplete' | 'failed' | 'error' | 'closed' | 'reset' | 'abandoned' | 'scripted';

interface Kinds {
  /** An upgrade request, with its outcome. */
  upgrade: {
    upgrade: number;
    headers: Record<string, string>;
    outcome: 'accepted' | 'hung' | 'reset' | number;
    connection: number | null;
  };
  /** A WebSocket was opened. */
  opened: { connection: number; headers: Record<string, string> };
  /** A WebSocket was closed or lost. */
  closed: { connection: number; code: number; reason: string };
  /** A `response.create` frame or a `POST /responses`. */
  create: {
    turn: number;
    connection: number | null;
    transport: 'websocket' | 'http';
    lane: string | null;
    credential: string;
    headers: Record<string, string>;
    /** Empty when the simulator is configured not to keep bodies. */
    body: Record<string, unknown>;
    bytes: number;
    itemsReceived: number;
    previousResponseId: string | null;
    generate: boolean;
    /** Turn state returned by the client, in a header or in `client_metadata`. */
    turnState: string | null;
    /** Number of unfinished creates in the same lane when this one arrived. */
    queuedBehind: number;
    /** Sixteen hex digits over the effective context; null while queued, and for a refused turn. */
    digest: string | null;
    /** Number of items of the effective context. */
    contextItems: number | null;
    responseId: string | null;
  };
  /** The end of a turn. */
  end: { turn: number; connection: number | null; responseId: string | null; end: TurnEnd; code: string | null };
  /** A turn reached a hold, a silence or late frames. */
  held: { turn: number; connection: number | null; rule: number };
  /** A rule or the chaos was applied. `rule` 0 is the chaos. */
  fault: { rule: number; turn: number | null; connection: number | null; fault: Fault | readonly Fault[] };
  /** Any HTTP request, including those of turns. */
  request: { method: string; path: string; headers: Record<string, string>; bytes: number; status: number };
  /** A WebSocket frame other than `response.create`. */
  frame: { connection: number; text: string };
}

/** Kind of a journal entry. */
export type EntryKind = keyof Kinds;
/** Journal entry of one kind, with its number and its time in milliseconds. */
export type EntryOf<K extends EntryKind> = { [P in K]: { kind: P; seq: number; at: number } & Kinds[P] }[K];
/** Journal entry of any kind. */
export type JournalEntry = EntryOf<EntryKind>;

/** Options of a wait for a journal entry. */
export interface WaitOptions {
  /** Time after which the wait rejects with a summary of the recorded entries, in milliseconds. Default 10,000. */
  timeoutMs?: number;
}

/** Record of everything that reached the simulator, in order. */
export interface Journal {
  readonly entries: readonly JournalEntry[];
  /** Returns all entries of one kind, oldest first. */
  of<K extends EntryKind>(kind: K): EntryOf<K>[];
  /**
   * Resolves to the first matching entry recorded after this call. Rejects on timeout and when the simulator closes.
   */
  next<K extends EntryKind>(
    kind: K,
    predicate?: (entry: EntryOf<K>) => boolean,
    options?: WaitOptions,
  ): Promise<EntryOf<K>>;
  /** Resolves to the first matching entry, already recorded or future. Rejects like `next`. */
  waitFor<K extends EntryKind>(
    kind: K,
    predicate?: (entry: EntryOf<K>) => boolean,
    options?: WaitOptions,
  ): Promise<EntryOf<K>>;
  /** Resolves once `count` matching entries exist. Rejects like `next`. */
  count<K extends EntryKind>(
    kind: K,
    count: number,
    predicate?: (entry: EntryOf<K>) => boolean,
    options?: WaitOptions,
  ): Promise<EntryOf<K>[]>;
  /** Removes all entries. Pending waits continue. */
  clear(): void;
}

export interface JournalWriter extends Journal {
  record<K extends EntryKind>(kind: K, facts: Kinds[K]): EntryOf<K>;
  close(): void;
}

function isKind<K extends EntryKind>(entry: JournalEntry, kind: K): entry is JournalEntry & EntryOf<K> {
  return entry.kind === kind;
}

/** Creates a journal of at most `limit` entries; the oldest are dropped first. */
export function createJournal(limit: number): JournalWriter {
  const entries: JournalEntry[] = [];
  const listeners = new Set<(entry: JournalEntry | null) => void>();
  let seq = 0;

  function summary(): string {
    const counts = new Map<string, number>();
    for (const { kind } of entries) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return [...counts].map(([kind, count]) => `${count} ${kind}`).join(', ') || 'nothing';
  }

  /** Resolves when `collect` returns a value. `collect` is called once for each new entry, in order. */
  function wait<T>(what: string, collect: (entry: JournalEntry) => T | undefined, options: WaitOptions = {}) {
    return new Promise<T>((resolve, reject) => {
      const done = () => {
        clearTimeout(timer);
        listeners.delete(listener);
      };
      const fail = (why: string) => {
        done();
        reject(new Error(`No ${what} ${why}; the journal has ${summary()}.`));
      };
      const listener = (entry: JournalEntry | null) => {
        if (entry === null) return fail('before the simulator closed');
        const found = collect(entry);
        if (found === undefined) return;
        done();
        resolve(found);
      };
      const timeoutMs = options.timeoutMs ?? 10_000;
      const timer = setTimeout(() => fail(`within ${timeoutMs} ms`), timeoutMs);
      listeners.add(listener);
    });
  }

  const journal: JournalWriter = {
    entries,
    of: <K extends EntryKind>(kind: K) => entries.filter((entry) => isKind(entry, kind)),
    next: <K extends EntryKind>(
      kind: K,
      predicate: (entry: EntryOf<K>) => boolean = () => true,
      options?: WaitOptions,
    ) => wait(`${kind} entry`, (entry) => (isKind(entry, kind) && predicate(entry) ? entry : undefined), options),
    async waitFor(kind, predicate = () => true, options) {
      return journal.of(kind).find(predicate) ?? (await journal.next(kind, predicate, options));
    },
    async count<K extends EntryKind>(
      kind: K,
      count: number,
      predicate: (entry: EntryOf<K>) => boolean = () => true,
      options?: WaitOptions,
    ) {
      const matching = () => journal.of(kind).filter(predicate);
      const present = matching();
      if (present.length >= count) return present;
      return wait(
        `${count} ${kind} entries`,
        () => {
          const found = matching();
          return found.length >= count ? found : undefined;
        },
        options,
      );
    },
    clear: () => void entries.splice(0),
    record<K extends EntryKind>(kind: K, facts: Kinds[K]) {
      const entry = { kind, seq: ++seq, at: Date.now(), ...facts } as unknown as EntryOf<K>;
      entries.push(entry as JournalEntry);
      if (entries.length > limit) entries.shift();
      for (const listener of [...listeners]) listener(entry as JournalEntry);
      return entry;
    },
    close() {
      for (const listener of [...listeners]) listener(null);
    },
  };
  return journal;
}
