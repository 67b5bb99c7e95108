import type { Chaos, ChaosOptions } from './chaos.ts';
import type { TerminalDialect } from './directives.ts';
import type { Rule } from './faults.ts';
import type { EntryKind, EntryOf, Journal, WaitOptions } from './journal.ts';
import type { Script } from './script.ts';

/** A refusal of every upgrade: how an upstream without WebSocket looks. */
export interface UpgradeRefusal {
  status: number;
  headers?: Record<string, string>;
  body?: unknown;
}

export interface SimulatorOptions {
  /** Default 127.0.0.1. */
  host?: string;
  /** Default: an ephemeral port. */
  port?: number;
  /**
   * Ids, encrypted content and chaos depend only on the seed and on the order of requests. Default: random, so that
   * the response ids of two simulators never meet in one database. Encrypted content stays valid for an equal seed.
   */
  seed?: number;
  /** Milliseconds before the first event of a turn. Default 0. */
  latencyMs?: number;
  /** Milliseconds between events. Default 0: all events of a turn are written at once. */
  eventGapMs?: number;
  /** Deltas per text. Default 3. */
  deltaCount?: number;
  /** Answers begin with a reasoning item. Default false. */
  reasoning?: boolean;
  /** Default true: requests without Authorization get 401. */
  requireAuthorization?: boolean;
  /** Accepted Authorization values; any by default. */
  credentials?: readonly string[];
  /** Default `on`; a status or a refusal turns WebSocket off. */
  webSocket?: 'on' | number | UpgradeRefusal;
  /** Codex turn state: on the handshake (and HTTP answers), by `response.metadata`, both, or (default) not at all. */
  turnState?: 'off' | 'handshake' | 'metadata' | 'both';
  /** `codex.rate_limits` and other signals before `response.created` of a turn over WebSocket. Default true. */
  telemetry?: boolean;
  /**
   * Shares of all streamed turns whose terminal event lists the output differently than it was streamed, together at most
   * 1. Default none, but for requests that name a hosted MCP server and those of a ChatGPT login.
   */
  dialects?: Partial<Record<TerminalDialect, number>>;
  /** Milliseconds a WebSocket may live. Default 60 minutes. */
  connectionLimitMs?: number;
  /** Larger frames close the WebSocket with 1009. Default 16 MiB. */
  maxFrameBytes?: number;
  models?: readonly string[];
  /** Refuse a context with an unanswered tool call, or an answer to an unknown one. Default true. */
  checkToolPairs?: boolean;
  /** Keep request bodies in the journal. Default true. */
  journalBodies?: boolean;
  /** Entries kept. Default 100,000. */
  journalLimit?: number;
  /** Rules in force from the start. */
  script?: readonly Rule[];
}

/** One WebSocket, open or gone. */
export interface SimulatedConnection {
  readonly id: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly open: boolean;
  /** Ids this connection can continue from, one per lane. */
  readonly cachedResponseIds: readonly string[];
  close(code?: number, reason?: string): void;
  /** TCP reset. */
  reset(): void;
  /** Sends a frame outside any turn. */
  send(frame: Record<string, unknown> | string): void;
  /** The connection limit, now: error frame, then close. */
  expire(): void;
  /** Forgets what the connection could continue from. */
  forget(): void;
}

export interface Simulator {
  /** Base URL for clients, e.g. `http://127.0.0.1:40001/v1`. */
  readonly url: string;
  readonly port: number;
  readonly seed: number;
  readonly journal: Journal;
  readonly script: Script;
  /** Every WebSocket accepted so far, oldest first. */
  readonly connections: readonly SimulatedConnection[];
  /** Random faults from now on, decided by the seed and the turn's number. Replaces an earlier chaos. */
  chaos(options: ChaosOptions): Chaos;
  /** The first matching journal entry, already recorded or to come. */
  waitFor<K extends EntryKind>(
    kind: K,
    predicate?: (entry: EntryOf<K>) => boolean,
    options?: WaitOptions,
  ): Promise<EntryOf<K>>;
  /** Ends every open WebSocket: TCP reset, or a close code. */
  dropAll(how?: 'reset' | number): void;
  /** Makes every open WebSocket forget its responses; they stay open. */
  expireCaches(): void;
  /** Forgets a stored response, or all. */
  forgetStored(id?: string): void;
  /** Ends everything: sockets, held turns, waits. Idempotent. */
  close(): Promise<void>;
}
