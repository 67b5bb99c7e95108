import type { Fault } from './faults.ts';

/** How a turn ended as the simulator saw it. `abandoned`: the peer went away; `detached` frames may still follow. */
export type TurnEnd = 'completed' | 'incomplete' | 'failed' | 'error' | 'closed' | 'reset' | 'abandoned' | 'scripted';

interface Kinds {
  /** An upgrade request, whatever became of it. */
  upgrade: {
    upgrade: number;
    headers: Record<string, string>;
    outcome: 'accepted' | 'hung' | 'reset' | number;
    connection: number | null;
  };
  /** A WebSocket that was opened. */
  opened: { connection: number; headers: Record<string, string> };
  /** A WebSocket that is gone. */
  closed: { connection: number; code: number; reason: string };
  /** A `response.create` frame or a `POST /responses`. */
  create: {
    turn: number;
    connection: number | null;
    transport: 'websocket' | 'http';
    lane: string | null;
    credential: string;
    headers: Record<string, string>;
    /** Empty when the simulator was told not to keep bodies. */
    body: Record<string, unknown>;
    bytes: number;
    itemsReceived: number;
    previousResponseId: string | null;
    generate: boolean;
    /** Turn state the client sent back, by header or `client_metadata`. */
    turnState: string | null;
    /** Creates of the same lane still unfinished when this one arrived. */
    queuedBehind: number;
    /** Sixteen hex digits over the effective context; null while queued and for a refused turn. */
    digest: string | null;
    /** Items of the effective context. */
    contextItems: number | null;
    responseId: string | null;
  };
  /** The end of a turn. */
  end: { turn: number; connection: number | null; responseId: string | null; end: TurnEnd; code: string | null };
  /** A turn reached a hold, a silence or late frames. */
  held: { turn: number; connection: number | null; rule: number };
  /** A rule or the chaos applied. `rule` 0 is the chaos. */
  fault: { rule: number; turn: number | null; connection: number | null; fault: Fault | readonly Fault[] };
  /** Any HTTP request, the turns too. */
  request: { method: string; path: string; headers: Record<string, string>; bytes: number; status: number };
  /** A WebSocket frame that is no `response.create`. */
  frame: { connection: number; text: string };
}

export type EntryKind = keyof Kinds;
export type EntryOf<K extends EntryKind> = { [P in K]: { kind: P; seq: number; at: number } & Kinds[P] }[K];
export type JournalEntry = EntryOf<EntryKind>;

export interface WaitOptions {
  /** Milliseconds after which the wait rejects with a summary of what was recorded. Default 10,000. */
  timeoutMs?: number;
}

export interface Journal {
  readonly entries: readonly JournalEntry[];
  /** All entries of one kind, oldest first. */
  of<K extends EntryKind>(kind: K): EntryOf<K>[];
  /** The first matching entry recorded after this call. Rejects on timeout and when the simulator closes. */
  next<K extends EntryKind>(
    kind: K,
    predicate?: (entry: EntryOf<K>) => boolean,
    options?: WaitOptions,
  ): Promise<EntryOf<K>>;
  /** The first matching entry, already recorded or to come. Rejects like `next`. */
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
  /** Forgets the entries; waits stay. */
  clear(): void;
}

export interface JournalWriter extends Journal {
  record<K extends EntryKind>(kind: K, facts: Kinds[K]): EntryOf<K>;
  close(): void;
}

function isKind<K extends EntryKind>(entry: JournalEntry, kind: K): entry is JournalEntry & EntryOf<K> {
  return entry.kind === kind;
}

/** A journal holding at most `limit` entries; the oldest leave first. */
export function createJournal(limit: number): JournalWriter {
  const entries: JournalEntry[] = [];
  const listeners = new Set<(entry: JournalEntry | null) => void>();
  let seq = 0;

  function summary(): string {
    const counts = new Map<string, number>();
    for (const { kind } of entries) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return [...counts].map(([kind, count]) => `${count} ${kind}`).join(', ') || 'nothing';
  }

  /** Settles when `collect` returns something for an entry; `collect` sees each new entry once, in order. */
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
