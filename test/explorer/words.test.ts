import { expect, it } from 'vitest';
// @ts-expect-error: The modules of the browser have no types.
import { clock, when } from '../../src/explorer/browser/words.js';

const local = (text: string) => new Date(text).getTime();

it('A moment of today is shown as its time of day, one of another day with its day, and of another year with its year', () => {
  const now = local('2026-11-30T00:22:43');
  expect(when(local('2026-11-30T00:05:09'), now)).toBe('00:05:09');
  expect(when(local('2026-11-29T23:59:58'), now)).toBe('29 Nov 23:59');
  expect(when(local('2025-12-31T23:59:58'), now)).toBe('31 Dec 2025');
});

it('A time of day has milliseconds where they are asked for', () => {
  expect(clock(local('2026-11-30T09:08:07.006'))).toBe('09:08:07');
  expect(clock(local('2026-11-30T09:08:07.006'), true)).toBe('09:08:07.006');
});
