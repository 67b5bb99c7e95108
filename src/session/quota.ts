import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import { BridgeError } from '../errors.ts';

/** What a tenant can have too much of. */
export const tenantLimits = ['requests_per_minute', 'waiting', 'bodies', 'turns', 'sockets', 'connections'] as const;
export type TenantLimit = (typeof tenantLimits)[number];

/** One request in hand: it counts for its tenant from its admission until `end`. */
export interface Lease {
  /**
   * So many bytes more of its body were read; what Content-Length announced was counted at the admission already.
   *
   * @throws BridgeError `bridge_tenant_busy` or `bridge_bodies_full` when that is more than may be in hand
   */
  addBytes(bytes: number): void;
  /** It stops waiting and runs a turn, or already does. False: its tenant runs as many as it may (`tenantBusy('turns')`). */
  run(): boolean;
  /** Gives everything back. Only the first call counts. */
  end(): void;
}

/** What one turn keeps for a client that comes back. */
export interface BufferShare {
  /** So many bytes more are kept. Buffers are given up before this returns where that is too much, this one perhaps. */
  grow(bytes: number): void;
  /** Nothing of this turn is kept any more. */
  empty(): void;
}

export interface Admission {
  /** What Content-Length announces, bytes; 0 when it does not. */
  declaredBytes?: number;
  /** Whether the request counts against the requests a minute. Another worker has counted what it forwards. */
  metered?: boolean;
}

/** What each tenant has in hand on this worker, and how much it may have. */
export interface Quota {
  /** Admits a request before its body is read. Throws `bridge_rate_limited`, `bridge_tenant_busy` or `bridge_bodies_full`. */
  admit(scope: string, admission?: Admission): Lease;
  /** @param giveUp stops keeping the events of that turn; called at most once after each `grow` from nothing */
  buffer(scope: string, giveUp: () => void): BufferShare;
  /**
   * Reads from the store for a tenant. Where several tenants may come, only some reads of one go on at the same time:
   * what the store is asked for one tenant must not make the answers of others late. Rejects as `work` does.
   */
  read<T>(scope: string, work: () => Promise<T>): Promise<T>;
  /** Counts a refusal that was found elsewhere, and returns its error. */
  refuse(limit: BusyLimit): BridgeError;
  /**
   * So many bytes more, or fewer, were written to clients that have not read them yet. True: all turns together are so
   * far behind their clients that those which are should not go on.
   */
  unread(change: number): boolean;
  /** Several tenants may come: then none may hold more of a resource than is free for the others. */
  readonly several: boolean;
  /** Everything in hand, over all tenants. */
  readonly inHand: { readonly waiting: number; readonly running: number; readonly bytes: number };
  /** Bytes of events kept over all turns. */
  readonly bufferedBytes: number;
  /** Bytes that clients have not read, over all turns. */
  readonly unreadBytes: number;
  /** Tenants of whom something is remembered. */
  readonly tenants: number;
}

export interface QuotaOptions {
  config: Pick<Config, 'limits' | 'security' | 'upstream'>;
  clock: Pick<Clock, 'now'>;
  onRefused?(limit: TenantLimit): void;
  /** A turn is not kept any more for a client that comes back. */
  onGivenUp?(): void;
}

interface Account {
  waiting: number;
  running: number;
  bytes: number;
  /** Requests that the last minute has not yet paid for, as of `at`. */
  spent: number;
  /** Monotonic milliseconds. */
  at: number;
}

interface Buffers {
  bytes: number;
  /** Bytes by what gives the buffer up. */
  each: Map<() => void, number>;
}

/** More tenants with nothing in hand are not remembered; the one that asked longest ago is forgotten first. */
const MOST_REMEMBERED = 10_000;
/** How many tenants one admission looks at to forget them. */
const LOOKS = 8;
/** Reads of one tenant that the store is asked at the same time. */
const MOST_READS = 32;
const MINUTE = 60_000;
/** Sums of fractions of a request are as exact as this. */
const ROUNDING = 1e-6;

type BusyLimit = Exclude<TenantLimit, 'requests_per_minute'>;

const busyWith: Record<BusyLimit, string> = {
  waiting: 'Too many of its requests wait.',
  bodies: 'The bodies of its requests are too large together.',
  turns: 'It runs as many turns as it may.',
  sockets: 'It holds as many upstream connections as it may.',
  connections: 'Its requests hold as many client connections as they may.',
};

/** The error of a request that would take its tenant beyond a limit. */
export const tenantBusy = (limit: BusyLimit): BridgeError =>
  new BridgeError('bridge_tenant_busy', { detail: busyWith[limit] });

/** Whether more than one tenant can ask: API keys of several, or credentials of the clients' own. */
const severalTenants = ({ upstream, security }: Pick<Config, 'security' | 'upstream'>): boolean =>
  upstream.key === null || new Set(security.apiKeys.map(({ tenant }) => tenant)).size > 1;

/** A duration as OpenAI's `x-ratelimit-reset-*` headers write it: `20ms`, `8.64s`, `6m0s`. */
export function resetText(ms: number): string {
  const whole = Math.max(0, Math.ceil(ms));
  if (whole < 1_000) return `${whole}ms`;
  const minutes = Math.floor(whole / MINUTE);
  const seconds = (whole - minutes * MINUTE) / 1_000;
  return minutes > 0 ? `${minutes}m${seconds}s` : `${seconds}s`;
}

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

  /** Forgets tenants of whom there is nothing left to know; those that asked last stand at the end. */
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

  /** The first bytes of a tenant with none are refused only where the worker has no room at all, as its first turn is. */
  const checkRoom = ({ bytes }: Account, more: number): void => {
    const free = limits.bodiesBytes - total.bytes;
    if (more === 0) return;
    if (bytes + more > mostBytes || (several && bytes > 0 && bytes + more > free)) throw refuse('bodies');
    if (more > free) throw new BridgeError('bridge_bodies_full');
  };
  /** A tenant that runs nothing may always start: whether there is a socket for it is for the worker to say. */
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
        // Its place goes to the next in line, or is free.
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
          for (let most = fullest(); buffered > budget && most; most = fullest()) largest(most)?.();
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
