import { expect, test } from 'vitest';
import { isTransient, sqlState } from '../../src/store/postgres/outcome.ts';

const reported = (code: string) => Object.assign(new Error('reported'), { severity: 'ERROR', code });

test.each([
  ['08006', 'connection failure'],
  ['08P01', 'protocol violation'],
  ['57P01', 'admin shutdown'],
  ['57P03', 'cannot connect now'],
  ['57014', 'query cancelled'],
  ['40001', 'serialization failure'],
  ['40P01', 'deadlock'],
  ['55P03', 'lock not available'],
  ['53200', 'out of memory'],
  ['53300', 'too many connections'],
  ['25006', 'read-only server'],
  ['26000', 'prepared statement lost'],
])('Error %s (%s) leaves the result of the call unknown', (code) => {
  expect(isTransient(reported(code))).toBe(true);
});

test.each([
  ['23505', 'unique violation'],
  ['22P02', 'bad input'],
  ['42883', 'undefined function'],
  ['P0001', 'raised'],
  ['53100', 'disk full'],
])('Error %s (%s) is a refusal', (code) => {
  expect(isTransient(reported(code))).toBe(false);
});

test('Errors of the connection are not treated as SQLSTATE, though some look like one', () => {
  const broken = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
  expect(sqlState(broken)).toBeNull();
  expect(isTransient(broken)).toBe(true);
  expect(isTransient(new Error('Connection terminated unexpectedly'))).toBe(true);
});
