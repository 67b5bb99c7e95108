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
 * Asks the owners of these sessions what only they know, each once and all at the same time. Sessions of which nothing
 * could be learned are absent: their rows are all there is to see.
 *
 * @param recordOf one of the sessions, of which everything that is remembered is wanted too
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
      // What nobody owns may still be remembered where somebody asks.
      if (ownerId === null || ownerId === port.workerId) return port.here(question);
      const worker = workers.find(({ id }) => id === ownerId);
      return worker && mayAnswer(worker) ? port.there(worker, question) : null;
    }),
  );
  const views = new Map<string, LocalView>();
  for (const answer of answers) for (const [id, view] of Object.entries(answer?.views ?? {})) views.set(id, view);
  const told = answers.find((answer) => answer?.record)?.record;
  // An earlier owner's memory is better than none.
  return { views, record: told ?? port.here({ sessionIds: [], recordOf }).record };
}

/**
 * Asks every worker that may answer for requests that failed there, newest first.
 *
 * @param of a request, turn or session id; null for the newest of all
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

/** Asks the other workers for one request that failed at one of them, and for what is remembered of its session there. */
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
