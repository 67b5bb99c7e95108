/** Seeds that once failed, and what they had found. They mean what they say as long as `planOf` draws as it does. */
export const regressions: readonly { seed: number; found: string }[] = [
];
