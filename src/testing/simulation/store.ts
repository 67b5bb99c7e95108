import { type SessionStore, StoreUnavailable } from '../../store/port.ts';
import type { Agenda } from './agenda.ts';
import type { Luck } from './luck.ts';
import { Planted } from './misfortunes.ts';
import type { Process } from './process.ts';

/** Probabilities per call of what may become of it. */
export interface StoreTrouble {
  /** Neither carried out nor answered. */
  lost: number;
  /** Carried out, the answer lost. */
  unanswered: number;
  /** Given up, and carried out long after. */
  late: number;
  /** Answered with an error. */
  rejected: number;
  slow: number;
}

/** How often a call throws here, answered or not. */
export interface StoreBreakage {
  throws: number;
}

export interface StoreLinkOptions {
  process: Process;
  agenda: Agenda;
  luck: Luck;
  /** The store as it is where it runs: it answers at once. */
  store: SessionStore;
  trouble: StoreTrouble & StoreBreakage;
  /** Milliseconds after which a call counts as unanswered. */
  statementMs: number;
  /** Whether this process reaches the store now. */
  reachable(): boolean;
  /** The store answered with an error that was put there. */
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
/** The calls whose refusal is an answer that the sessions know how to take. */
const refusable = new Set(['create', 'start', 'settle']);

/**
 * The way of one process to its store: it takes time, and both what is asked and what is answered can be lost. The store
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
    // Slow before it is carried out, or with what it did already to be seen by others.
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
      // It may have been carried out all the same.
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
