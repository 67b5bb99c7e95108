import { type SessionStore, StoreUnavailable } from '../../../src/store/port.ts';
import type { Agenda } from './agenda.ts';
import type { Luck } from './luck.ts';
import { Planted } from './misfortunes.ts';
import type { Process } from './process.ts';

/** Probabilities of faults per store call. */
export interface StoreTrouble {
  /** The call is neither executed nor answered. */
  lost: number;
  /** The call is executed, but its answer is lost. */
  unanswered: number;
  /** The call is executed long after the caller has given it up. */
  late: number;
  /** The call is answered with an error. */
  rejected: number;
  slow: number;
}

/** Probability that a call throws at the caller, whether or not it is executed. */
export interface StoreBreakage {
  throws: number;
}

export interface StoreLinkOptions {
  process: Process;
  agenda: Agenda;
  luck: Luck;
  /** The store itself, which answers immediately. */
  store: SessionStore;
  trouble: StoreTrouble & StoreBreakage;
  /** Time after which a call counts as unanswered, in milliseconds. */
  statementMs: number;
  /** Returns whether this process can reach the store now. */
  reachable(): boolean;
  /** Called when the store answered with an injected error. */
  onRejected(name: string, args: readonly unknown[]): void;
  onAnswer?(call: { name: string; args: readonly unknown[]; answer: unknown; told: boolean }): void;
}

const verdicts = new Set([
  'create',
  'start',
  'settle',
  'claim',
  'release',
  'close',
  'register',
  'heartbeat',
  'declareExpired',
  'declareDead',
]);
/** Calls whose rejection the sessions can handle. */
const refusable = new Set(['create', 'start', 'settle']);

/**
 * Creates one process's connection to its store. It adds latency, and both calls and answers can be lost. The store
 * itself is never wrong.
 */
export function createStoreLink(options: StoreLinkOptions): SessionStore {
  const { process, agenda, luck, store, trouble, statementMs } = options;
  const random = luck.random(`store of ${process.name}`);
  let calls = 0;

  function call(name: string, args: unknown[]): Promise<unknown> {
    const id = `${process.name} ${name} ${++calls}`;
    const asked = structuredClone(args);
    const real = store[name as keyof SessionStore] as (...given: unknown[]) => Promise<unknown>;
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    let over = false;
    const settle = (answer: () => void) => {
      if (over) return;
      over = true;
      stop();
      answer();
    };
    const giveUp = (reason: string) =>
      settle(() =>
        verdicts.has(name) ? resolve({ verdict: 'unknown', reason }) : reject(new StoreUnavailable(reason)),
      );
    const stop = process.clock.after(statementMs, () => giveUp('no answer in time'));
    const broken = () => process.deliver(random.between(0.2, 5), `${name} broken`, () => giveUp('connection lost'));

    const slow = luck.strikes('store slow', id, trouble.slow) ? random.between(20, statementMs * 0.9) : 0;
    // The delay is either before the execution, or after it, when the effect is already visible to others.
    const slowBack = random.chance(0.5);
    const there = (slowBack ? 0 : slow) + random.between(0.1, 1.5);
    const back = (slowBack ? slow : 0) + random.between(0.1, 1.5);
    const quick = random.chance(0.5);

    const apply = (answered: boolean) => {
      void real(...asked).then(
        (answer) => {
          options.onAnswer?.({ name, args: asked, answer, told: answered });
          if (answered) process.deliver(back, `${name} answer`, () => settle(() => resolve(answer)));
        },
        (error) => answered && process.deliver(back, `${name} error`, () => settle(() => reject(error))),
      );
    };

    if (!options.reachable() || luck.strikes('store lost', id, trouble.lost)) {
      if (quick) broken();
    } else if (luck.strikes('store late', id, trouble.late)) {
      agenda.add(agenda.now + statementMs + random.between(0, 4_000), `${name} late`, () => apply(false));
      if (quick) broken();
    } else if (refusable.has(name) && luck.strikes('store rejected', id, trouble.rejected)) {
      options.onRejected(name, args);
      process.deliver(there + back, `${name} rejected`, () =>
        settle(() => resolve({ verdict: 'rejected', reason: 'injected' })),
      );
    } else if (refusable.has(name) && luck.strikes('store threw', id, trouble.throws)) {
      options.onRejected(name, args);
      // The call may have been executed nevertheless.
      if (random.chance(0.5)) agenda.add(agenda.now + there, `${process.name} ${name}`, () => apply(false));
      process.deliver(there + back, `${name} threw`, () => settle(() => reject(new Planted('A call to the store.'))));
    } else {
      agenda.add(agenda.now + there, `${process.name} ${name}`, () => {
        const answered = options.reachable() && !luck.strikes('store unanswered', id, trouble.unanswered);
        apply(answered);
        if (!answered && quick) broken();
      });
    }
    return promise;
  }

  return new Proxy(store, {
    get(target, name: string) {
      if (typeof target[name as keyof SessionStore] !== 'function') return target[name as keyof SessionStore];
      return (...args: unknown[]) => call(name, args);
    },
  });
}
