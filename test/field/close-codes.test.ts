import { once } from 'node:events';
import { describe, expect, it, vi } from 'vitest';
import { type Clock, systemClock } from '../../src/system.ts';
import { type Asked, bodyOf, endsOf, errorOf, message, startBoth, user } from './support.ts';

const codes = [1000, 1001, 1005, 1006, 1007, 1008, 1011, 1012, 1013, 1014, 3000, 4001, 4999];
const begin = ({ send }: Asked) =>
  send({ type: 'response.created', response: { id: 'resp_x', status: 'in_progress' } });
const telemetry = { type: 'codex.rate_limits', rate_limits: { allowed: true } };

function close({ socket }: Asked, code: number, reason = '') {
  if (code === 1006) socket!.terminate();
  else if (code === 1005) socket!.close();
  else socket!.close(code, reason);
}

describe('a socket that the provider closes', () => {
  it.each<[string, (asked: Asked) => void]>([
    ['before it answered', () => {}],
    ['after telemetry alone', ({ send }) => send(telemetry)],
    ['after response.created alone', begin],
  ])(
    'A socket closed %s costs one more generation that the client does not see, whatever the code',
    async (_, before) => {
      const { ask, asked } = await startBoth((turn) => {
        if (turn.n % 2 === 0) return turn.answer();
        before(turn);
        close(turn, codes[(turn.n - 1) / 2]!, 'service restart');
      });
      for (const code of codes) {
        const answer = await ask(bodyOf([user(String(code))]), { 'thread-id': String(code) });
        expect([code, answer.status, endsOf(answer)]).toEqual([code, 200, ['response.completed']]);
        expect(answer.events.filter(({ type }) => type === 'response.created')).toHaveLength(1);
      }
      expect(asked).toHaveLength(codes.length * 2);
    },
  );

  it('A socket closed after output was shown ends the turn with one response.failed, without another generation', async () => {
    const { ask, asked } = await startBoth((turn) => {
      begin(turn);
      turn.send({ type: 'response.output_item.done', output_index: 0, item: message('msg_x', 'half') });
      close(turn, codes[turn.n - 1]!);
    });
    for (const code of codes) {
      const answer = await ask(bodyOf([user(String(code))]), { 'thread-id': String(code) });
      expect([code, answer.status, endsOf(answer)]).toEqual([code, 200, ['response.failed']]);
    }
    expect(asked).toHaveLength(codes.length);
  });

  it.each([true, false])(
    'A turn whose sockets are closed repeatedly ends in one retryable error (stream: %s)',
    async (stream) => {
      const { ask, asked } = await startBoth((turn) => close(turn, [1011, 1012, 1006][turn.n % 3]!));
      const answer = await ask(bodyOf([user('always')], { stream }));
      expect([502, 503]).toContain(answer.status);
      expect(errorOf(answer)?.code).toBeTruthy();
      expect(asked.length).toBeLessThanOrEqual(3);
    },
  );

  it('A socket closed between two turns costs nothing: the next turn is sent whole on another socket', async () => {
    const { ask, asked } = await startBoth((turn) => turn.answer());
    const first = await ask(bodyOf([user('one')]), { 'thread-id': 't' });
    const gone = once(asked[0]!.socket!, 'close');
    close(asked[0]!, 1001, 'going away');
    await gone;
    const input = [user('one'), ...first.body.output, user('two')];
    const second = await ask(bodyOf(input), { 'thread-id': 't' });
    expect(endsOf(second)).toEqual(['response.completed']);
    expect(asked[1]!.body).toMatchObject({ input });
    expect(asked[1]!.body).not.toHaveProperty('previous_response_id');
  });
});

it('A turn goes over HTTP at once where the first socket ever is closed with an internal error, as by gateways without WebSocket', async () => {
  const { ask, asked } = await startBoth((turn) => (turn.socket ? close(turn, 1011, 'cannot connect') : turn.answer()));
  const answer = await ask(bodyOf([user('one')]));
  expect([answer.status, endsOf(answer)]).toEqual([200, ['response.completed']]);
  expect(asked.map(({ socket }) => socket === null)).toEqual([false, true]);
});

it('A socket that closes before it carries any frame makes the next turn use HTTP', async () => {
  const firstEvent = 54_321;
  let overdue: (() => void) | null = null;
  const after: Clock['after'] = (ms, callback) => {
    if (ms !== firstEvent) return systemClock.after(ms, callback);
    overdue = callback;
    return () => {};
  };
  const { ask, asked } = await startBoth(
    (turn) => turn.socket === null && turn.answer(),
    { HOLDFAST_FIRST_EVENT_MS: String(firstEvent) },
    { clock: { ...systemClock, after } },
  );
  const first = ask(bodyOf([user('one')]));
  await vi.waitUntil(() => asked.length === 1 && overdue !== null, { timeout: 20_000 });
  overdue!();
  expect(errorOf(await first)?.bridge_code).toBe('bridge_first_event_timeout');
  expect(endsOf(await ask(bodyOf([user('two')])))).toEqual(['response.completed']);
  expect(asked.map(({ socket }) => socket === null)).toEqual([false, true]);
});
