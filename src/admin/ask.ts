import type { FailedRequest } from '../observe/failures.ts';
import type { WorkerRow } from '../store/port.ts';
import type { AdminPort, LocalAnswer, LocalView } from './port.ts';

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
  const told = answers.find((answer) => answer?.record)?.record;
  // A former owner's record is better than none.
  return { views, record: told ?? port.here({ sessionIds: [], recordOf }).record };
}

/**
 * Asks every worker that may answer for requests that failed there. Newest first.
 *
 * @param of request, turn or session id; null for all
 * @param limit maximum number of requests returned
 */
export async function askFailures(
  port: Pick<AdminPort, 'workerId' | 'here' | 'there'>,
  workers: readonly WorkerRow[],
  of: string | null,
  limit: number,
): Promise<readonly FailedRequest[]> {
  const question = { sessionIds: [], recordOf: null, failures: { of, limit } };
  const others = workers.filter((worker) => worker.id !== port.workerId && mayAnswer(worker));
  const answers = await Promise.all([port.here(question), ...others.map((worker) => port.there(worker, question))]);
  const found = answers.flatMap((answer) => answer?.failures ?? []);
  return found.sort((one, other) => other.t - one.t).slice(0, limit);
}

/**
 * Asks the other workers for one failed request, and for the record of its session on the worker where it failed.
 *
 * @returns null when no other worker has recorded it
 */
export async function askFailedElsewhere(
  port: Pick<AdminPort, 'workerId' | 'here' | 'there'>,
  workers: readonly WorkerRow[],
  id: string,
): Promise<{ failed: FailedRequest; record: LocalAnswer['record'] } | null> {
  const elsewhere = { workerId: port.workerId, there: port.there, here: () => ({ views: {}, record: null }) };
  const [failed] = await askFailures(elsewhere, workers, id, 1);
  if (!failed) return null;
  const worker = workers.find((each) => each.id === failed.workerId);
  const there =
    worker && failed.session ? await port.there(worker, { sessionIds: [], recordOf: failed.session }) : null;
  return { failed, record: there?.record ?? null };
}
