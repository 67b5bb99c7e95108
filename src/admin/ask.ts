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
