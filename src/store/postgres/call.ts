import type { NoVerdict } from '../port.ts';
import type { Executor, Statement } from './executor.ts';
import { NoAnswer } from './outcome.ts';

/**
 * Executes one call whose answer is a verdict. Never rejects: a call without an answer gets `unknown`; an error reported by
 * the database, or parameters that cannot be serialised, give `rejected`.
 */
export type Call = <Verdict>(
  statement: Statement,
  parameters: () => readonly unknown[] | Promise<readonly unknown[]>,
) => Promise<Verdict | NoVerdict>;

/** Creates calls over an executor. */
export function createCall(executor: Executor): Call {
  return async <Verdict>(
    statement: Statement,
    parameters: () => readonly unknown[] | Promise<readonly unknown[]>,
  ): Promise<Verdict | NoVerdict> => {
    try {
      const rows = await executor.run<{ answer: string }>(statement, await parameters());
      return JSON.parse(rows[0]!.answer) as Verdict;
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error);
      return { verdict: error instanceof NoAnswer ? 'unknown' : 'rejected', reason };
    }
  };
}
