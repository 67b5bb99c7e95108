/**
 * Seeds that failed in the past, with the bugs that they found. They are meaningful as long as `planOf` draws in the
 * same way.
 */
export const regressions: readonly { seed: number; found: string }[] = [
  { seed: 4272, found: 'a hop that arrived during the registration met a worker that was not initialised' },
  { seed: 423, found: 'two requests claimed a session at once, and the earlier claim would have replaced the later' },
  { seed: 412, found: 'the response.created of a lost socket was shown, and then that of the second attempt' },
  { seed: 2607, found: 'an admitted request was lost when an operator’s release was already waiting' },
  { seed: 4177, found: 'a turn that could not be recorded kept its session from every worker except its owner' },
  { seed: 84, found: 'a request that waited for the settle of its anchor was stored without a parent' },
];
