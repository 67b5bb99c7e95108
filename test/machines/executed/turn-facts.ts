import type { TurnMachine } from '../../../machines/turn.ts';
import { explore, transitionNames, transitionsTaken, turnModel, type World } from '../../../src/testing/index.ts';

/** What decides, beside the machine's own state, what can happen to a turn. */
export interface TurnFacts {
  /** It was given back to the resolver once. */
  handedBack: boolean;
  /** Its second create is under way: the one that is permitted. */
  resent: boolean;
  /** Output of a steered predecessor was shown: it cannot be sent again. */
  steered: boolean;
}

type Can = (state: string, facts: TurnFacts) => boolean;
const always: Can = () => true;
const notCreated = 'sent';

/** When the world can make each event happen, in a state in which the machine does not ignore it. */
const can: Record<string, Can> = {
  queue: always,
  hand_back: (_, { handedBack }) => !handedBack,
  commit: (state, { resent, steered }) => state === 'queued' || (!resent && !steered),
  send: always,
  acknowledge: always,
  stream: always,
  steer: (_, { steered }) => !steered,
  // A terminal that follows no `response.created` is a late frame of an earlier turn, unless it says that it failed.
  complete: (state) => state !== notCreated,
  end_incomplete: (state) => state !== notCreated,
  // A second create is noted when its frame leaves: in between, nothing else can come.
  fail: (state, { resent }) => state !== 'committed' || !resent,
  cancel: (state, { resent }) => state !== 'committed' || !resent,
  lose: (state, { resent }) => state !== 'committed' || !resent,
};

const names = transitionNames(turnModel.machine);

const world: World<TurnMachine, TurnFacts> = {
  facts: { handedBack: false, resent: false, steered: false },
  allows: (facts, before, variant) =>
    transitionsTaken(turnModel.machine, names, before, variant.event(before.context)).length > 0 &&
    can[variant.name]!(String(before.value), facts),
  learn(facts, { variant, before }) {
    return {
      handedBack: facts.handedBack || variant.name === 'hand_back',
      resent: facts.resent || (variant.name === 'commit' && before.value !== 'queued'),
      steered: facts.steered || variant.name === 'steer',
    };
  },
};

/** Everything a real bridge can be brought to do with one turn. */
export const turnGraph = explore(turnModel, { world });

/** Transitions that no world can cause, and why. */
export const uncausable: Record<string, string> = {
  'turn.sent on complete': 'Only what follows a `response.created` of its own is taken for the end of a turn.',
  'turn.sent on end_incomplete': 'As above.',
};
