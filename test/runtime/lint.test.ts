import { describe, expect, it } from 'vitest';
import {
  type AnyStateMachine,
  assign,
  cancel,
  emit,
  enqueueActions,
  fromPromise,
  log,
  raise,
  sendTo,
  setup,
  spawnChild,
  stopChild,
} from 'xstate';
import { defineProgram, lintMachine } from '../../src/runtime/index.ts';
import { orderMachine } from './order-machine.ts';

const machine = (config: object, implementations: object = {}) =>
  setup({ actions: { named: () => {} }, guards: { allowed: () => true }, ...implementations } as never).createMachine({
    id: 'm',
    initial: 'a',
    ...config,
  } as never) as unknown as AnyStateMachine;
const messages = (config: object, implementations?: object) =>
  lintMachine(machine(config, implementations)).map(({ path, message }) => `${path}: ${message}`);

describe('machine lint', () => {
  it.each([
    ['invoke', { states: { a: { invoke: { src: fromPromise(async () => 1) } } } }, /m\.a: invokes/],
    ['after', { states: { a: { after: { 100: 'b' } }, b: {} } }, /m\.a: waits for 100/],
    ['spawnChild', { states: { a: { entry: spawnChild(fromPromise(async () => 1)) } } }, /spawns an actor/],
    ['stopChild', { states: { a: { entry: stopChild('x') } } }, /stops an actor/],
    ['sendTo', { states: { a: { exit: sendTo('x', { type: 'e' }) } } }, /sends to another actor/],
    ['cancel', { states: { a: { exit: cancel('x') } } }, /cancels a delayed event/],
    ['emit', { states: { a: { entry: emit({ type: 'e' }) } } }, /emits while stepping/],
    ['log', { states: { a: { entry: log('x') } } }, /writes while stepping/],
    ['enqueueActions', { states: { a: { entry: enqueueActions(() => {}) } } }, /name the actions/],
    ['a delayed raise', { states: { a: { entry: raise({ type: 'e' }, { delay: 5 }) } } }, /declare a deadline/],
    ['an inline action', { states: { a: { on: { e: { actions: () => {} } } } } }, /m\.a, on e: an inline function/],
    ['an inline guard', { states: { a: { on: { e: { guard: () => true, target: 'a' } } } } }, /inline guard/],
    ['an inline guard of always', { states: { a: { always: { guard: () => false, target: 'b' } }, b: {} } }, /always/],
  ])('A machine with %s is refused', (_, config, message) => {
    expect(messages(config).join('\n')).toMatch(message);
  });

  it('A built-in XState action behind a name is refused', () => {
    const found = messages({ states: { a: { entry: 'sneaky' } } }, { actions: { sneaky: sendTo('x', { type: 'e' }) } });
    expect(found.join('\n')).toMatch(/sends to another actor/);
  });

  it('All findings are reported in one message', () => {
    const both = machine({ states: { a: { after: { 5: 'b' } }, b: { entry: log('x') } } });
    expect(() => defineProgram(both, { commits: [], version: 1 })).toThrow(/m\.a: [\s\S]*m\.b, entry: /);
  });
});

it('Named actions and guards, assign and an immediate raise are accepted', () => {
  expect(
    messages({
      states: {
        a: { entry: ['named', assign({}), raise({ type: 'e' })], on: { e: { guard: 'allowed', target: 'a' } } },
      },
    }),
  ).toEqual([]);
  expect(lintMachine(orderMachine)).toEqual([]);
});
