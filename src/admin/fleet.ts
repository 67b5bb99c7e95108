import type { Activity, ActivityWindow } from '../observe/activity.ts';
import type { FailedRequest, FailureFilter } from '../observe/failures.ts';
import type { FlightRecord } from '../observe/trace.ts';
import type { SessionReads, StoreAdmin, WorkerRegistry, WorkerRow } from '../store/port.ts';

/** State of a session that only its owner knows. */
export interface LocalView {
  /** Dotted path. A parallel state ends the path. */
  state: string;
  epoch: number;
  socketOpen: boolean;
  socketAgeMs: number | null;
  queueLength: number;
  busy: boolean;
}

/** Question to a worker about sessions it owns. */
export interface Question {
  sessionIds: readonly string[];
  /** One session whose event record is requested too. */
  recordOf: string | null;
  /**
   * Requests failures recorded there that match. With `ended`: all requests that ended there, well or not, by the beginning
   * of the id of the request, its turn or its session.
   */
  failures?: (FailureFilter & { limit: number; ended?: boolean | undefined }) | undefined;
  /** Span over which the sums of its activity are requested. */
  activity?: ActivityWindow | undefined;
  /** True: the sessions whose first turn is not stored yet are requested. */
  unstored?: boolean | undefined;
}

/** Session without a row: its first turn waits for its socket or for the store. */
export interface UnstoredSession {
  id: string;
  epoch: number;
  scope: string;
  /** Dotted state of its actor. */
  state: string;
  queueLength: number;
  model: string | null;
  /** Time at which its first request was read, in milliseconds since the epoch. */
  since: number;
  /** Reason why the upstream was not reached yet; null while no attempt has failed. */
  cause: string | null;
}

/** A worker's answer. It has no entries for sessions without an actor there. */
export interface LocalAnswer {
  views: Readonly<Record<string, LocalView>>;
  record: FlightRecord | null;
  /** Absent when not requested, and in answers of workers of an earlier release. */
  failures?: readonly FailedRequest[];
  activity?: Activity;
  unstored?: readonly UnstoredSession[];
}

export type OperatorAction = 'release' | 'close' | 'drop-anchor';

/** Services that the admin API uses. */
export interface AdminPort {
  store: Pick<
    StoreAdmin,
    | 'sessionById'
    | 'listSessions'
    | 'turnDetails'
    | 'keysOf'
    | 'forksOf'
    | 'turnsEnded'
    | 'ownedSessions'
    | 'story'
    | 'operatorRelease'
    | 'operatorClose'
    | 'dropAnchor'
  > &
    Pick<SessionReads, 'session' | 'turn'> &
    Pick<WorkerRegistry, 'workers'>;
  readonly workerId: string;
  /** Asks this worker. */
  here(question: Question): LocalAnswer;
  /** Asks another worker, with a time limit. Returns null when it is unavailable or does not answer. */
  there(worker: WorkerRow, question: Question): Promise<LocalAnswer | null>;
  /** Passes an operator's action to the local actor, if there is one. */
  tell(sessionId: string, action: OperatorAction): void;
  /**
   * Notifies another worker that one of its sessions was taken over and now has this epoch, or is to be closed. Best
   * effort.
   */
  hint(worker: WorkerRow, notice: { sessionId: string; epoch: number; news: 'claimed' | 'close' }): void;
}

interface Owned {
  id: string;
  ownerWorkerId: string | null;
}

const mayAnswer = ({ internalUrl, state, leaseLeftMs }: WorkerRow) =>
  internalUrl !== null && state !== 'dead' && leaseLeftMs > 0;

/**
 * Asks the owners of these sessions for the state that only they hold. Each owner receives one request, all of them in
 * parallel. Sessions without an answer are absent from the result; only their rows are then known.
 *
 * @param recordOf one of the sessions, whose event record is requested too
 */
export async function askOwners(
  port: AdminPort,
  sessions: readonly Owned[],
  workers: readonly WorkerRow[],
  recordOf: string | null = null,
): Promise<{ views: ReadonlyMap<string, LocalView>; record: LocalAnswer['record'] }> {
  const byOwner = Map.groupBy(sessions, ({ ownerWorkerId }) => ownerWorkerId);
  const answers = await Promise.all(
    [...byOwner].map(([ownerId, owned]) => {
      const question = { sessionIds: owned.map(({ id }) => id), recordOf };
      // For a session without an owner, this worker may still hold a record.
      if (ownerId === null || ownerId === port.workerId) return port.here(question);
      const worker = workers.find(({ id }) => id === ownerId);
      return worker && mayAnswer(worker) ? port.there(worker, question) : null;
    }),
  );
  const views = new Map<string, LocalView>();
  for (const answer of answers) for (const [id, view] of Object.entries(answer?.views ?? {})) views.set(id, view);
  const recorded = answers.find((answer) => answer?.record)?.record;
  // A former owner's record is better than none.
  return { views, record: recorded ?? port.here({ sessionIds: [], recordOf }).record };
}

/** Asks every worker that may answer. Those that do not answer are left out. */
export async function askAll(
  port: Pick<AdminPort, 'workerId' | 'here' | 'there'>,
  workers: readonly WorkerRow[],
  about: Pick<Question, 'failures' | 'activity' | 'unstored'>,
): Promise<{ workerId: string; answer: LocalAnswer }[]> {
  const question: Question = { sessionIds: [], recordOf: null, ...about };
  const others = workers.filter((worker) => worker.id !== port.workerId && mayAnswer(worker));
  const answers = await Promise.all([
    { workerId: port.workerId, answer: port.here(question) },
    ...others.map(async (worker) => ({ workerId: worker.id, answer: await port.there(worker, question) })),
  ]);
  return answers.flatMap(({ workerId, answer }) => (answer ? [{ workerId, answer }] : []));
}

/**
 * Asks every worker that may answer for at most `limit` matching requests that failed there. Newest first.
 *
 * @param ended true for all requests that ended there, see `Question`
 */
export async function askFailures(
  port: Pick<AdminPort, 'workerId' | 'here' | 'there'>,
  workers: readonly WorkerRow[],
  filter: FailureFilter,
  limit: number,
  ended = false,
): Promise<readonly FailedRequest[]> {
  const answers = await askAll(port, workers, { failures: { ...filter, limit, ...(ended && { ended }) } });
  const found = answers.flatMap(({ answer }) => answer.failures ?? []);
  return found.sort((one, other) => other.t - one.t).slice(0, limit);
}

/**
 * Asks the other workers for one request by the beginning of an id, and for the record of its session on the worker where it
 * ended.
 *
 * @returns null when no other worker has recorded it
 */
export async function askEndedElsewhere(
  port: Pick<AdminPort, 'workerId' | 'here' | 'there'>,
  workers: readonly WorkerRow[],
  beginning: string,
): Promise<{ failed: FailedRequest; record: LocalAnswer['record'] } | null> {
  const elsewhere = { workerId: port.workerId, there: port.there, here: () => ({ views: {}, record: null }) };
  const [failed] = await askFailures(elsewhere, workers, { of: beginning }, 1, true);
  if (!failed) return null;
  const worker = workers.find((each) => each.id === failed.workerId);
  const there =
    worker && failed.session ? await port.there(worker, { sessionIds: [], recordOf: failed.session }) : null;
  return { failed, record: there?.record ?? null };
}
