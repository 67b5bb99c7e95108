/** A mutant that no test can notice, since it behaves as the original does. */
export interface Equivalent {
  file: string;
  /** As the report prints it. */
  original: string;
  /** As the report prints it; empty where the original is taken out. */
  mutant: string;
  reason: string;
}

/** Mutants that are no survivors. Each must still exist, and its reason must hold for every caller. */
export const equivalents: readonly Equivalent[] = [];
