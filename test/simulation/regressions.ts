/** Seeds that once failed, and what they had found. They mean what they say as long as `planOf` draws as it does. */
export const regressions: readonly { seed: number; found: string }[] = [
  { seed: 4272, found: 'a hop that came while the registration was still unanswered met a worker half made' },
  { seed: 423, found: 'two requests claimed a session at once, and the earlier claim would have replaced the later' },
  { seed: 412, found: 'the response.created of a lost socket was shown, and then that of the second attempt' },
  { seed: 2607, found: 'a request taken in hand was forgotten when an operator’s release was already waiting' },
  { seed: 4177, found: 'a turn that nobody could record kept its session from every worker but its owner' },
];
