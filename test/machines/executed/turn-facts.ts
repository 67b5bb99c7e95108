import type { TurnMachine } from '../../../machines/turn.ts';
import { explore, transitionNames, transitionsTaken, turnModel, type World } from '../../../src/testing/index.ts';

/** Facts that decide, beside the machine's own state, what can happen to a turn. */
export interface TurnMetrics {
  /** The turn was handed back to the resolver once. */
  handedBack: boolean;
  /** Its second create, the one that is permitted, has been sent. */
  resent: boolean;
  /** Output of a steered predecessor was shown, so the turn cannot be resent. */
  steered: boolean;
}

type Can = (state: string, facts: TurnMetrics) => boolean;
const always: Can = () => true;
const notCreated = 'sent';

/** Conditions under which the world can cause each event, in a state in which the machine does not ignore it. */
const can: Record<string, Can> = {
  queue: always,
  hand_back: (_, { handedBack }) => !handedBack,
  commit: (state, { resent, steered }) => state === 'queued' || (!resent && !steered),
  send: always,
  acknowledge: always,
  stream: always,
  steer: (_, { steered }) => !steered,
  // A terminal without `response.created` is a late frame of an earlier turn, unless it reports a failure.
  complete: (state) => state !== notCreated,
  end_incomplete: (state) => state !== notCreated,
  // A second create is recorded when its frame is sent; no other event can come in between.
  fail: (state, { resent }) => state !== 'committed' || !resent,
  cancel: (state, { resent }) => state !== 'committed' || !resent,
  lose: (state, { resent }) => state !== 'committed' || !resent,
};

const names = transitionNames(turnModel.machine);

const world: World<TurnMachine, TurnMetrics> = {
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

/** All states and steps that a real bridge can be made to take with one turn. */
export const turnGraph = explore(turnModel, { world });

/** Transitions that no world can cause, each with its reason. */
export const uncausable: Record<string, string> = {
  'turn.sent on complete': 'Only what follows a `response.created` of its own is taken for the end of a turn.',
  'turn.sent on end_incomplete': 'As above.',
};
