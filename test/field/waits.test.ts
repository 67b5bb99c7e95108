import { describe, expect, it } from 'vitest';
import { type Asked, bodyOf, errorOf, startBoth, user } from './support.ts';

const from = (seconds: number) => Date.now() + seconds * 1_000;
const limited = (error: object = {}, more: object = {}) => ({
  type: 'error',
  status: 429,
  error: { type: 'rate_limit_error', code: 'rate_limit_exceeded', message: 'Slow down.', ...error },
  ...more,
});
const said = (words: string) => limited({ message: `Rate limit reached for m. ${words} Visit the page.` });

/** Forms of the same retry delay of twenty seconds; the parsed value may be one second more. */
const forms: [string, () => object][] = [
  ['a header in seconds', () => limited({}, { headers: { 'Retry-After': '20' } })],
  ['a header that is a number', () => limited({}, { headers: { 'retry-after': 20 } })],
  ['a header that is a list', () => limited({}, { headers: { 'retry-after': ['20'] } })],
  ['a header that is a date', () => limited({}, { headers: { 'retry-after': new Date(from(20.5)).toUTCString() } })],
  ['a header in milliseconds', () => limited({}, { headers: { 'retry-after-ms': '20000' } })],
  ['seconds in the error', () => limited({ resets_in_seconds: 20 })],
  ['a time in the error', () => limited({ resets_at: Math.floor(from(20) / 1_000) })],
  ['words in seconds', () => said('Please try again in 20s.')],
  ['words in milliseconds', () => said('Please try again in 20000ms.')],
  ['words with a fraction', () => said('Please try again in 0m20.2s.')],
  ['words written in full', () => said('Please try again in 20 seconds.')],
  [
    'an error without a type',
    () => ({ status_code: 429, error: { code: 'rate_limit_exceeded', message: 'Try again in 20s.' } }),
  ],
  ['a code in the place of the type', () => ({ type: 'rate_limit_exceeded', message: 'Please try again in 20s.' })],
];

describe('retry delay of a rate limit', () => {
  it.each(forms)('A retry delay given as %s reaches the client in seconds', async (_, frame) => {
    const { ask } = await startBoth(({ send }) => send(frame()));
    for (const stream of [true, false]) {
      const answer = await ask(bodyOf([user('one')], { stream }));
      expect(answer.status).toBe(429);
      expect(errorOf(answer)).toMatchObject({ code: 'rate_limit_exceeded' });
      const wait = Number(answer.headers['retry-after']);
      expect(wait).toBeGreaterThanOrEqual(18);
      expect(wait).toBeLessThanOrEqual(22);
    }
  });

  it('A rate limit without a delay reaches the client without a retry header', async () => {
    const { ask } = await startBoth(({ send }) => send(limited({ message: 'Try again in a while, or in -5s.' })));
    const answer = await ask(bodyOf([user('one')]));
    expect([answer.status, answer.headers['retry-after']]).toEqual([429, undefined]);
  });

  it('A retry delay in an event over HTTP reaches the client in seconds', async () => {
    const { ask } = await startBoth(
      (asked: Asked) => {
        asked.send(limited({ resets_in_seconds: 20 }));
        asked.end();
      },
      { HOLDFAST_UPSTREAM_TRANSPORT: 'http' },
    );
    const answer = await ask(bodyOf([user('one')]));
    expect([answer.status, answer.headers['retry-after']]).toEqual([429, '20']);
  });
});
