import { expect, it } from 'vitest';
import { metricsOf, type Turn } from '../../src/session/turn.ts';

/** Returns a turn with these times, in monotonic milliseconds. */
const turnAt = (times: object, wire: object | null = { form: 'delta' }) =>
  ({
    outcome: 'live_reuse',
    request: { bytes: 10 },
    frameBytes: 20,
    wire,
    ending: null,
    times: { received: 100, placed: 102, begun: 110, ready: 130, started: 134, sent: 140, firstEvent: 170, ...times },
  }) as unknown as Turn;

it('The own share of a turn leaves out the wait for an earlier turn and for a socket', () => {
  expect(metricsOf(turnAt({}), 1, 200)).toEqual({
    ...{ outcome: 'live_reuse', form: 'delta', bytesFromClient: 10, bytesSent: 20, creates: 1, fault: null },
    ...{ upstreamStatus: null, placedMs: 2, begunMs: 10, readyMs: 30, startedMs: 34, heldMs: 40, ownMs: 12 },
    ...{ firstEventMs: 70, totalMs: 100 },
  });
  expect(metricsOf(turnAt({ sent: 140.26 }), 1, 200).ownMs).toBe(12.3);
});

it('A turn whose frame was not sent has neither a form nor an own share', () => {
  expect(metricsOf(turnAt({ sent: null, firstEvent: null }), 0, 200)).toMatchObject({
    ...{ form: null, heldMs: null, ownMs: null, firstEventMs: null },
  });
  for (const wire of [null, { form: 'impossible' }]) expect(metricsOf(turnAt({}, wire), 0, 200).form).toBeNull();
});
