import type { Item } from '../../transcript/types.ts';
import type { ErrorShape, ErrorSpec } from './error-shapes.ts';

/**
 * Position in a turn's event sequence at which a fault occurs. `before_terminal`: the provider has not committed the
 * response yet.
 */
export type Point =
  | 'before_created'
  | 'after_created'
  | 'after_item_added'
  | 'after_item_done'
  | 'before_terminal'
  | 'after_terminal'
  /** After the nth delta of any kind, or after the last one when there are fewer. */
  | { deltas: number }
  /** After the nth event. */
  | { events: number };

/** Output of the model in place of its default. A string becomes a message that still contains the digest. */
export type ScriptedOutput = string | readonly Item[];

/** Fault of one turn. Several faults can be combined; they are applied in the order given. */
export type TurnFault =
  /** Closes the WebSocket (default code 1011), or ends the HTTP answer cleanly, without a terminal event. */
  | { kind: 'close'; at: Point; code?: number; reason?: string }
  /** TCP reset. */
  | { kind: 'reset'; at: Point }
  /** Sends nothing more and keeps the connection open. `telemetry` frames are sent first. */
  | { kind: 'silence'; at: Point; telemetry?: number }
  /** Pauses the turn until the rule is released, or until the next create on the connection. */
  | { kind: 'hold'; at: Point; until?: 'release' | 'next_create' }
  /**
   * Frees the lane without a terminal event. The rest of the turn's frames follow the next turn's `response.created` on
   * the same connection, or the rule's release.
   */
  | { kind: 'late_frames'; at: Point }
  /** Sends an error frame; over HTTP, a status before the first event. Default point: before `response.created`. */
  | { kind: 'error'; error: ErrorSpec; shape?: ErrorShape; at?: Point; thenClose?: number }
  /** Answers an anchored turn with `previous_response_not_found`. Has no effect on other turns. */
  | { kind: 'refuse_anchor'; shape?: ErrorShape; as?: 'error' | 'failed' }
  /** Sends `response.failed`. Default point: after `response.created`. */
  | { kind: 'failed'; code: string; message?: string; at?: Point }
  /** Ends with `response.incomplete`. Default reason: `max_output_tokens`. */
  | { kind: 'incomplete'; reason?: string }
  /** Ends `incomplete` with reason `steered`. A successor follows without a create. */
  | { kind: 'steered'; input?: string }
  /** Delays each event by `everyMs` milliseconds. */
  | { kind: 'drip'; everyMs: number }
  /** Sends one delta of at least this many bytes. */
  | { kind: 'huge'; bytes: number }
  | { kind: 'duplicate_terminal'; until?: 'now' | 'next_create' | 'release' }
  /** Sends events of types unknown to clients. */
  | { kind: 'unknown_events'; count?: number; at?: Point }
  /**
   * Sends `codex.rate_limits` frames, `everyMs` milliseconds apart if given. Default point: before `response.created`.
   */
  | { kind: 'telemetry'; count?: number; everyMs?: number; at?: Point }
  /** Sends a frame that is not valid JSON. The turn continues. */
  | { kind: 'malformed'; at: Point; text?: string }
  /**
   * Sends output items that are not items: the given JSON texts; default: null, a number, a string, a list, and one
   * nested 9,000 levels deep. They are streamed and, except for the deepest, listed; `usage` is invalid too. The
   * context is the same as without them.
   */
  | { kind: 'hostile_items'; items?: readonly string[] }
  /** Replaces the response id in the events from a point on. Default: only in the terminal event. */
  | { kind: 'wrong_response_id'; id?: string; from?: Point }
  /** Reuses a response id that was assigned before: the given one, or else the last one of this credential. */
  | { kind: 'reuse_response_id'; id?: string }
  /** Sends exactly these frames instead of the turn's own. Strings are sent unchanged. */
  | { kind: 'frames'; frames: readonly (string | Record<string, unknown>)[] }
  /** Not a fault: sets the model's output. */
  | { kind: 'reply'; output: ScriptedOutput }
  /** Sends exactly this answer over HTTP, or its body as a frame over WebSocket. */
  | { kind: 'respond'; status: number; headers?: Record<string, string>; body?: unknown };

/** Fault of an upgrade request. */
export type UpgradeFault =
  | { kind: 'refuse'; status: number; headers?: Record<string, string>; body?: unknown }
  /** Answers when the rule is released. */
  | { kind: 'hold' }
  /** Never answers. */
  | { kind: 'hang' }
  | { kind: 'reset' }
  /** Accepts, then closes (default code 1011) before anything is sent. */
  | { kind: 'accept_then_close'; code?: number; reason?: string }
  | { kind: 'accept_then_reset' }
  /** Accepts with additional handshake headers. */
  | { kind: 'headers'; headers: Record<string, string> };

/** Fault of a TCP connection before any data is read. */
export type ConnectFault = { kind: 'reset' };

/** Fault of a plain HTTP request on any path. */
export type RequestFault =
  | { kind: 'respond'; status: number; headers?: Record<string, string>; body?: unknown }
  | { kind: 'hang' }
  | { kind: 'reset' };

/** A turn as rules see it. */
export interface TurnSeen {
  /** Number of creates since the start, from 1. */
  turn: number;
  /** Connection id; null over HTTP. */
  connection: number | null;
  /** Number of creates on this connection, from 1. */
  nthOnConnection: number;
  transport: 'websocket' | 'http';
  lane: string | null;
  body: Readonly<Record<string, unknown>>;
  headers: Readonly<Record<string, string>>;
}

/** Conditions for a turn. All given members must match. */
export interface TurnMatch {
  /** Applies from the nth turn on that matches all other conditions, counted from 1 per rule. */
  nth?: number;
  turn?: number;
  connection?: number;
  nthOnConnection?: number;
  transport?: 'websocket' | 'http';
  anchored?: boolean;
  generate?: boolean;
  model?: string;
  /** Substring of the JSON of `input`. */
  input?: string;
  /** Substring of the body's JSON. */
  body?: string;
  where?: (turn: TurnSeen) => boolean;
}

/** An upgrade request as a rule sees it. */
export interface UpgradeSeen {
  /** Number of upgrade requests, from 1. */
  upgrade: number;
  headers: Readonly<Record<string, string>>;
}

/** Conditions of a rule for upgrade requests; all given ones must hold. */
export interface UpgradeMatch {
  /** Applies from the nth upgrade on that matches all other conditions, counted from 1 per rule. */
  nth?: number;
  upgrade?: number;
  where?: (upgrade: UpgradeSeen) => boolean;
}

/** A request that starts no turn, as a rule sees it. */
export interface RequestSeen {
  method: string;
  path: string;
  headers: Readonly<Record<string, string>>;
}

/** Conditions of a rule for requests that start no turn; all given ones must hold. */
export interface RequestMatch {
  nth?: number;
  method?: string;
  path?: string;
  where?: (request: RequestSeen) => boolean;
}

interface RuleBase {
  /** Number of times the rule applies; default 1. */
  times?: number | 'always';
}

/**
 * Rule for injecting faults. It is plain JSON unless `where` is used, so it can also be posted to a simulator in
 * another process.
 */
export type Rule = RuleBase &
  (
    | { on: 'turn'; match?: TurnMatch; fault: TurnFault | readonly TurnFault[] }
    | { on: 'upgrade'; match?: UpgradeMatch; fault: UpgradeFault }
    | { on: 'connect'; match?: { nth?: number }; fault: ConnectFault }
    | { on: 'request'; match?: RequestMatch; fault: RequestFault }
  );

/** Any fault that a rule can inject. */
export type Fault = TurnFault | UpgradeFault | ConnectFault | RequestFault;
