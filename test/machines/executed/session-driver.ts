import { randomUUID } from 'node:crypto';
import { initialTransition, type SnapshotFrom, transition } from 'xstate';
import type { SessionMachine } from '../../../machines/session.ts';
import { type Path, sessionModel, transitionNames, transitionsTaken } from '../../../src/testing/index.ts';
import { until } from '../../support/until.ts';
import { LAPSE } from './deadline-clock.ts';
import { cause, prepareDial, prepareTurn, type Scene, type SessionStep, say } from './session-causes.ts';
import { compare } from './session-checks.ts';
import { placeOf, type SessionFacts } from './session-facts.ts';
import type { RealWorld } from './session-world.ts';
import type { Seen, Watch } from './watch.ts';

type Snapshot = SnapshotFrom<SessionMachine>;
type SessionSeen = Seen<SessionMachine>;

const { machine } = sessionModel;
const names = transitionNames(machine);

/** Returns an event without the parts that the model leaves open. */
const essence = ({ reason: _, ...event }: Record<string, unknown>) => JSON.stringify(event);

const show = ({ value, context }: Snapshot) => JSON.stringify([value, context]);

/**
 * Drives a real session along a path of its machine. After every step the running machine must be in the model's state,
 * and the world must show the effects of the machine's actions.
 *
 * @returns number of events that the path did not name, all of which the machine must have ignored
 * @throws Error at the first difference
 */
export async function drive(
  world: RealWorld,
  watch: Watch<SessionMachine>,
  path: Path<SessionMachine, SessionFacts>,
): Promise<number> {
  const { gate, clock } = world;
  let model: Snapshot = initialTransition(machine, {})[0];
  let cursor = watch.seen.length;
  let noise = 0;

  const scene: Scene = {
    world,
    path,
    thread: randomUUID(),
    sessionId: '',
    clients: [],
    client: undefined as never,
    turnId: '',
    headId: null,
    headTurn: null,
    held: null,
    dialing: null,
    cut: false,
    releasing: null,
    ahead: false,
    ending: null,
    end: null,
    owner: 'me',
    orphan: false,
    superseding: false,
    said: 0,
  };

  const isMine = ({ actor }: SessionSeen) => actor.startsWith(`${scene.sessionId}@`);
  const agree = (real: Snapshot, where: string) => {
    if (show(real) !== show(model))
      throw new Error(`${where}: the model is in ${show(model)}, the machine in ${show(real)}`);
  };

  /** Checks that the next step of this session that the machine does not ignore is the expected one. */
  async function follow(expected: SessionStep): Promise<void> {
    const event = expected.variant.event(model.context);
    for (;;) {
      cursor = (await watch.next(cursor, isMine)) + 1;
      const seen = watch.seen[cursor - 1]!;
      if (seen.before === null) {
        born(seen);
        continue;
      }
      if (essence(seen.event) === essence(event)) break;
      const taken = transitionsTaken(machine, names, seen.before, seen.event);
      if (taken.length > 0)
        throw new Error(`${expected.variant.name} was expected, and the machine got ${JSON.stringify(seen.event)}`);
      noise += 1;
    }
    model = transition(machine, model, expected.variant.event(model.context) as never)[0];
    agree(watch.seen[cursor - 1]!.after, expected.variant.name);
  }

  /**
   * Restarts the path after a claim. A claim creates a new actor from the stored row: it is stale whatever its state
   * was, and needs a new socket.
   */
  function born({ after }: SessionSeen): void {
    const { creates, takeovers } = after.context;
    if (after.value !== 'stale' || creates !== 0 || takeovers === 0) throw new Error(`a claim began as ${show(after)}`);
    // The takeover itself is a step of the restored snapshot, before there is an actor to observe.
    watch.coverage.take(after, { type: 'session.claimed' });
    model = after;
    scene.owner = 'me';
  }

  async function fire(name: string): Promise<void> {
    const deadline = name.slice('deadline.'.length);
    for (const before = watch.seen.length; watch.seen.length === before; )
      if (!clock.fire(deadline)) throw new Error(`no deadline ${deadline} is running`);
  }

  async function take(step: SessionStep, index: number): Promise<void> {
    const { variant, actions, to } = step;
    const did = (...types: string[]) => actions.some(({ type }) => types.includes(type));
    const next = path.steps[index + 1]?.variant.name ?? '';
    if (variant.name === 'session.claimed') {
      model = transition(machine, model, variant.event(model.context) as never)[0];
      return;
    }
    scene.releasing = scene.held;
    scene.cut = next === 'frame.not_sent (cause: socket)';
    if (did('dial') && variant.name !== 'frame.not_sent (cause: socket)') prepareDial(scene, index);
    if (did('sendCreate', 'sendFull')) prepareTurn(scene, index);
    if (placeOf(to.snapshot) === 'reconnecting.resending.dialing' && to.facts.history === 'unread')
      gate.hold('lineage');
    if (next === 'frame.not_sent (cause: lease)') {
      watch.during = ({ event }) => {
        if (event.type !== variant.name.split(' ')[0]) return;
        watch.during = null;
        clock.skip(LAPSE);
      };
    }
    if (scene.cut) {
      const before = watch.seen.length;
      scene.dialing?.release();
      await until(() => world.open > 0);
      world.connection().reset();
      await watch.next(before, ({ event }) => event.type === 'socket.lost');
      // The next handshake begins in the same tick.
      prepareDial(scene, index + 1);
    }
    if (variant.name.startsWith('deadline.')) await fire(variant.name);
    else await cause(scene, step);
    await follow(step);
    gate.hold('lookup', 'settle');
    // A frame still in flight could be lost with its socket, and its rule would then match another turn.
    if (did('sendCreate', 'sendFull') && !next.startsWith('frame.not_sent')) await until(() => scene.held!.hits > 0);
    if (variant.name === 'frame.not_sent (cause: lease)') {
      await until(() => clock.fire('heartbeat'));
      await until(async () => (await world.at.bridge.readiness()).ready);
    }
    if (variant.name === 'worker.draining') {
      await world.at.restart();
    }
    await compare(scene, step, model);
  }

  try {
    gate.hold('create', 'start', 'settle');
    gate.open('lookup', 'lineage');
    prepareDial(scene, -1);
    scene.client = say(scene, false);
    cursor = (await watch.next(cursor)) + 1;
    const first = watch.seen[cursor - 1]!;
    scene.sessionId = first.actor.split('@')[0]!;
    agree(first.after, 'the beginning');
    gate.hold('lookup');
    for (const [index, step] of path.steps.entries()) {
      try {
        await take(step, index);
      } catch (error) {
        throw new Error(
          `step ${index + 1}, ${step.variant.name} in ${placeOf(step.from.snapshot)}: ${(error as Error).message}`,
          {
            cause: error,
          },
        );
      }
    }
    return noise;
  } finally {
    watch.during = null;
    await world.tidy(scene.clients);
  }
}
