import type { SessionStore } from '../../../src/store/port.ts';

const gated = ['create', 'start', 'settle', 'lookup', 'lineage', 'register', 'heartbeat'] as const;
type Gated = (typeof gated)[number];

/** A store call that is held back and has not reached the store. */
export interface Held<N extends Gated = Gated> {
  name: N;
  args: Parameters<SessionStore[N]>;
  /** Lets the call through. Resolves with the store's answer once the caller has received it. */
  pass(): Promise<Awaited<ReturnType<SessionStore[N]>>>;
  /** Answers in place of the store. */
  answer(value: Awaited<ReturnType<SessionStore[N]>>): void;
}

/** Sits between a bridge and its store, and holds back the selected calls. */
export interface Gate {
  store(inner: SessionStore): SessionStore;
  hold(...names: Gated[]): void;
  /** Lets calls of these names through again, including those that wait. */
  open(...names: Gated[]): void;
  /** Resolves with the next held call of that name. */
  next<N extends Gated>(name: N): Promise<Held<N>>;
  waiting(name: Gated): number;
}

export function createGate(): Gate {
  const closed = new Set<Gated>();
  const held = new Map<Gated, Held[]>(gated.map((name) => [name, []]));
  const wanted = new Map<Gated, ((call: Held) => void)[]>(gated.map((name) => [name, []]));

  function stop(name: Gated, real: (...args: never[]) => Promise<unknown>, args: never[]): Promise<unknown> {
    return new Promise((resolve, reject) => {
      const call = {
        name,
        args,
        async pass() {
          const answer = real(...args);
          answer.then(resolve, reject);
          await answer.catch(() => {});
          await new Promise((turn) => setImmediate(turn));
          return answer;
        },
        answer: resolve,
      } as unknown as Held;
      const taker = wanted.get(name)!.shift();
      if (taker) taker(call);
      else held.get(name)!.push(call);
    });
  }

  return {
    store: (inner) =>
      new Proxy(inner, {
        get(target, name: Gated) {
          const real = target[name] as unknown as (...args: never[]) => Promise<unknown>;
          if (!gated.includes(name)) return real;
          return (...args: never[]) => (closed.has(name) ? stop(name, real, args) : real(...args));
        },
      }),
    hold(...names) {
      for (const name of names) closed.add(name);
    },
    open(...names) {
      for (const name of names) {
        closed.delete(name);
        for (const call of held.get(name)!.splice(0)) void call.pass();
      }
    },
    next: (name) => {
      const call = held.get(name)!.shift();
      if (call) return Promise.resolve(call as never);
      return new Promise((resolve) => wanted.get(name)!.push(resolve as never));
    },
    waiting: (name) => held.get(name)!.length,
  };
}
