import { describe, expect, it } from 'vitest';
import { rehydrate } from '../../src/runtime/index.ts';
import { isSessionContext, SESSION_MACHINE_VERSION, sessionProgram } from '../../src/session/session.ts';

const counted = { generation: 3, creates: 1, turns: 2, takeovers: 0 };

describe('a stored context', () => {
  it('A stored context is loaded as it was written', () => {
    expect(isSessionContext(counted)).toBe(true);
  });

  it.each<[string, unknown]>([
    ['a text', 'x'],
    ['null', null],
    ['a list', [counted]],
    ['without a counter', { generation: 3, creates: 1, turns: 2 }],
    ['with more than counters', { ...counted, extra: 1 }],
    ['with a member named __proto__', JSON.parse('{"generation":3,"creates":1,"turns":2,"__proto__":0}')],
    ['with a counter that is a text', { ...counted, takeovers: '1' }],
    ['with a counter that is an object', { ...counted, takeovers: JSON.parse('{"toString":{}}') }],
    ['with a negative counter', { ...counted, creates: -1 }],
    ['with an infinite counter', { ...counted, turns: Number.POSITIVE_INFINITY }],
  ])('A stored context is not loaded: %s', (_, context) => {
    expect(isSessionContext(context)).toBe(false);
    const { recoveredFrom, snapshot } = rehydrate(sessionProgram, {
      persisted: { value: { live: 'idle' }, context },
      machineVersion: SESSION_MACHINE_VERSION,
      input: {},
      takeover: { type: 'session.claimed' },
      validContext: isSessionContext,
    });
    expect(recoveredFrom).toBe('columns');
    expect(snapshot.value).toBe('stale');
  });
});
