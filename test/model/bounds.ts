import { type Bounds, defaultBounds, MODEL_FAULTS, type ModelFault } from '../verification/model/index.ts';

export interface NamedBounds {
  name: string;
  bounds: Bounds;
}

type Faults = Partial<Record<ModelFault, number>>;
const bounds = (over: Partial<Bounds>): Bounds => ({ ...defaultBounds, ...over });

/** With two concurrent requests these faults alone take more time than `npm test` has. */
const wide: readonly ModelFault[] = ['pause', 'lapse'];

/** Each fault once, with two requests: exhausted in every `npm test`. */
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

/** Every pair of faults, including the same one twice. */
const pairs: readonly NamedBounds[] = MODEL_FAULTS.flatMap((one, index) =>
  MODEL_FAULTS.slice(index).map((other) => ({
    name: one === other ? `${one} twice` : `${one} and ${other}`,
    bounds: bounds({ turns: 2, concurrent: 2, faults: together(one, other) }),
  })),
);

const more: readonly NamedBounds[] = [
  { name: 'three turns, crash twice', bounds: bounds({ turns: 3, faults: together('crash', 'crash') }) },
  { name: 'three turns, crash and pause', bounds: bounds({ turns: 3, faults: together('crash', 'pause') }) },
  {
    name: 'three turns, two at once, crash',
    bounds: bounds({ turns: 3, concurrent: 2, faults: { crash: 1 } }),
  },
  {
    name: 'three turns, two at once, lateCopy',
    bounds: bounds({ turns: 3, concurrent: 2, faults: { lateCopy: 1 } }),
  },
  {
    name: 'three turns, two at once, drain',
    bounds: bounds({ turns: 3, concurrent: 2, faults: { drain: 1 } }),
  },
  {
    name: 'three workers, crash twice',
    bounds: bounds({ workers: 3, turns: 2, concurrent: 2, faults: together('crash', 'crash') }),
  },
  {
    name: 'three workers, crash and lapse',
    bounds: bounds({ workers: 3, turns: 2, concurrent: 2, faults: together('crash', 'lapse') }),
  },
  {
    name: 'socket-only histories, crash and socketLoss',
    bounds: bounds({ turns: 2, concurrent: 2, exact: false, faults: together('crash', 'socketLoss') }),
  },
  {
    name: 'socket-only histories, lostHop and lapse',
    bounds: bounds({ turns: 2, concurrent: 2, exact: false, faults: together('lostHop', 'lapse') }),
  },
];

/** Bounds that `npm run test:model` exhausts: some minutes, and less than a gigabyte. */
export const full: readonly NamedBounds[] = [...pairs, ...more];
