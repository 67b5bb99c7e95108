/** A mutant that no test can notice, since it behaves as the original does. */
export interface Equivalent {
  file: string;
  /** As the JSON report and `--list` have it, whole. */
  original: string;
  /** The same; empty where the original is taken out. */
  mutant: string;
  reason: string;
}

/** Mutants that are no survivors. Each must still exist, and its reason must hold for every caller. */
export const equivalents: readonly Equivalent[] = [
  {
    file: 'src/upstream/frames.ts',
    original: "type.startsWith('response.')",
    mutant: 'false',
    reason: 'No known code or class of errors begins with `response.`, so the question after it answers false as well.',
  },
];
