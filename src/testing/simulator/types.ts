import type { Chaos, ChaosOptions, Rule, Script } from './faults.ts';
import type { EntryKind, EntryOf, Journal, WaitOptions } from './journal.ts';
import type { TerminalDialect } from './reply.ts';

/** Refusal of every upgrade, as by an upstream without WebSocket support. */
export interface UpgradeRefusal {
  status: number;
  headers?: Record<string, string>;
  body?: unknown;
}

/** Options of {@link startSimulator}. */
export interface SimulatorOptions {
  /** Default 127.0.0.1. */
  host?: string;
  /** Default: an ephemeral port. */
  port?: number;
  /**
   * Seed of ids, encrypted content and chaos, which depend only on it and on the order of requests. Default: random, so
   * that the response ids of two simulators never collide in one database. Encrypted content stays valid under an equal
   * seed.
   */
  seed?: number;
  /** Delay before the first event of a turn, in milliseconds. Default 0. */
  latencyMs?: number;
  /** Delay between events, in milliseconds. Default 0: all events of a turn are written at once. */
  eventGapMs?: number;
  /** Number of deltas per text. Default 3. */
  deltaCount?: number;
  /** True when answers start with a reasoning item. Default false. */
  reasoning?: boolean;
  /** True when requests without Authorization get 401. Default true. */
  requireAuthorization?: boolean;
  /** Accepted Authorization values. Default: any. */
  credentials?: readonly string[];
  /** Default `on`. A status or a refusal disables WebSocket. */
  webSocket?: 'on' | number | UpgradeRefusal;
  /**
   * What the provider does with the `stream_id` of a frame. Default `known`. `ignored`: all frames belong to one lane;
   * `refused`: it is an unknown parameter.
   */
  lanes?: 'known' | 'ignored' | 'refused';
  /**
   * Place of the Codex turn state: on the handshake (and HTTP answers), by `response.metadata`, both, or not at all
   * (default).
   */
  turnState?: 'off' | 'handshake' | 'metadata' | 'both';
  /**
   * True when `codex.rate_limits` and other signals precede `response.created` of a turn over WebSocket. Default true.
   */
  telemetry?: boolean;
  /**
   * Shares of all streamed turns whose terminal event lists the output differently than it was streamed. Their sum must
   * not exceed 1. Default: none, except for requests that name a hosted MCP server and requests of a ChatGPT login.
   */
  dialects?: Partial<Record<TerminalDialect, number>>;
  /** Maximum age of a WebSocket, in milliseconds. Default 60 minutes. */
  connectionLimitMs?: number;
  /** Maximum frame size. A larger frame closes the WebSocket with 1009. Default 16 MiB. */
  maxFrameBytes?: number;
  models?: readonly string[];
  /** True to refuse a context with an unanswered tool call, or with an output of an unknown call. Default true. */
  checkToolPairs?: boolean;
  /** True to keep request bodies in the journal. Default true. */
  journalBodies?: boolean;
  /** Maximum number of journal entries. Default 100,000. */
  journalLimit?: number;
  /** Rules active from the start. */
  script?: readonly Rule[];
}

/** One WebSocket, open or closed. */
export interface SimulatedConnection {
  readonly id: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly open: boolean;
  /** Ids of the responses this connection can continue from, one per lane. */
  readonly cachedResponseIds: readonly string[];
  close(code?: number, reason?: string): void;
  /** Resets the TCP connection. */
  reset(): void;
  /** Sends a frame outside any turn. */
  send(frame: Record<string, unknown> | string): void;
  /** Applies the connection limit immediately: an error frame, then close. */
  expire(): void;
  /** Clears the responses that the connection could continue from. */
  forget(): void;
}

/** A running simulator of the Responses API. */
export interface Simulator {
  /** Base URL for clients, for example `http://127.0.0.1:40001/v1`. */
  readonly url: string;
  readonly port: number;
  readonly seed: number;
  readonly journal: Journal;
  readonly script: Script;
  /** All WebSockets accepted so far, oldest first. */
  readonly connections: readonly SimulatedConnection[];
  /** Starts injecting random faults, determined by the seed and the turn's number. Replaces an earlier chaos. */
  chaos(options: ChaosOptions): Chaos;
  /** Resolves to the first matching journal entry, already recorded or future. */
  waitFor<K extends EntryKind>(
    kind: K,
    predicate?: (entry: EntryOf<K>) => boolean,
    options?: WaitOptions,
  ): Promise<EntryOf<K>>;
  /** Ends every open WebSocket by TCP reset or with a close code. */
  dropAll(how?: 'reset' | number): void;
  /** Clears the response cache of every open WebSocket; the connections stay open. */
  expireCaches(): void;
  /** Deletes a stored response, or all of them. */
  forgetStored(id?: string): void;
  /** Ends all sockets, held turns and waits. Idempotent. */
  close(): Promise<void>;
}
