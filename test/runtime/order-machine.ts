import { assign, setup } from 'xstate';

/** A small machine unrelated to sessions: an order that is paid for, packed, and sometimes forgotten. */
export const orderMachine = setup({
  types: {
    context: {} as { items: number; attempts: number; dueAt: number | null },
    events: {} as
      | { type: 'add'; items: number }
      | { type: 'pay' }
      | { type: 'paid' }
      | { type: 'declined' }
      | { type: 'pack' }
      | { type: 'cancel' }
      | { type: 'nudge' }
      | { type: 'too_slow' }
      | { type: 'forgotten' }
      | { type: 'due' }
      | { type: 'recovered' }
      | { type: 'boom' },
    input: {} as { dueAt?: number },
  },
  actions: {
    greet: () => {},
    announce: (_, _params: { what: string }) => {},
    charge: () => {},
    ship: () => {},
    apologise: () => {},
    explode: () => {},
    count: assign({ items: ({ context, event }) => context.items + (event.type === 'add' ? event.items : 0) }),
    countAttempt: assign({ attempts: ({ context }) => context.attempts + 1 }),
  },
  guards: { hasItems: ({ context }) => context.items > 0 },
}).createMachine({
  id: 'order',
  context: ({ input }) => ({ items: 0, attempts: 0, dueAt: input.dueAt ?? null }),
  initial: 'open',
  on: { recovered: { target: '.open', actions: { type: 'announce', params: { what: 'recovered' } } } },
  states: {
    open: {
      entry: 'greet',
      meta: {
        deadlines: [
          { name: 'patience', event: 'forgotten' },
          { name: 'due', event: 'due', at: (context: { dueAt: number | null }) => context.dueAt },
        ],
      },
      on: {
        add: { actions: 'count' },
        nudge: { actions: { type: 'announce', params: { what: 'nudged' } } },
        boom: { actions: 'explode' },
        pay: { guard: 'hasItems', target: 'paying', actions: 'charge' },
        forgotten: 'gone',
        due: 'gone',
      },
    },
    paying: {
      meta: { deadlines: [{ name: 'bank', event: 'too_slow' }] },
      entry: 'countAttempt',
      on: {
        paid: { target: 'packing', actions: 'ship' },
        declined: { target: 'open', actions: 'apologise' },
        too_slow: { actions: 'apologise' },
        cancel: 'gone',
      },
    },
    packing: {
      type: 'parallel',
      states: {
        box: { initial: 'empty', states: { empty: { on: { pack: 'full' } }, full: {} } },
        label: { initial: 'blank', states: { blank: { on: { pack: 'printed' } }, printed: {} } },
      },
      on: { cancel: 'gone' },
    },
    gone: { type: 'final', entry: { type: 'announce', params: { what: 'gone' } } },
  },
});
