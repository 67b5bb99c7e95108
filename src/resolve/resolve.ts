import { admissionRows } from './rows/admission.ts';
import { ownershipRows } from './rows/ownership.ts';
import { prefixRows } from './rows/prefix.ts';
import type { Row } from './rows/row.ts';
import { sessionRows } from './rows/session.ts';
import { survey } from './situation.ts';
import type { Decision, Evidence, Facts } from './types.ts';

/** The whole table, in the order in which it is read: the first row that matches decides. */
export const rows: readonly Row[] = [...admissionRows, ...ownershipRows, ...sessionRows, ...prefixRows];

/** A decision together with the row that made it, for the log. */
export interface Resolution {
  row: Row;
  decision: Decision;
}

/**
 * Decides a request, and says by which row. Pure and one pass: what a failed attempt taught comes back as a fact, and
 * the caller bounds how often it asks (three times for one request, then `bridge_conflict`).
 *
 * An anchor is answered exactly or not at all: weaker evidence may choose a worker, never the parent.
 */
export function explain(evidence: Evidence, facts: Facts): Resolution {
  const situation = survey(evidence, facts);
  for (const row of rows) {
    const decision = row.decide(situation);
    if (decision) return { row, decision };
  }
  // The last row matches everything, so this says only that somebody removed it.
  throw new Error('The resolution table has no row for this request.');
}

/** Decides a request from its evidence and the facts at hand. See `explain`. */
export function resolve(evidence: Evidence, facts: Facts): Decision {
  return explain(evidence, facts).decision;
}
