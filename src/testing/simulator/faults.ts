import type { Item } from '../../transcript/types.ts';
import type { ErrorShape, ErrorSpec } from './error-shapes.ts';

/** Where in a turn's event sequence a fault strikes. `before_terminal`: nothing was committed upstream. */
export type Point =
  | 'before_created'
  | 'after_created'
  | 'after_item_added'
  | 'after_item_done'
  | 'before_terminal'
  | 'after_terminal'
  /** After the nth delta of any kind (or the last, when there are fewer). */
  | { deltas: number }
  /** After the nth event. */
  | { events: number };

/** What the model answers instead of its default. A string becomes a message that still carries the digest. */
export type ScriptedOutput = string | readonly Item[];

/** What happens to one turn. Several may be combined; they are applied in the order given. */
export type TurnFault =
  /** Close the WebSocket (default code 1011), or end the HTTP answer cleanly, without a terminal event. */
  | { kind: 'close'; at: Point; code?: number; reason?: string }
  /** TCP reset. */
  | { kind: 'reset'; at: Point }
  /** Nothing more is ever sent; the connection stays. `telemetry` frames go out first. */
  | { kind: 'silence'; at: Point; telemetry?: number }
  /** The turn stops and goes on when the rule is released (or at the next create on the connection). */
  | { kind: 'hold'; at: Point; until?: 'release' | 'next_create' }
  /**
   * The lane is given up without a terminal event; the rest of the turn's frames follow the next turn's
   * `response.created` on the same connection, or the rule's release.
   */
  | { kind: 'late_frames'; at: Point }
  /** An error frame (HTTP: the status, before the first event). Default point: before `response.created`. */
  | { kind: 'error'; error: ErrorSpec; shape?: ErrorShape; at?: Point; thenClose?: number }
  /** `previous_response_not_found` for an anchored turn; others are left alone. */
  | { kind: 'refuse_anchor'; shape?: ErrorShape; as?: 'error' | 'failed' }
  /** `response.failed`. Default point: after `response.created`. */
  | { kind: 'failed'; code: string; message?: string; at?: Point }
  /** `response.incomplete`. Default reason `max_output_tokens`. */
  | { kind: 'incomplete'; reason?: string }
  /** Ends `incomplete` with reason `steered`; a successor follows without a create. */
  | { kind: 'steered'; input?: string }
  /** Milliseconds before each event. */
  | { kind: 'drip'; everyMs: number }
  /** One delta of at least this many bytes. */
  | { kind: 'huge'; bytes: number }
  | { kind: 'duplicate_terminal'; until?: 'now' | 'next_create' | 'release' }
  /** Events of types no client knows. */
  | { kind: 'unknown_events'; count?: number; at?: Point }
  /** `codex.rate_limits` frames, optionally spaced. Default point: before `response.created`. */
  | { kind: 'telemetry'; count?: number; everyMs?: number; at?: Point }
  /** A frame that is no JSON. The turn goes on. */
  | { kind: 'malformed'; at: Point; text?: string }
  /**
   * Output items that are none (the JSON texts given; default: null, a number, a string, a list, and one nested 9,000
   * deep), streamed and, except for the deepest, listed; and usage that is none. The context is what it would be without.
   */
  | { kind: 'hostile_items'; items?: readonly string[] }
  /** Response ids in the events from a point on name another response. Default: only the terminal event's. */
  | { kind: 'wrong_response_id'; id?: string; from?: Point }
  /** The response gets an id that was given before: the one named, else the last one given to this credential. */
  | { kind: 'reuse_response_id'; id?: string }
  /** Exactly these frames (strings are sent as they are) instead of the turn's own. */
  | { kind: 'frames'; frames: readonly (string | Record<string, unknown>)[] }
  /** Not a fault: what the model answers. */
  | { kind: 'reply'; output: ScriptedOutput }
  /** Over HTTP this exact answer; over WebSocket the body as a frame. */
  | { kind: 'respond'; status: number; headers?: Record<string, string>; body?: unknown };

/** What happens to an upgrade request. */
export type UpgradeFault =
  | { kind: 'refuse'; status: number; headers?: Record<string, string>; body?: unknown }
  /** Answered when the rule is released. */
  | { kind: 'hold' }
  /** Never answered. */
  | { kind: 'hang' }
  | { kind: 'reset' }
  /** Accepted, then closed (default code 1011) before anything was sent. */
  | { kind: 'accept_then_close'; code?: number; reason?: string }
  | { kind: 'accept_then_reset' }
  /** Accepted with further handshake headers. */
  | { kind: 'headers'; headers: Record<string, string> };

/** What happens to a TCP connection before a byte was read. */
export type ConnectFault = { kind: 'reset' };

/** What happens to a plain HTTP request, any path. */
export type RequestFault =
  | { kind: 'respond'; status: number; headers?: Record<string, string>; body?: unknown }
  | { kind: 'hang' }
  | { kind: 'reset' };

/** A turn as rules see it. */
export interface TurnSeen {
  /** Count of creates since the start, from 1. */
  turn: number;
  /** Connection id; null over HTTP. */
  connection: number | null;
  /** Count of creates on this connection, from 1. */
  nthOnConnection: number;
  transport: 'websocket' | 'http';
  lane: string | null;
  body: Readonly<Record<string, unknown>>;
  headers: Readonly<Record<string, string>>;
}

/** All members given must hold. */
export interface TurnMatch {
  /** Applies from the nth turn that otherwise matches, counted from 1 per rule. */
  nth?: number;
  turn?: number;
  connection?: number;
  nthOnConnection?: number;
  transport?: 'websocket' | 'http';
  anchored?: boolean;
  generate?: boolean;
  model?: string;
  /** A substring of the JSON of `input`. */
  input?: string;
  /** A substring of the body's JSON. */
  body?: string;
  where?: (turn: TurnSeen) => boolean;
}

export interface UpgradeSeen {
  /** Count of upgrade requests, from 1. */
  upgrade: number;
  headers: Readonly<Record<string, string>>;
}

export interface UpgradeMatch {
  /** Applies from the nth upgrade that otherwise matches, counted from 1 per rule. */
  nth?: number;
  upgrade?: number;
  where?: (upgrade: UpgradeSeen) => boolean;
}

export interface RequestSeen {
  method: string;
  path: string;
  headers: Readonly<Record<string, string>>;
}

export interface RequestMatch {
  nth?: number;
  method?: string;
  path?: string;
  where?: (request: RequestSeen) => boolean;
}

interface RuleBase {
  /** How often the rule applies; default once. */
  times?: number | 'always';
}

/** JSON unless `where` is used, so that a rule can also be posted to a simulator in another process. */
export type Rule = RuleBase &
  (
    | { on: 'turn'; match?: TurnMatch; fault: TurnFault | readonly TurnFault[] }
    | { on: 'upgrade'; match?: UpgradeMatch; fault: UpgradeFault }
    | { on: 'connect'; match?: { nth?: number }; fault: ConnectFault }
    | { on: 'request'; match?: RequestMatch; fault: RequestFault }
  );

export type Fault = TurnFault | UpgradeFault | ConnectFault | RequestFault;
