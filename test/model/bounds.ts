import { type Bounds, defaultBounds, MODEL_FAULTS, type ModelFault } from '../../src/testing/index.ts';

export interface NamedBounds {
  name: string;
  bounds: Bounds;
}

type Faults = Partial<Record<ModelFault, number>>;
const bounds = (over: Partial<Bounds>): Bounds => ({ ...defaultBounds, ...over });

/** With two requests at the same time these alone are more than `npm test` has time for. */
const wide: readonly ModelFault[] = ['pause', 'lapse'];

/** Each fault once, among two requests: exhausted in every `npm test`. */
export const small: readonly NamedBounds[] = [
  { name: 'no fault, three turns', bounds: bounds({ turns: 3 }) },
  { name: 'socket-only histories', bounds: bounds({ turns: 3, exact: false }) },
  { name: 'socketLoss and rejection twice', bounds: bounds({ turns: 1, faults: { socketLoss: 1, rejection: 2 } }) },
  ...MODEL_FAULTS.map((fault) => ({
    name: fault,
    bounds: bounds({ turns: 2, concurrent: wide.includes(fault) ? 1 : 2, faults: { [fault]: 1 } }),
  })),
];

const together = (...faults: ModelFault[]): Faults => {
  const counts: Faults = {};
  for (const fault of faults) counts[fault] = (counts[fault] ?? 0) + 1;
  return counts;
};

/** Every two faults, the same twice included. */
const pairs: readonly NamedBounds[] = MODEL_FAULTS.flatMap((one, index) =>
  MODEL_FAULTS.slice(index).map((other) => ({
    name: one === other ? `${one} twice` : `${one} and ${other}`,
    bounds: bounds({ turns: 2, concurrent: 2, faults: together(one, other) }),
  })),
);

/** What `npm run test:model` exhausts: minutes, and a few hundred megabytes. */
export const full: readonly NamedBounds[] = [...pairs];
