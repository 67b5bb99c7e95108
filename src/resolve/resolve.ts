import { admissionRows } from './rows/admission.ts';
import { ownershipRows } from './rows/ownership.ts';
import { prefixRows } from './rows/prefix.ts';
import type { Row } from './rows/row.ts';
import { sessionRows } from './rows/session.ts';
import { survey } from './situation.ts';
import type { Decision, Evidence, Facts } from './types.ts';

/** The whole resolution table. The first row that matches decides. */
export const rows: readonly Row[] = [...admissionRows, ...ownershipRows, ...sessionRows, ...prefixRows];

/** A decision and the row that made it, for the log. */
export interface Resolution {
  row: Row;
  decision: Decision;
}

/**
 * Decides a request and names the row that decided. Pure, in one pass. Facts from failed attempts are passed in again,
 * and the caller bounds the number of attempts (three for one request, then `bridge_conflict`).
 *
 * An anchor is continued exactly or not at all: weaker evidence may select a worker, but never the parent.
 *
 * @throws Error if no row matches, which means that the last row was removed
 */
export function explain(evidence: Evidence, facts: Facts): Resolution {
  const situation = survey(evidence, facts);
  for (const row of rows) {
    const decision = row.decide(situation);
    if (decision) return { row, decision };
  }
  // The last row matches every request; this is only reached if it was removed.
  throw new Error('The resolution table has no row for this request.');
}

/** Decides a request from its evidence and the facts at hand. See `explain`. */
export function resolve(evidence: Evidence, facts: Facts): Decision {
  return explain(evidence, facts).decision;
}
