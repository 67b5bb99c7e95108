import { expect, it } from 'vitest';
import { createRegistry } from '../../src/session/session-registry.ts';

const registry = () => {
  const stopped: string[] = [];
  return { stopped, actors: createRegistry<string>({ stop: (older) => stopped.push(older) }) };
};

it('The registry holds one actor per id, and stops the one of an older epoch before the newer is added', () => {
  const { actors, stopped } = registry();
  actors.register('s', 1, 'first');
  actors.register('s', 2, 'second');
  expect(stopped).toEqual(['first']);
  expect(actors.get('s')).toBe('second');
  expect(actors.size).toBe(1);
});

it('The registry never returns an actor of another epoch', () => {
  const { actors } = registry();
  actors.register('s', 2, 'second');
  expect(actors.getExact('s', 1)).toBeUndefined();
  expect(actors.getExact('s', 2)).toBe('second');
  expect(actors.getExact('t', 2)).toBeUndefined();
});

it('The registry refuses an actor of the same or an older epoch', () => {
  const { actors } = registry();
  actors.register('s', 2, 'second');
  expect(() => actors.register('s', 2, 'again')).toThrow(/epoch 2/);
  expect(() => actors.register('s', 1, 'first')).toThrow(/epoch 1/);
});

it('The registry removes only the actor of the given epoch', () => {
  const { actors } = registry();
  actors.register('s', 2, 'second');
  expect(actors.remove('s', 1)).toBe(false);
  expect(actors.remove('s', 2)).toBe(true);
  expect([...actors.values()]).toEqual([]);
});
