import { describe, expect, it } from 'vitest';
import type { Session } from '../../src/session/session.ts';
import { SessionRegistry } from '../../src/session/session-registry.ts';

/** Returns a session as the registry sees it; when released, it leaves at once. */
function sessionOf(
  id: string,
  over: Partial<Record<'busy' | 'hard' | 'onlyHolder', boolean>> & { lastUsed?: number } = {},
) {
  const { busy = false, hard = false, onlyHolder = false, lastUsed = 0 } = over;
  const events: string[] = [];
  const session = {
    id,
    epoch: 1,
    scope: 'a',
    key: null,
    hard,
    onlyHolder,
    turns: { lastUsed, attachable: null, head: null, places: [] },
    view: () => ({ sessionId: id, epoch: 1, busy, state: busy ? 'live.streaming' : 'live.idle', socketAnchor: null }),
    send: ({ type }: { type: string }) => void events.push(type),
  };
  return { session: session as unknown as Session, events };
}

/** Fills a registry, lets evicted sessions leave, and returns those evicted for one socket more. */
function evictedFrom(capacity: number, sessions: ReturnType<typeof sessionOf>[]) {
  const registry = new SessionRegistry(capacity);
  for (const { session } of sessions) {
    registry.add(session);
    const { send } = session;
    session.send = (event) => {
      send(event);
      if (event.type === 'operator.release') registry.remove(session);
    };
  }
  const made = typeof registry.makeRoom('a') === 'object';
  return {
    made,
    evicted: sessions.filter(({ events }) => events.includes('operator.release')).map((each) => each.session.id),
  };
}

describe('eviction for one more socket', () => {
  it('Below capacity no session is evicted', () => {
    expect(evictedFrom(2, [sessionOf('a')])).toEqual({ made: true, evicted: [] });
  });

  it('A busy session is never evicted', () => {
    const busy = [sessionOf('a', { busy: true }), sessionOf('b', { busy: true })];
    expect(evictedFrom(2, busy)).toEqual({ made: false, evicted: [] });
    expect(busy.flatMap(({ events }) => events)).toEqual([]);
  });

  it('The idle session is evicted, even if a busy one was used longer ago', () => {
    const both = [sessionOf('busy', { busy: true, lastUsed: 1 }), sessionOf('idle', { hard: true, lastUsed: 9 })];
    expect(evictedFrom(2, both)).toEqual({ made: true, evicted: ['idle'] });
  });

  it.each<[string, Parameters<typeof sessionOf>[1], Parameters<typeof sessionOf>[1]]>([
    ['the least recently used', { lastUsed: 1 }, { lastUsed: 2 }],
    ['one without a key before one with a key', { lastUsed: 2 }, { lastUsed: 1, hard: true }],
    [
      'one with a key before the only holder of a context',
      { lastUsed: 2, hard: true },
      { lastUsed: 1, onlyHolder: true },
    ],
    ['one without a key before the only holder', { lastUsed: 2 }, { lastUsed: 1, onlyHolder: true }],
  ])('Eviction selects %s', (_, first, second) => {
    for (const order of [0, 1]) {
      const pair = [sessionOf('first', first), sessionOf('second', second)];
      if (order === 1) pair.reverse();
      expect(evictedFrom(2, pair)).toEqual({ made: true, evicted: ['first'] });
    }
  });

  it('A place is free only after the evicted session has left', () => {
    const registry = new SessionRegistry(1);
    const { session, events } = sessionOf('a');
    registry.add(session);
    expect(registry.makeRoom('a')).toBe('worker');
    expect(events).toEqual(['operator.release']);
  });
});
