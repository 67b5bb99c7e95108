import { randomUUID } from 'node:crypto';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import type { TurnMachine } from '../../../machines/turn.ts';
import type { CreateCall, StartCall } from '../../../src/store/port.ts';
import { type Path, type Point, type TurnFault, turnModel } from '../../../src/testing/index.ts';
import { terminalsOf } from '../../support/client.ts';
import { until } from '../../support/until.ts';
import type { Client, RealWorld } from './session-world.ts';
import type { TurnMetrics } from './turn-facts.ts';
import type { Watch } from './watch.ts';

type TurnPath = Path<TurnMachine, TurnMetrics>;

const { machine } = turnModel;
const ends = ['complete', 'end_incomplete', 'fail', 'cancel', 'lose'];
const pointOf: Record<string, Point> = {
  sent: 'before_created',
  acknowledged: 'after_created',
  streaming: { deltas: 1 },
};

/**
 * Returns the provider's behaviour for the frame that the step at this index sends, as the rest of the path requires.
 */
function faultsOf(path: TurnPath, index: number): TurnFault[] {
  const rest = path.steps.slice(index + 1);
  const last = rest.find(({ variant }) => ends.includes(variant.name) || variant.name === 'commit');
  const state = String(last?.from.snapshot.value);
  const at = pointOf[state]!;
  const begun = { id: `resp_${randomUUID()}`, object: 'response', status: 'in_progress', output: [] };
  const frames = (status: string): TurnFault => ({
    kind: 'frames',
    frames: [
      { type: 'response.created', sequence_number: 0, response: begun },
      { type: `response.${status}`, sequence_number: 1, response: { ...begun, status } },
    ],
  });
  const steers = rest.some(({ variant }) => variant.name === 'steer');
  const steered: TurnFault[] = steers ? [{ kind: 'steered' }] : [];
  switch (last?.variant.name) {
    case 'complete':
      return state === 'acknowledged' && !steers ? [frames('completed')] : steered;
    case 'end_incomplete':
      return state === 'acknowledged' && !steers ? [frames('incomplete')] : [{ kind: 'incomplete' }];
    case 'fail':
      if (state !== 'sent') return [{ kind: 'failed', code: 'server_error', at }];
      return [{ kind: 'error', error: { status: 500, code: 'scripted', message: 'Scripted.' } }];
    case 'lose':
    case 'commit':
      return [{ kind: 'reset', at }];
    default:
      return [{ kind: 'silence', at }];
  }
}

/** Drives a real turn along a path of its machine, and compares it with its row, the provider and its client. */
export async function driveTurn(world: RealWorld, watch: Watch<TurnMachine>, path: TurnPath): Promise<void> {
  const { at, gate, clock } = world;
  const names = path.steps.map(({ variant }) => variant.name);
  const thread = randomUUID();
  const clients: Client[] = [];
  let cursor = watch.seen.length;
  let turnId = '';
  let creates = 0;
  let committed = false;
  let model = initialTransition(machine, { turnId })[0] as SnapshotFrom<TurnMachine>;

  // A tool that may have acted forbids a resend: then a lost socket is final, even before the first event.
  const lost = path.steps.findIndex(({ variant }) => variant.name === 'lose');
  const final = lost >= 0 && !path.steps[lost]!.from.facts.resent;
  const tools = final ? [{ type: 'computer_use_preview' }] : [];
  const body = { model: 'm', stream: true, store: false, tools, input: `say ${thread}` };

  async function pass(): Promise<void> {
    const create = gate.waiting('start') === 0 && !names.slice(0, names.indexOf('commit')).includes('hand_back');
    await (await gate.next(create ? 'create' : 'start')).pass();
  }

  const causes: Record<string, (index: number) => unknown> = {
    queue(index) {
      if (names[index + 1] === 'cancel') world.onUpgrade({ kind: 'hang' });
      gate.open('lookup');
    },
    async hand_back() {
      const held = await gate.next('create');
      const [call] = held.args as [CreateCall];
      const rival = { ...call, sessionId: randomUUID(), nonce: randomUUID() };
      await at.store.create({ ...rival, turn: { ...call.turn, id: randomUUID() } } as CreateCall & StartCall);
      await held.pass();
    },
    async commit(index) {
      if (path.steps[index]!.from.snapshot.value !== 'queued') return;
      if (names[index + 1] === 'send') return pass();
      await until(async () => world.open === 1);
      await world.cut();
      world.onUpgrade(names[index + 1] === 'fail' ? { kind: 'refuse', status: 401 } : { kind: 'hang' });
      await pass();
    },
    fail(index) {
      const state = path.steps[index]!.from.snapshot.value;
      if (state === 'admitted') return clock.fire('request_hold');
      if (state === 'queued') return reject();
    },
    async cancel(index) {
      clients[0]!.hangUp();
      const state = String(path.steps[index]!.from.snapshot.value);
      if (state in pointOf) await until(() => clock.fire('grace'));
    },
    lose: (index) => {
      if (path.steps[index]!.from.snapshot.value === 'committed') return until(() => clock.fire('connect'));
    },
  };
  async function reject(): Promise<void> {
    const name = names.includes('hand_back') ? 'start' : 'create';
    (await gate.next(name)).answer({ verdict: 'rejected', reason: 'no space left on device' });
  }

  try {
    gate.open('settle', 'lineage');
    gate.hold('create', 'start', 'lookup');
    clients.push(world.ask(body, { 'thread-id': thread }));
    cursor = (await watch.next(cursor, ({ before }) => before === null)) + 1;
    turnId = (watch.seen[cursor - 1]!.after.context as { turnId: string }).turnId;

    for (const [index, { variant, to }] of path.steps.entries()) {
      const { name } = variant;
      // The frame is sent in the same tick in which its start becomes durable.
      if (name === 'commit' && names[index + 1] === 'send') world.onTurn(faultsOf(path, index + 1));
      await causes[name]?.(index);
      for (;;) {
        cursor = (await watch.next(cursor, ({ after }) => after.context.turnId === turnId)) + 1;
        const { event, before, after } = watch.seen[cursor - 1]!;
        if (event.type === name) break;
        if (before && after.value !== before.value)
          throw new Error(`step ${index + 1}: ${name} was expected, and the turn got ${event.type}`);
      }
      model = transition(machine, model, { type: name } as never)[0] as SnapshotFrom<TurnMachine>;
      const real = watch.seen[cursor - 1]!.after.value;
      if (real !== model.value || real !== to.snapshot.value) throw new Error(`step ${index + 1}: it is ${real}`);
      gate.hold('lookup');
      if (name === 'send') creates += 1;
      if (name === 'commit') committed = true;
      await compare(String(model.value), index);
    }
  } finally {
    await world.tidy(clients);
  }

  async function compare(state: string, index: number): Promise<void> {
    const done = model.status === 'done';
    // A frame sent with the verdict, and frames that the provider sends unprompted, may be ahead of the path.
    if (!done && (['send', 'fail'].includes(names[index + 1]!) || creates > 0)) return;
    const expected = !committed ? null : done ? state : 'active';
    let real: string | null = null;
    const agrees = async () => {
      real = (await world.turn(turnId))?.state ?? null;
      return real === expected;
    };
    await until(agrees, 2_000).catch(() => Promise.reject(new Error(`the row is ${real}, not ${expected}`)));
    if (!done) return;
    const arrived = at.simulator.journal.of('create').filter(({ body: sent }) => sent.input === body.input).length;
    if (arrived !== creates) throw new Error(`${arrived} creates arrived, not ${creates}`);
    if (names.at(-1) === 'cancel') return;
    const answer = (await clients[0]!.answer)!;
    // The end of a steered response is shown like any event: the turn continues.
    const told = terminalsOf(answer).slice(names.includes('steer') ? 1 : 0);
    const should = { completed: 'response.completed', incomplete: 'response.incomplete' }[state] ?? 'response.failed';
    const is = answer.status === 200 ? told.map(({ type }) => type).join() : 'response.failed';
    if (is !== should) throw new Error(`the client got ${answer.status} ${is}, not ${should}`);
  }
}
