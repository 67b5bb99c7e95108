import type {
  ConnectFault,
  RequestFault,
  RequestMatch,
  RequestSeen,
  Rule,
  TurnFault,
  TurnMatch,
  TurnSeen,
  UpgradeFault,
  UpgradeMatch,
  UpgradeSeen,
} from './faults.ts';

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
    generate: body.generate !== false,
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
