import { createHash } from 'node:crypto';
import { type BridgeCode, catalogue } from '../errors.ts';
import type { TurnLine } from '../session/turn.ts';
import type { Clock } from '../system.ts';
import { hasFailed, reasonOf } from './activity.ts';
import { endingOf, type FlightEnding } from './trace.ts';

/** Request as operators may see it: nothing that a client wrote except its method and a path of this API. */
export interface RefusedRequest {
  id: string;
  /** `null` for an upgrade, which has no id. */
  method: string | null;
  path: string | null;
  /** True for a request to open a WebSocket. */
  upgrade: boolean;
  tenant: string | null;
}

/**
 * Request that has ended, mostly one that was answered with an error. Describes it without a database row, a session or a story. Holds no content
 * and no credential.
 */
export interface FailedRequest {
  /** Wall-clock time at which the request ended, in milliseconds. */
  t: number;
  workerId: string;
  /** Id that the client received as `x-request-id`; an id of its own for an upgrade, whose answer has none. */
  request: string;
  /** Null when the request had no session. A session whose first turn failed has no database row either. */
  session: string | null;
  /** Null for a request that did not become a turn. */
  turn: string | null;
  fault: string | null;
  cause: string | null;
  upstreamStatus: number | null;
  /** Timing and placement of the turn; null for a request that did not become a turn. */
  ending: FlightEnding | null;
  // The following are absent in answers of workers of an earlier release.
  /** HTTP status that the client got; null where it left before an answer. */
  status?: number | null;
  /** `code` of the error that the client got. */
  code?: string | null;
  /** What the client is advised to do. */
  action?: string | null;
  method?: string | null;
  path?: string | null;
  upgrade?: boolean;
  response?: string | null;
  tenant?: string | null;
  key?: string | null;
  model?: string | null;
  outcome?: string | null;
  /** Recovered from the row of the turn: its worker's own record is gone. */
  fromRow?: boolean;
}

/** Filters of a search for failures. Absent ones match everything. */
export interface FailureFilter {
  /** Request, response, session, turn or thread id, or a prefix of one. */
  of: string | null;
  since?: number | undefined;
  until?: number | undefined;
  model?: string | undefined;
  outcome?: string | undefined;
  tenant?: string | undefined;
  /** `bridge_code`, `upstream_<status>`, or part of the cause. */
  reason?: string | undefined;
}

/** Shortest prefix of an id that is searched for. */
const SHORTEST = 4;

/** Returns the function that decides whether a failure matches a filter. */
export function failureMatcher({ of, since, until, model, outcome, tenant, reason }: FailureFilter) {
  const hashed = of === null ? '' : createHash('sha256').update(of).digest('hex');
  const isNamed = (id: string | null | undefined) =>
    id !== null && id !== undefined && (id === of || (of!.length >= SHORTEST && id.startsWith(of!)));
  const isOf = ({ request, turn, session, response, key }: FailedRequest) =>
    of === null ||
    [request, turn, session, response, key].some(isNamed) ||
    (typeof key === 'string' && key !== '' && (hashed.startsWith(key) || of.startsWith(key)));
  return (failed: FailedRequest): boolean =>
    isOf(failed) &&
    (since === undefined || failed.t >= since) &&
    (until === undefined || failed.t < until) &&
    (model === undefined || failed.model === model) &&
    (outcome === undefined || (failed.outcome ?? failed.ending?.outcome) === outcome) &&
    (tenant === undefined || failed.tenant === tenant) &&
    (reason === undefined || reasonOf(failed) === reason || (failed.cause ?? '').includes(reason));
}

/** The last requests of this worker. Kept in memory only: a restart loses them. */
export interface Failures {
  /** Records a turn from its log line. */
  turnEnded(line: TurnLine): void;
  /** Records a request that the bridge answered with an error before it became a turn. */
  requestFailed(request: RefusedRequest, fault: BridgeCode, cause: string | null): void;
  /** Returns recorded failures that match, newest first. */
  list(filter: FailureFilter, limit: number): FailedRequest[];
  /**
   * Returns requests that ended here, well or not, by the beginning of the id of the request, its turn or its session,
   * newest first.
   */
  ended(beginning: string, limit: number): FailedRequest[];
}

/** Most failures kept, and most refusals of requests that are the client's own mistake: neither displaces the other. */
const MOST = 500;
/** Most turns that ended well, kept in order to be found by the id of their request, which no row holds. */
const MOST_ENDED = 2_000;

/** The last things of a kind. */
class Last<T> {
  readonly #most: number;
  readonly #kept: T[] = [];
  #next = 0;

  constructor(most: number) {
    this.#most = most;
  }

  add(each: T): void {
    this.#kept[this.#next] = each;
    this.#next = (this.#next + 1) % this.#most;
  }

  /** Returns them, oldest first. */
  all(): T[] {
    return [...this.#kept.slice(this.#next), ...this.#kept.slice(0, this.#next)];
  }
}

/** An ended turn: when and where, and its log line. */
interface EndedTurn {
  t: number;
  workerId: string;
  line: TurnLine;
}

/** What the client got for a fault of the catalogue. */
function answerTo(fault: string | null): Pick<FailedRequest, 'code' | 'action'> {
  const entry = fault === null ? undefined : catalogue[fault as BridgeCode];
  return { code: entry?.code ?? null, action: entry?.action ?? null };
}

/** Returns an ended turn as a request. */
function requestOf({ t, workerId, line }: EndedTurn): FailedRequest {
  const { request, session, turn, response, fault, cause, upstreamStatus, status, tenant, key, model, outcome } = line;
  return {
    ...{ t, workerId, request, session, turn, response, fault, cause, upstreamStatus, ending: endingOf(line) },
    ...{ status, ...answerTo(fault), tenant, key, model, outcome },
    ...{ method: 'POST', path: null, upgrade: false },
  };
}

const newestFirst = (one: FailedRequest, other: FailedRequest) => other.t - one.t;

/** Creates the empty in-memory lists of the last requests. */
export function createFailures(options: { workerId(): string; clock: Pick<Clock, 'wall'> }): Failures {
  const failed = new Last<FailedRequest>(MOST);
  const refused = new Last<FailedRequest>(MOST);
  // Few of them are ever read, so their lines are kept as they are.
  const well = new Last<EndedTurn>(MOST_ENDED);
  const now = () => ({ t: options.clock.wall(), workerId: options.workerId() });
  return {
    turnEnded(line) {
      const ended = { ...now(), line };
      if (hasFailed(line)) failed.add(requestOf(ended));
      else well.add(ended);
    },
    requestFailed({ id, method, path, upgrade, tenant }, fault, cause) {
      const { status } = catalogue[fault];
      (status >= 500 ? failed : refused).add({
        ...{ ...now(), request: id, session: null, turn: null, fault, cause, upstreamStatus: null, ending: null },
        ...{ status, ...answerTo(fault), method, path, upgrade, tenant, model: null, outcome: null },
      });
    },
    list(filter, limit) {
      const matches = failureMatcher(filter);
      return [...failed.all(), ...refused.all()].sort(newestFirst).filter(matches).slice(0, limit);
    },
    ended(beginning, limit) {
      const isNamed = ({ request, turn, session }: Pick<FailedRequest, 'request' | 'turn' | 'session'>) =>
        [request, turn, session].some((id) => id?.startsWith(beginning));
      const wellNamed = well.all().flatMap((ended) => (isNamed(ended.line) ? [requestOf(ended)] : []));
      return [...[...failed.all(), ...refused.all()].filter(isNamed), ...wellNamed].sort(newestFirst).slice(0, limit);
    },
  };
}
