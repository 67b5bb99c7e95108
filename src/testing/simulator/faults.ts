import type { Item } from '../../transcript/types.ts';
import type { ErrorShape, ErrorSpec } from './events.ts';
import { isWarmUp } from './events.ts';
import { chance } from './seeded.ts';

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

/** A rule that was added to a script. */
export interface RuleHandle {
  readonly id: number;
  /** Number of times the rule applied. */
  readonly hits: number;
  /** Releases what the rule holds. If nothing is held yet, the next hold passes. */
  release(): void;
  /** Stops applying the rule. What it holds remains held. */
  remove(): void;
}

interface Times {
  times?: number | 'always';
}

/** The active rules. The earliest matching rule applies, by default once. */
export interface Script {
  (rule: Rule): RuleHandle;
  onTurn(match: TurnMatch, fault: TurnFault | readonly TurnFault[], options?: Times): RuleHandle;
  onUpgrade(match: UpgradeMatch, fault: UpgradeFault, options?: Times): RuleHandle;
  onRequest(match: RequestMatch, fault: RequestFault, options?: Times): RuleHandle;
  onConnect(match: { nth?: number }, fault: ConnectFault, options?: Times): RuleHandle;
  /** Returns a rule by id, including used-up ones. */
  handle(id: number): RuleHandle | undefined;
  /** Removes all rules and releases what they hold. */
  clear(): void;
}

/** Gate that `release` opens for all current waiters, or for the next one if there is none. */
export interface Gate {
  wait(signal: AbortSignal): Promise<void>;
  release(): void;
}

/** Creates a closed gate. */
export function createGate(): Gate {
  const waiting = new Set<() => void>();
  let ahead = false;
  return {
    wait(signal) {
      if (ahead || signal.aborted) {
        ahead = false;
        return Promise.resolve();
      }
      return new Promise((resolve) => {
        const go = () => {
          waiting.delete(go);
          signal.removeEventListener('abort', go);
          resolve();
        };
        waiting.add(go);
        signal.addEventListener('abort', go);
      });
    },
    release() {
      if (waiting.size === 0) ahead = true;
      for (const go of [...waiting]) go();
    },
  };
}

/** Faults of a rule that applied to a turn, with the gate that releases its holds. */
interface AppliedFaults {
  rule: number;
  faults: readonly TurnFault[];
  gate: Gate;
}

export interface Rules {
  script: Script;
  forTurn(turn: TurnSeen): AppliedFaults | null;
  forUpgrade(upgrade: UpgradeSeen): { rule: number; fault: UpgradeFault; gate: Gate } | null;
  forRequest(request: RequestSeen): { rule: number; fault: RequestFault } | null;
  forConnect(): { rule: number; fault: ConnectFault } | null;
}

interface Entry {
  id: number;
  rule: Rule;
  gate: Gate;
  /** Number of events that matched all conditions except `nth`. */
  seen: number;
  hits: number;
  removed: boolean;
}

/** Returns whether every member of `match` that is named in `facts` is absent or equal. */
function holds(match: Record<string, unknown>, facts: Record<string, unknown>): boolean {
  return Object.entries(facts).every(([key, value]) => match[key] === undefined || match[key] === value);
}

function turnMatches(match: TurnMatch, turn: TurnSeen): boolean {
  const { body } = turn;
  const facts = {
    turn: turn.turn,
    connection: turn.connection,
    nthOnConnection: turn.nthOnConnection,
    transport: turn.transport,
    anchored: typeof body.previous_response_id === 'string',
    generate: !isWarmUp(body),
    model: body.model,
  };
  if (!holds(match as Record<string, unknown>, facts)) return false;
  if (match.input !== undefined && !JSON.stringify(body.input ?? null).includes(match.input)) return false;
  if (match.body !== undefined && !JSON.stringify(body).includes(match.body)) return false;
  return match.where?.(turn) ?? true;
}

/** Creates the rules, starting with `initial`. */
export function createRules(initial: readonly Rule[]): Rules {
  const entries: Entry[] = [];

  function add(rule: Rule): RuleHandle {
    const entry: Entry = { id: entries.length + 1, rule, gate: createGate(), seen: 0, hits: 0, removed: false };
    entries.push(entry);
    return handleOf(entry);
  }

  function handleOf(entry: Entry): RuleHandle {
    return {
      id: entry.id,
      get hits() {
        return entry.hits;
      },
      release: () => entry.gate.release(),
      remove: () => {
        entry.removed = true;
      },
    };
  }

  function find<O extends Rule['on']>(on: O, matches: (match: Record<string, unknown>) => boolean): Entry | null {
    for (const entry of entries) {
      if (entry.removed || entry.rule.on !== on) continue;
      const times = entry.rule.times ?? 1;
      if (times !== 'always' && entry.hits >= times) continue;
      const match = (entry.rule.match ?? {}) as Record<string, unknown>;
      if (!matches(match) || ++entry.seen < Number(match.nth ?? 1)) continue;
      entry.hits += 1;
      return entry;
    }
    return null;
  }

  const script: Script = Object.assign(add, {
    onTurn: (match: TurnMatch, fault: TurnFault | readonly TurnFault[], options: Times = {}) =>
      add({ on: 'turn', match, fault, ...options }),
    onUpgrade: (match: UpgradeMatch, fault: UpgradeFault, options: Times = {}) =>
      add({ on: 'upgrade', match, fault, ...options }),
    onRequest: (match: RequestMatch, fault: RequestFault, options: Times = {}) =>
      add({ on: 'request', match, fault, ...options }),
    onConnect: (match: { nth?: number }, fault: ConnectFault, options: Times = {}) =>
      add({ on: 'connect', match, fault, ...options }),
    handle: (id: number) => {
      const entry = entries[id - 1];
      return entry && handleOf(entry);
    },
    clear: () => {
      for (const entry of entries) {
        entry.removed = true;
        entry.gate.release();
      }
    },
  });
  for (const rule of initial) add(rule);

  return {
    script,
    forTurn(turn) {
      const entry = find('turn', (match) => turnMatches(match as TurnMatch, turn));
      if (!entry) return null;
      const fault = entry.rule.fault as TurnFault | readonly TurnFault[];
      return { rule: entry.id, gate: entry.gate, faults: Array.isArray(fault) ? fault : [fault as TurnFault] };
    },
    forUpgrade(upgrade) {
      const entry = find('upgrade', (match) => {
        const { where } = match as UpgradeMatch;
        return holds(match, { upgrade: upgrade.upgrade }) && (where?.(upgrade) ?? true);
      });
      return entry && { rule: entry.id, fault: entry.rule.fault as UpgradeFault, gate: entry.gate };
    },
    forRequest(request) {
      const entry = find('request', (match) => {
        const { where } = match as RequestMatch;
        return holds(match, { method: request.method, path: request.path }) && (where?.(request) ?? true);
      });
      return entry && { rule: entry.id, fault: entry.rule.fault as RequestFault };
    },
    forConnect() {
      const entry = find('connect', () => true);
      return entry && { rule: entry.id, fault: entry.rule.fault as ConnectFault };
    },
  };
}

const serverError = { status: 500, code: 'server_error', message: 'The server had an error.' };
const overloaded = { status: 503, code: 'server_is_overloaded', message: 'Our servers are currently overloaded.' };
const rateLimit = { status: 429, type: 'rate_limit_error', code: 'rate_limit_exceeded', message: 'Slow down.' };
const badRequest = { status: 400, code: 'invalid_value', message: 'Invalid value.' };

/**
 * Faults from which chaos chooses, by name. Faults that never end a turn by themselves need a client with deadlines.
 */
const turnFaults = {
  close_before_created: { kind: 'close', at: 'before_created' },
  close_clean_before_created: { kind: 'close', at: 'before_created', code: 1000 },
  close_after_created: { kind: 'close', at: 'after_created' },
  close_after_deltas: { kind: 'close', at: { deltas: 1 } },
  close_after_item_done: { kind: 'close', at: 'after_item_done' },
  close_before_terminal: { kind: 'close', at: 'before_terminal' },
  close_after_terminal: { kind: 'close', at: 'after_terminal', code: 1000 },
  reset_before_created: { kind: 'reset', at: 'before_created' },
  reset_after_created: { kind: 'reset', at: 'after_created' },
  reset_after_deltas: { kind: 'reset', at: { deltas: 1 } },
  reset_after_terminal: { kind: 'reset', at: 'after_terminal' },
  error_before_created: { kind: 'error', error: badRequest },
  error_after_created: { kind: 'error', error: serverError, at: 'after_created' },
  server_error: { kind: 'error', error: serverError },
  overloaded: { kind: 'error', error: overloaded },
  rate_limited: { kind: 'error', error: { ...rateLimit, retryAfter: 1 } },
  failed: { kind: 'failed', code: 'server_error' },
  incomplete: { kind: 'incomplete' },
  refuse_anchor: { kind: 'refuse_anchor' },
  refuse_anchor_terse: { kind: 'refuse_anchor', shape: 'terse' },
  malformed: { kind: 'malformed', at: 'after_created' },
  unknown_events: { kind: 'unknown_events' },
  duplicate_terminal: { kind: 'duplicate_terminal' },
  telemetry: { kind: 'telemetry', count: 2 },
  drip: { kind: 'drip', everyMs: 2 },
  silence_before_created: { kind: 'silence', at: 'before_created' },
  silence_after_created: { kind: 'silence', at: 'after_created' },
  silence_after_telemetry: { kind: 'silence', at: 'before_created', telemetry: 2 },
} as const satisfies Record<string, TurnFault>;

const upgradeFaults = {
  refuse_upgrade: { kind: 'refuse', status: 503 },
  reset_upgrade: { kind: 'reset' },
  hang_upgrade: { kind: 'hang' },
  close_after_upgrade: { kind: 'accept_then_close' },
} as const satisfies Record<string, UpgradeFault>;

/** Name of a fault that chaos can inject. */
export type ChaosKind = keyof typeof turnFaults | keyof typeof upgradeFaults;

/** Settings of random faults. */
export interface ChaosOptions {
  /** Default: the simulator's seed. */
  seed?: number;
  /**
   * Probability of each fault per turn or per upgrade. The sum over turn faults, and the sum over upgrade faults, must
   * not exceed 1.
   */
  rates: Partial<Record<ChaosKind, number>>;
}

/** A fault that chaos injected. */
export interface ChaosRecord {
  kind: ChaosKind;
  /** Number of the turn or of the upgrade. */
  nth: number;
}

/** Running chaos: the faults injected so far, and a way to stop it. */
export interface Chaos {
  readonly seed: number;
  readonly injected: readonly ChaosRecord[];
  stop(): void;
}

export interface ChaosSource {
  handle: Chaos;
  forTurn(turn: number): TurnFault | null;
  forUpgrade(upgrade: number): UpgradeFault | null;
}

/** Creates chaos that chooses faults by seed and number only, so that a campaign can be repeated from its seed. */
export function createChaos(options: ChaosOptions, defaultSeed: number): ChaosSource {
  const seed = options.seed ?? defaultSeed;
  const injected: ChaosRecord[] = [];
  let running = true;

  function draw<K extends ChaosKind>(kinds: readonly K[], what: string, nth: number): K | null {
    if (!running) return null;
    let left = chance(seed, what, nth);
    for (const kind of kinds) {
      left -= options.rates[kind] ?? 0;
      if (left >= 0) continue;
      injected.push({ kind, nth });
      return kind;
    }
    return null;
  }

  return {
    handle: {
      seed,
      injected,
      stop: () => {
        running = false;
      },
    },
    forTurn(turn) {
      const kind = draw(Object.keys(turnFaults) as (keyof typeof turnFaults)[], 'turn', turn);
      return kind && turnFaults[kind];
    },
    forUpgrade(upgrade) {
      const kind = draw(Object.keys(upgradeFaults) as (keyof typeof upgradeFaults)[], 'upgrade', upgrade);
      return kind && upgradeFaults[kind];
    },
  };
}
