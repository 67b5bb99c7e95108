import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { normaliseError, upstreamAnswerOf } from '../../src/upstream/errors.ts';
import { parseFrame } from '../../src/upstream/frames.ts';

interface FrameCase {
  name: string;
  frame?: unknown;
  text?: string;
  expect: Record<string, unknown>;
}
interface AnswerCase {
  name: string;
  status: number;
  headers: Record<string, string>;
  body: string;
  nowPlusMs?: number;
  expect: Record<string, unknown>;
}

const load = <T>(name: string): T[] => JSON.parse(readFileSync(new URL(`./corpus/${name}`, import.meta.url), 'utf8'));
const frames = load<FrameCase>('frames.json');
const answers = load<AnswerCase>('answers.json');
const now = Date.UTC(2028, 0, 1);

describe('the frame parser over all recorded frames', () => {
  it.each(frames)('The frame parser reads: $name', ({ frame, text, expect: expected }) => {
    expect(parseFrame(text ?? JSON.stringify(frame))).toMatchObject(expected);
  });

  it('The frame parser returns the parsed frame and its type for all JSON except plain deltas', () => {
    for (const { frame } of frames.filter((one) => one.frame !== undefined)) {
      const parsed = parseFrame(JSON.stringify(frame));
      if (!parsed.type.endsWith('.delta')) expect(parsed.data).toEqual(frame);
      expect(parsed.type).toBe(parsed.kind === 'error' ? 'error' : (frame as { type?: string }).type);
    }
  });
});

describe('the error parser over refused requests', () => {
  it.each(answers)('The error parser reads: $name', ({ status, headers, body, nowPlusMs = 0, expect: expected }) => {
    const answer = { status, headers, body: Buffer.from(body) };
    expect(normaliseError(answer, now + nowPlusMs)).toMatchObject(expected);
  });

  it('The error parser accepts values that have no error shape', () => {
    for (const given of [null, undefined, 7, [], {}, '', new Error('socket hang up')]) {
      expect(normaliseError(given)).toMatchObject({ status: 502, type: 'server_error', code: null });
    }
    expect(normaliseError(new Error('socket hang up')).message).toBe('socket hang up');
  });

  it('The error parser handles an error of unlimited nesting, and text that is slow for regular expressions', () => {
    let deep: unknown = { message: 'inner' };
    for (let i = 0; i < 1000; i += 1) deep = { error: deep };
    expect(normaliseError(deep).status).toBe(502);
    expect(normaliseError(`try again in ${'1 m '.repeat(200_000)}x`).status).toBe(502);
    expect(normaliseError(`<html>${'<style>'.repeat(5_000)}`).status).toBe(502);
    expect(normaliseError(`previous_response_id ${'previous_response_id'.repeat(50_000)}`).status).toBe(502);
  });
});

describe('an error frame relayed as an HTTP answer', () => {
  const relayed = (frame: unknown) => {
    const answer = upstreamAnswerOf(normaliseError(frame, now));
    return { ...answer, body: JSON.parse(answer.body.toString()) as { error: Record<string, unknown> } };
  };

  it('An error frame relayed over HTTP keeps the error object as received', () => {
    const error = { type: 'x_error', code: 'y', message: 'm', param: 'p', plan_type: 'plus', status: 'odd' };
    const answer = relayed({ type: 'error', status: 418, error });
    expect(answer).toMatchObject({ status: 418, headers: { 'content-type': 'application/json' } });
    expect(answer.body).toEqual({ error });
  });

  it('An error frame relayed over HTTP gets the canonical code that clients act on', () => {
    expect(relayed({ type: 'error', error: { message: 'Invalid `previous_response_id`.' } })).toMatchObject({
      status: 400,
      body: { error: { code: 'previous_response_not_found', type: 'invalid_request_error', param: null } },
    });
  });

  it('An error frame relayed over HTTP is unwrapped when the frame is the error', () => {
    const frame = { type: 'error', code: 'slow_down', message: 'm', param: null, sequence_number: 3, headers: {} };
    expect(relayed(frame).body).toEqual({
      error: { type: 'server_error', code: 'slow_down', message: 'm', param: null },
    });
  });

  it('An error frame relayed over HTTP has its retry delay in whole seconds', () => {
    const message = 'Please try again in 1.5s.';
    expect(relayed({ type: 'error', error: { code: 'rate_limit_exceeded', message } }).headers).toMatchObject({
      'retry-after': '2',
    });
    expect(relayed({ type: 'error', error: { code: 'insufficient_quota', message: 'no' } }).headers).not.toHaveProperty(
      'retry-after',
    );
  });
});
