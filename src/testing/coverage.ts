import type { AnyStateMachine, SnapshotFrom } from 'xstate';
import { configurationOf, type Graph, transitionNames, transitionsTaken } from './explore.ts';

/** Covered part of a set, with the names of the missing elements. */
export interface Covered {
  readonly seen: number;
  readonly total: number;
  readonly missing: readonly string[];
}

/** Covered parts of a machine. */
export interface CoverageReport {
  /** State nodes of the machine without children. */
  readonly states: Covered;
  /** Transitions on events, each guarded alternative counted separately. */
  readonly transitions: Covered;
  /** Pairs of a reachable state value and an event of the vocabulary, including pairs in which the event is ignored. */
  readonly pairs: Covered;
  /** Summary in one line. */
  readonly line: string;
}

/** Coverage of a machine's states and transitions, independent of how the machine is driven. */
export interface CoverageMeter<M extends AnyStateMachine = AnyStateMachine> {
  /** Records that the machine is in this state. */
  visit(snapshot: SnapshotFrom<M>): void;
  /**
   * Records an event given to the machine in a state.
   *
   * @returns the names of the transitions taken
   */
  take(before: SnapshotFrom<M>, event: { type: string }): readonly string[];
  report(): CoverageReport;
}

const count = (all: Iterable<string>, seen: ReadonlySet<string>): Covered => {
  const wanted = [...new Set(all)];
  const missing = wanted.filter((each) => !seen.has(each));
  return { seen: wanted.length - missing.length, total: wanted.length, missing };
};

const percent = ({ seen, total }: Covered) =>
  `${seen}/${total} (${total === 0 ? 100 : Math.floor((seen / total) * 100)} %)`;

/**
 * Creates a coverage meter.
 *
 * @param graph everything the machine can do (see `explore`), used as the total
 * @returns a meter that starts at zero
 */
export function createCoverage<M extends AnyStateMachine, F>({ model, nodes }: Graph<M, F>): CoverageMeter<M> {
  const { machine, events, name } = model;
  const names = transitionNames(machine);
  const states = new Set<string>();
  const transitions = new Set<string>();
  const pairs = new Set<string>();

  const leaves: string[] = [];
  const collect = (node: AnyStateMachine['root']): void => {
    if (node.type === 'atomic' || node.type === 'final') leaves.push(node.id);
    for (const child of Object.values(node.states)) collect(child as AnyStateMachine['root']);
  };
  collect(machine.root);
  const configurations = [...new Set([...nodes.values()].map(({ configuration }) => configuration))];
  const pair = (configuration: string, variant: string) => `${configuration} × ${variant}`;

  return {
    visit(snapshot) {
      for (const { id } of (snapshot as unknown as { _nodes: { id: string }[] })._nodes) states.add(id);
    },
    take(before, event) {
      const said = JSON.stringify(event);
      const { context } = before as { context: never };
      for (const variant of events) {
        if (JSON.stringify(variant.event(context)) === said) pairs.add(pair(configurationOf(before), variant.name));
      }
      const taken = transitionsTaken(machine, names, before, event);
      for (const each of taken) transitions.add(each);
      return taken;
    },
    report() {
      const report = {
        states: count(leaves, states),
        transitions: count(names.values(), transitions),
        pairs: count(
          configurations.flatMap((configuration) => events.map((variant) => pair(configuration, variant.name))),
          pairs,
        ),
      };
      return {
        ...report,
        line: `${name}: states ${percent(report.states)}, transitions ${percent(report.transitions)}, pairs ${percent(report.pairs)}`,
      };
    },
  };
}
