import type { SessionStore } from '../../src/store/port.ts';

type Name = keyof SessionStore;
type Call<N extends Name> = (...args: Parameters<SessionStore[N]>) => ReturnType<SessionStore[N]>;
/** Replaces one call; `pass` carries out the original. */
export type Interference<N extends Name> = (
  pass: Call<N>,
  ...args: Parameters<SessionStore[N]>
) => ReturnType<SessionStore[N]>;

/** A store whose calls a test may lose, delay or answer itself. */
export interface ScriptedStore {
  store: SessionStore;
  /** Applies to the next calls of that name, one each, in the order given. */
  once<N extends Name>(name: N, interference: Interference<N>): void;
  /** Names of the calls made, in order. */
  calls: string[];
}

export function scriptStore(inner: SessionStore): ScriptedStore {
  const waiting = new Map<Name, Interference<never>[]>();
  const calls: string[] = [];
  const store = new Proxy(inner, {
    get(target, name: Name) {
      const real = target[name] as (...args: unknown[]) => unknown;
      if (typeof real !== 'function') return real;
      return (...args: unknown[]) => {
        calls.push(name);
        const interference = waiting.get(name)?.shift() as ((...all: unknown[]) => unknown) | undefined;
        return interference ? interference((...given: unknown[]) => real(...given), ...args) : real(...args);
      };
    },
  });
  return {
    store,
    calls,
    once(name, interference) {
      const list = waiting.get(name) ?? [];
      list.push(interference as never);
      waiting.set(name, list);
    },
  };
}

/** Carries the call out, but loses its answer. */
export const answerLost = async (pass: (...args: never[]) => Promise<unknown>, ...args: unknown[]) => {
  await pass(...(args as never[]));
  return { verdict: 'unknown' as const, reason: 'the connection broke' };
};

/** Neither carries out nor answers the call. */
export const requestLost = async () => ({ verdict: 'unknown' as const, reason: 'no connection' });
