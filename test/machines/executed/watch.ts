import type { AnyStateMachine, InspectionEvent, SnapshotFrom } from 'xstate';
import { type CoverageMeter, createCoverage, type Graph } from '../../../src/testing/index.ts';

/** One step of a real machine. */
export interface Seen<M extends AnyStateMachine = AnyStateMachine> {
  actor: string;
  event: { type: string } & Record<string, unknown>;
  /** Null at the start of the actor. */
  before: SnapshotFrom<M> | null;
  after: SnapshotFrom<M>;
}

/** Records the steps of all machines of one kind, wherever they run, in order. */
export interface Watch<M extends AnyStateMachine> {
  readonly seen: Seen<M>[];
  readonly coverage: CoverageMeter<M>;
  /** Resolves with the first matching step at or after this index. */
  next(from: number, wanted?: (seen: Seen<M>) => boolean): Promise<number>;
  /** Called during each step: after the transition, before its effects are performed. */
  during: ((seen: Seen<M>) => void) | null;
  observe(event: InspectionEvent): void;
}

/** Longest wait for a step, in milliseconds. */
const PATIENCE = 25_000;

export function watchMachine<M extends AnyStateMachine>(graph: Graph<M, never> | Graph<M>): Watch<M> {
  const { id } = graph.model.machine;
  const seen: Seen<M>[] = [];
  const last = new WeakMap<object, SnapshotFrom<M>>();
  const coverage = createCoverage(graph as Graph<M>);
  let listeners: (() => void)[] = [];

  const watch: Watch<M> = {
    seen,
    coverage,
    during: null,
    async next(from, wanted = () => true) {
      const until = performance.now() + PATIENCE;
      for (let index = from; ; index += 1) {
        while (index >= seen.length) {
          const left = until - performance.now();
          if (left <= 0) throw new Error(`the ${id} machine did not step; it last saw ${seen.at(-1)?.event.type}`);
          const { promise, resolve } = Promise.withResolvers<void>();
          const timer = setTimeout(resolve, left);
          listeners.push(resolve);
          await promise;
          clearTimeout(timer);
        }
        if (wanted(seen[index]!)) return index;
      }
    },
    observe(inspected) {
      if (inspected.type !== '@xstate.snapshot') return;
      const actor = inspected.actorRef as unknown as { id: string; logic?: { id?: string } };
      if (actor.logic?.id !== id) return;
      const before = last.get(actor) ?? null;
      const after = inspected.snapshot as SnapshotFrom<M>;
      last.set(actor, after);
      coverage.visit(after);
      const { event } = inspected;
      if (before) coverage.take(before, event);
      const each = { actor: actor.id, event, before, after };
      seen.push(each);
      watch.during?.(each);
      const woken = listeners;
      listeners = [];
      for (const wake of woken) wake();
    },
  };
  return watch;
}
