import type { Action } from './actions.ts';
import type { Violation } from './explore.ts';
import { ACTOR, BIT, COMMIT, COPY, ENDING, FLAG, type Layout, REQUEST, ROW, STAGE, TURN } from './layout.ts';
import { eventNames, events } from './local.ts';
import { promises } from './rows.ts';
import type { World } from './world.ts';

const capital = (text: string) => text[0]!.toUpperCase() + text.slice(1);
const letter = (index: number) => String.fromCharCode(65 + index);
const turnName = (turn: number) => (turn === 0 ? 'none' : `turn ${turn}`);
const TURN_NAMES = ['none', 'active', 'completed', 'failed', 'cancelled', 'lost'];
const CALLS = Object.fromEntries(
  Object.entries({
    create: 'create',
    start: 'start',
    orphan: "settlement of its predecessor's orphan",
    settle: 'settlement',
    bareSettle: 'bare settlement',
    release: 'release',
  }).map(([name, word]) => [COMMIT[name as keyof typeof COMMIT], word]),
);
const ENDINGS: Record<number, string> = {
  [ENDING.completed]: 'its client learns that it completed',
  [ENDING.failed]: 'its client gets an error',
  [ENDING.elsewhere]: 'it runs in a session of its own',
  [ENDING.reattached]: "its client reads the running turn's stream",
  [ENDING.gone]: 'its client is gone',
};

/** Texts of the properties that concern progress rather than a single step. */
export const PROGRESS = {
  everyRequestEnds: 'Every request ends, by deadlines alone if need be.',
  servesAgain: 'The session can serve again, without anybody else coming to help.',
} as const;

/** Returns the text of a safety or progress property. */
export const describeProperty = (property: Violation['property']): string =>
  property in PROGRESS
    ? PROGRESS[property as keyof typeof PROGRESS]
    : promises[property as Exclude<Violation['property'], keyof typeof PROGRESS>];

/** Describes a sequence of actions, one sentence per step, each followed by the changes it made. */
export function tellStory(world: World, actions: readonly Action[]): string {
  let state = world.initial();
  const lines: string[] = [];
  for (const [index, action] of actions.entries()) {
    const { state: after, broken } = world.take(state, action);
    lines.push(`${String(index + 1).padStart(3)}. ${capital(sentence(world, state, action))}`);
    const changes = changesOf(world, state, after);
    if (changes.length > 0) lines.push(`       ${changes.join('; ')}`);
    if (broken) lines.push(`     ! ${promises[broken]}`);
    state = after;
  }
  return lines.join('\n');
}

function sentence({ layout }: World, s: Uint8Array, { name, a, b }: Action): string {
  const actor = (field: number) => s[layout.actor(a) + field]!;
  const request = (field: number) => s[layout.request(a) + field]!;
  const who = () => `worker ${letter(actor(ACTOR.worker) - 1)}`;
  const holder = () => `Worker ${letter(request(REQUEST.holder) - 1)}`;
  const target = () => `worker ${letter(request(REQUEST.target) - 1)}`;
  const call = () => {
    const commit = actor(ACTOR.pending) & 15;
    const orphan = actor(ACTOR.pending) >> 4;
    return `${who()}'s ${CALLS[commit]} of ${turnName(commit === COMMIT.orphan ? orphan : actor(ACTOR.current))} at epoch ${actor(ACTOR.epoch)}`;
  };
  const running = () => turnName(actor(ACTOR.current));
  switch (name) {
    case 'asks': {
      const past =
        s[0] === 0 ? 'with its key' : b & 1 ? `anchored to ${turnName(s[0]!)}` : 'with its key and its whole history';
      return `A client asks worker ${letter(b >> 1)} for turn ${a + 1}, ${past}.`;
    }
    case 'resolves':
      return `${holder()} looks turn ${a + 1} up and places it.`;
    case 'clearsOrphan':
      return `${holder()} records ${turnName(request(REQUEST.target))}, its own orphan, as lost.`;
    case 'claims':
      return `${holder()}'s claim of epoch ${request(REQUEST.epoch)} for turn ${a + 1} is carried out and answered.`;
    case 'claimUnheard':
      return `${holder()}'s claim of epoch ${request(REQUEST.epoch)} for turn ${a + 1} is carried out; the answer is lost, it will be repeated.`;
    case 'claimGivenUp':
      return `${holder()} waits no longer for an answer to its claim for turn ${a + 1}.`;
    case 'looksAgain':
      return `${holder()}, waiting with turn ${a + 1} for ${target()}, looks at the rows again.`;
    case 'ownerWaitOver':
      return `${holder()} waits no longer for ${target()}; turn ${a + 1} is refused.`;
    case 'hopArrives':
      return `The hop with turn ${a + 1} arrives at ${target()}.`;
    case 'hopFails':
      return `The hop with turn ${a + 1} finds ${target()} ${b === 1 ? 'silent' : 'gone'}.`;
    case 'hopLost':
      return `The hop with turn ${a + 1} to ${target()} is lost to ${holder()}, and may arrive yet; it is sent again.`;
    case 'hopCut':
      return `The connection on which turn ${a + 1} is answered is cut; its owner is asked again.`;
    case 'hopBreaks':
      return `${holder()} gives up the silent hop with turn ${a + 1}.`;
    case 'strayArrives':
      return `The hop that was given up arrives at worker ${letter(s[layout.stray]! - 1)} after all, with turn ${s[layout.stray + 1]}.`;
    case 'queueWaitOver':
      return `Turn ${a + 1} has waited in the queue for long enough.`;
    case 'answered':
      return `The store carries out ${call()}, and answers.`;
    case 'unheard':
    case 'unheardByPaused':
      return `The store carries out ${call()}; the answer is lost.`;
    case 'rejected':
      return `The store refuses ${call()} with an error.`;
    case 'commitThrows':
      return `${capital(call())} fails at its worker${b === 1 ? ', after the store has carried it out' : ''}.`;
    case 'throws':
      return b === 0
        ? `Something that arrived at ${who()} cannot be dealt with.`
        : `The next thing that ${who()} does for its session will fail.`;
    case 'copied':
      return `A copy of ${call()} is held up on its way.`;
    case 'copyArrives': {
      const c = layout.copy(a);
      const kind = s[c + COPY.kind]!;
      const of = kind === COMMIT.release ? '' : ` of ${turnName(s[c + COPY.turn]!)}`;
      return `Late, worker ${letter(s[c + COPY.worker]! - 1)}'s ${CALLS[kind]}${of} at epoch ${s[c + COPY.epoch]} arrives at the store.`;
    }
    case 'deadline':
      return `At ${who()} the deadline "${events[eventNames[b]!].type.split('.')[1]}" is over.`;
    case 'opens':
      return `The upstream accepts ${who()}'s connection.`;
    case 'dialFails':
      return `${who()}'s connection fails.`;
    case 'refuses':
      return `The upstream refuses ${who()}'s connection for good.`;
    case 'historyMissing':
      return `${who()} finds that the history cannot be rebuilt.`;
    case 'begins':
      return `The upstream begins to answer ${running()} at ${who()}.`;
    case 'shows':
      return `Output of ${running()} is shown to its client.`;
    case 'completes':
      return `The upstream completes ${running()} at ${who()}.`;
    case 'fails':
      return `The upstream ${b === 2 ? 'refuses' : 'fails'} ${running()} at ${who()}.`;
    case 'refusesAnchor':
      return `The upstream does not know the anchor of ${running()}.`;
    case 'socketLost':
      return `${who()}'s socket is lost.`;
    case 'departs':
      return `The client of turn ${a + 1} goes away.`;
    case 'crashes':
      return `Worker ${letter(a)} crashes.`;
    case 'pauses':
      return `Worker ${letter(a)} is suspended: it does nothing, and its clock stands still.`;
    case 'resumes':
      return `Worker ${letter(a)} goes on.`;
    case 'lapses':
      return `Worker ${letter(a)}'s heartbeats are not confirmed any more: its lease lapses.`;
    case 'beats':
      return `A heartbeat of worker ${letter(a)} is confirmed, and its row is there.`;
    case 'declaredDead':
      return `Worker ${letter(a)}, whose lease has run out, is stored as dead.`;
    case 'learnsDeath':
      return `Worker ${letter(a)} learns that it was declared dead.`;
    case 'drains':
      return `Worker ${letter(a)} is asked to drain.`;
    case 'stops':
      return `Worker ${letter(a)}, done with draining, stops and stores its own death.`;
    case 'evicts':
      return `${who()} is asked to release its session at epoch ${actor(ACTOR.epoch)}.`;
    case 'losesRow':
      return `A failover of the database loses the row of worker ${letter(a)}.`;
    case 'failsOver':
      return 'The database fails over to a replica that lacks the latest write.';
  }
}

function changesOf(world: World, before: Uint8Array, after: Uint8Array): string[] {
  const { layout, machine } = world;
  const changes: string[] = [];
  const row = (s: Uint8Array) =>
    s[ROW.epoch] === 0
      ? 'no row'
      : `row: epoch ${s[ROW.epoch]}, owner ${s[ROW.owner] === 0 ? 'none' : letter(s[ROW.owner]! - 1)}, active ${turnName(s[ROW.active]!)}, head ${turnName(s[ROW.head]!)}`;
  if (row(before) !== row(after)) changes.push(row(after));
  for (let r = 0; r < layout.bounds.turns; r += 1) changes.push(...turnChanges(layout, before, after, r));
  for (let i = 0; i < layout.actors; i += 1) {
    const actor = (s: Uint8Array) => {
      const a = layout.actor(i);
      const worker = s[a + ACTOR.worker]!;
      if (worker === 0) return null;
      const pending = s[a + ACTOR.pending]! & 15;
      const stray = s[a + ACTOR.bits]! & BIT.stray ? ', for no request' : '';
      return `${letter(worker - 1)}@${s[a + ACTOR.epoch]}: ${machine.locals[s[a + ACTOR.local]!]!.path}${pending ? `, ${CALLS[pending]} unanswered` : ''}${stray}`;
    };
    const was = actor(before);
    const is = actor(after);
    if (was !== is) changes.push(is ?? `${was!.split(':')[0]}: ends`);
  }
  return changes;
}

function turnChanges(layout: Layout, before: Uint8Array, after: Uint8Array, r: number): string[] {
  const changes: string[] = [];
  const t = layout.turn(r) + TURN.state;
  if (before[t] !== after[t]) {
    changes.push(`turn ${r + 1} is ${TURN_NAMES[after[t]! & 7]}${after[t]! & 8 ? ', as a branch' : ''}`);
  }
  const q = layout.request(r);
  const creates = (s: Uint8Array) => s[q + REQUEST.flags]! & FLAG.creates;
  if (creates(after) > creates(before)) changes.push(`a frame leaves for turn ${r + 1}`);
  const [was, is] = [before[q + REQUEST.stage]!, after[q + REQUEST.stage]!];
  if (was === is) return changes;
  const target = letter(after[q + REQUEST.target]! - 1);
  if (is === STAGE.ended) changes.push(`turn ${r + 1}: ${ENDINGS[after[q + REQUEST.target]!]}`);
  if (is === STAGE.resolving && was !== STAGE.unborn) changes.push(`turn ${r + 1} is to be placed again`);
  if (is === STAGE.clearing) changes.push(`the session is the worker's own, and its active turn does not run here`);
  if (is === STAGE.claiming) changes.push(`a claim is sent for turn ${r + 1}`);
  if (is === STAGE.awaiting) changes.push(`turn ${r + 1} waits until the death of worker ${target} is certain`);
  if (is === STAGE.hopping) changes.push(`turn ${r + 1} is forwarded to worker ${target}`);
  return changes;
}
