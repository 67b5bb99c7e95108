import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';
import type { Clock } from '../system.ts';

/** Limits per tenant, by name. */
export const tenantLimits = ['requests_per_minute', 'waiting', 'bodies', 'turns', 'sockets', 'connections'] as const;
export type TenantLimit = (typeof tenantLimits)[number];

/** The admission of one request. The request counts for its tenant until `end`. */
export interface Lease {
  /**
   * Counts bytes of the body as they are read. Bytes announced by Content-Length were already counted at admission.
   *
   * @param bytes number of bytes read since the last call
   * @throws BridgeError `bridge_tenant_busy` or `bridge_bodies_full` if that exceeds the tenant's or the worker's limit
   */
  addBytes(bytes: number): void;
  /**
   * Moves the request from waiting to running; no effect if it is running already.
   *
   * @returns false if its tenant already runs as many turns as it may (`tenantBusy('turns')`)
   */
  run(): boolean;
  /** Releases everything that the request counted for. Idempotent. */
  end(): void;
}

/** Accounting for the events that one turn keeps for a client that reconnects. */
export interface BufferShare {
  /**
   * Counts further bytes that are kept. If the budget is exceeded, buffers are dropped before this returns, possibly
   * this one.
   */
  grow(bytes: number): void;
  /** Notes that this turn keeps no events any more. */
  empty(): void;
}

export interface Admission {
  /** Content-Length in bytes; 0 without one. */
  declaredBytes?: number;
  /**
   * True if the request counts against the requests per minute. A forwarded request was counted by the worker that
   * received it.
   */
  metered?: boolean;
}

/** Tracks and limits each tenant's use of this worker. */
export interface Quota {
  /**
   * Admits a request before its body is read.
   *
   * @throws BridgeError `bridge_rate_limited`, `bridge_tenant_busy` or `bridge_bodies_full`
   */
  admit(scope: string, admission?: Admission): Lease;
  /**
   * Creates the accounting for one turn's buffered events.
   *
   * @param giveUp drops that turn's buffered events; called at most once after each `grow` from nothing
   */
  buffer(scope: string, giveUp: () => void): BufferShare;
  /**
   * Runs a read from the store for a tenant. If there may be several tenants, the number of concurrent reads per tenant
   * is limited, so that one tenant's queries do not delay the others. Rejects as `work` does.
   */
  read<T>(scope: string, work: () => Promise<T>): Promise<T>;
  /** Counts a refusal that another component decided, and returns its error. */
  refuse(limit: BusyLimit): BridgeError;
  /**
   * Adjusts the number of bytes that were written to clients and not read yet.
   *
   * @param change difference in bytes, positive or negative
   * @returns true if all turns together are so far ahead of their clients that the ones with slow readers have to pause
   */
  unread(change: number): boolean;
  /** True if there may be several tenants: then none may hold more of a resource than is free for the others. */
  readonly several: boolean;
  /** Totals over all tenants: waiting requests, running turns, bytes of bodies. */
  readonly inHand: { readonly waiting: number; readonly running: number; readonly bytes: number };
  /** Bytes of buffered events over all turns. */
  readonly bufferedBytes: number;
  /** Bytes that clients have not read yet, over all turns. */
  readonly unreadBytes: number;
  /** Number of tenants with an account. */
  readonly tenants: number;
}

export interface QuotaOptions {
  config: Pick<Config, 'limits' | 'security' | 'upstream'>;
  clock: Pick<Clock, 'now'>;
  onRefused?(limit: TenantLimit): void;
  /** Called when a turn's buffered events were dropped because of the budget. */
  onGivenUp?(): void;
}

interface Account {
  waiting: number;
  running: number;
  bytes: number;
  /** Fill level of the rate limiter's bucket in requests, as of `at`. */
  spent: number;
  /** Time of the last update of `spent`, in monotonic milliseconds. */
  at: number;
}

interface Buffers {
  bytes: number;
  /** Bytes of each buffer, by the function that drops it. */
  each: Map<() => void, number>;
}

/** Maximum number of accounts of idle tenants that are kept; the least recently used one is dropped first. */
const MOST_REMEMBERED = 10_000;
/** Number of accounts that one admission examines for removal. */
const LOOKS = 8;
/** Maximum number of concurrent store reads of one tenant. */
const MOST_READS = 32;
const MINUTE = 60_000;
/** Tolerance for rounding errors in sums of fractions of a request. */
const ROUNDING = 1e-6;

type BusyLimit = Exclude<TenantLimit, 'requests_per_minute'>;

const busyWith: Record<BusyLimit, string> = {
  waiting: 'Too many of its requests wait.',
  bodies: 'The bodies of its requests are too large together.',
  turns: 'It runs as many turns as it may.',
  sockets: 'It holds as many upstream connections as it may.',
  connections: 'Its requests hold as many client connections as they may.',
};

/** Returns the error of a request that would exceed a limit of its tenant. */
export const tenantBusy = (limit: BusyLimit): BridgeError =>
  new BridgeError('bridge_tenant_busy', { detail: busyWith[limit] });

/**
 * Returns whether there can be more than one tenant: API keys of several tenants, an application that names them, or the
 * clients' own credentials.
 */
const severalTenants = ({ upstream, security }: Pick<Config, 'security' | 'upstream'>): boolean =>
  security.byHook || upstream.key === null || new Set(security.apiKeys.map(({ tenant }) => tenant)).size > 1;

/**
 * Formats a duration like OpenAI's `x-ratelimit-reset-*` headers: `20ms`, `8.64s`, `6m0s`.
 *
 * @param ms milliseconds
 */
export function resetText(ms: number): string {
  const whole = Math.max(0, Math.ceil(ms));
  if (whole < 1_000) return `${whole}ms`;
  const minutes = Math.floor(whole / MINUTE);
  const seconds = (whole - minutes * MINUTE) / 1_000;
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`;
}

/** Creates the quota of one worker. */
export function createQuota({ config, clock, onRefused, onGivenUp }: QuotaOptions): Quota {
  const { limits } = config;
  const several = severalTenants(config);
  const accounts = new Map<string, Account>();
  const buffers = new Map<string, Buffers>();
  const reading = new Map<string, { now: number; waiting: (() => void)[] }>();
  const total = { waiting: 0, running: 0, bytes: 0 };
  let buffered = 0;
  let unread = 0;
  const mostBytes = limits.tenantBodyBytes === 0 ? Infinity : Math.max(limits.tenantBodyBytes, limits.bodyBytes);
  const perMs = limits.tenantRequests / MINUTE;

  const refuse = (limit: BusyLimit): BridgeError => {
    onRefused?.(limit);
    return tenantBusy(limit);
  };
  const refuseRate = ({ spent }: Account): BridgeError => {
    onRefused?.('requests_per_minute');
    const wait = (spent + 1 - limits.tenantRequests) / perMs;
    return new BridgeError('bridge_rate_limited', {
      retryAfterSeconds: Math.max(1, Math.ceil((wait - ROUNDING) / 1_000)),
      headers: {
        'x-ratelimit-limit-requests': String(limits.tenantRequests),
        'x-ratelimit-remaining-requests': String(Math.max(0, Math.floor(limits.tenantRequests - spent + ROUNDING))),
        'x-ratelimit-reset-requests': resetText(spent / perMs),
      },
    });
  };

  const settle = (account: Account) => {
    const now = clock.now();
    account.spent = Math.max(0, account.spent - (now - account.at) * perMs);
    account.at = now;
  };
  const isIdle = ({ waiting, running, bytes }: Account) => waiting + running + bytes === 0;

  /**
   * Removes idle accounts, except those whose rate limiter is not empty while there is room. The map is ordered by last
   * use, the most recently used account at the end.
   */
  function sweep(): void {
    let looks = LOOKS;
    for (const [scope, account] of accounts) {
      if (looks-- === 0) return;
      accounts.delete(scope);
      if (!isIdle(account)) accounts.set(scope, account);
      else if (accounts.size < MOST_REMEMBERED) {
        settle(account);
        if (account.spent > 0) accounts.set(scope, account);
      }
    }
  }

  function accountOf(scope: string): Account {
    const account = accounts.get(scope) ?? { waiting: 0, running: 0, bytes: 0, spent: 0, at: clock.now() };
    accounts.delete(scope);
    sweep();
    accounts.set(scope, account);
    settle(account);
    return account;
  }

  /**
   * Checks whether more bytes of bodies fit. The first bytes of a tenant that holds none are refused only if the worker
   * has no room at all; the same holds for a tenant's first turn.
   */
  const checkRoom = ({ bytes }: Account, more: number): void => {
    const free = limits.bodiesBytes - total.bytes;
    if (more === 0) return;
    if (bytes + more > mostBytes || (several && bytes > 0 && bytes + more > free)) throw refuse('bodies');
    if (more > free) throw new BridgeError('bridge_bodies_full');
  };
  /** A tenant without a running turn may always start one; the limit on sockets is checked by the session registry. */
  const mayRun = ({ running }: Account) =>
    running === 0 ||
    ((limits.tenantTurns === 0 || running < limits.tenantTurns) &&
      (!several || running < limits.sockets - total.running));

  function largest(of: Buffers): (() => void) | null {
    let found: (() => void) | null = null;
    let most = -1;
    for (const [giveUp, bytes] of of.each) if (bytes > most) [found, most] = [giveUp, bytes];
    return found;
  }

  function fullest(): Buffers | null {
    let found: Buffers | null = null;
    for (const each of buffers.values()) if (found === null || each.bytes > found.bytes) found = each;
    return found;
  }

  function dropBuffer(scope: string, giveUp: () => void): void {
    const of = buffers.get(scope);
    const bytes = of?.each.get(giveUp);
    if (!of || bytes === undefined) return;
    of.each.delete(giveUp);
    of.bytes -= bytes;
    buffered -= bytes;
    if (of.each.size === 0) buffers.delete(scope);
  }

  return {
    several,
    refuse,
    admit(scope, { declaredBytes = 0, metered = true } = {}) {
      const account = accountOf(scope);
      const declared = Number.isFinite(declaredBytes) ? Math.max(0, declaredBytes) : 0;
      if (account.waiting >= limits.tenantWaiting) throw refuse('waiting');
      checkRoom(account, declared);
      if (metered && perMs > 0) {
        if (account.spent + 1 > limits.tenantRequests + ROUNDING) throw refuseRate(account);
        account.spent += 1;
      }
      let state: 'waiting' | 'running' | 'ended' = 'waiting';
      let held = declared;
      let read = 0;
      const add = (key: 'waiting' | 'running' | 'bytes', by: number) => {
        account[key] += by;
        total[key] += by;
      };
      add('waiting', 1);
      add('bytes', declared);
      return {
        addBytes(bytes) {
          if (state === 'ended') return;
          read += bytes;
          const more = Math.max(0, read - held);
          checkRoom(account, more);
          held += more;
          add('bytes', more);
        },
        run() {
          if (state !== 'waiting') return state === 'running';
          if (!mayRun(account)) {
            onRefused?.('turns');
            return false;
          }
          state = 'running';
          add('waiting', -1);
          add('running', 1);
          return true;
        },
        end() {
          if (state === 'ended') return;
          add(state, -1);
          add('bytes', -held);
          state = 'ended';
          if (perMs === 0 && isIdle(account)) accounts.delete(scope);
        },
      };
    },
    async read(scope, work) {
      if (!several) return work();
      const line = reading.get(scope) ?? { now: 0, waiting: [] };
      reading.set(scope, line);
      if (line.now < MOST_READS) line.now += 1;
      else await new Promise<void>((go) => line.waiting.push(go));
      try {
        return await work();
      } finally {
        // The slot passes to the next waiting read, or becomes free.
        const next = line.waiting.shift();
        if (next) next();
        else if (--line.now === 0) reading.delete(scope);
      }
    },
    buffer(scope, giveUp) {
      const drop = () => {
        dropBuffer(scope, drop);
        onGivenUp?.();
        giveUp();
      };
      return {
        grow(bytes) {
          let of = buffers.get(scope);
          if (!of) buffers.set(scope, (of = { bytes: 0, each: new Map() }));
          of.each.set(drop, (of.each.get(drop) ?? 0) + bytes);
          of.bytes += bytes;
          buffered += bytes;
          const budget = limits.turnBuffersBytes;
          while (buffered > budget) {
            const most = fullest();
            if (!most) break;
            largest(most)?.();
          }
          while (several && of.each.size > 0 && of.bytes > budget - buffered) largest(of)?.();
        },
        empty: () => dropBuffer(scope, drop),
      };
    },
    unread(change) {
      unread += change;
      return unread > limits.turnBuffersBytes;
    },
    get unreadBytes() {
      return unread;
    },
    get inHand() {
      return { ...total };
    },
    get bufferedBytes() {
      return buffered;
    },
    get tenants() {
      return accounts.size;
    },
  };
}
