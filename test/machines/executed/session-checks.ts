import type { SnapshotFrom } from 'xstate';
import type { SessionMachine } from '../../../machines/session.ts';
import type { SessionRow } from '../../../src/store/port.ts';
import { type Answer, terminalsOf } from '../../support/client.ts';
import { until } from '../../support/until.ts';
import type { Ending, Scene, SessionStep } from './session-causes.ts';
import { heldTooLong, placeOf } from './session-facts.ts';

const same = (what: string, real: unknown, expected: unknown): void => {
  const [is, should] = [JSON.stringify(real), JSON.stringify(expected)];
  if (is !== should) throw new Error(`${what} is ${is}, the model says ${should}`);
};

/** Derives how the turn ends from the machine's actions and the provider's behaviour. */
function learnEnding(scene: Scene, { variant, actions, from }: SessionStep): void {
  const { name } = variant;
  const find = (type: string) => actions.find((action) => action.type === type)?.params as never;
  if (name === 'turn.wanted') scene.ending = scene.end = null;
  const forced = find('endTurn') as { end: string; fault: string } | undefined;
  if (name.startsWith('upstream.ended')) {
    const keeps = name === 'upstream.ended (keepSocket)';
    const begun = placeOf(from.snapshot).startsWith('live.streaming/flowing');
    scene.ending = begun
      ? { terminal: keeps ? 'response.completed' : 'response.failed' }
      : { status: keeps ? 400 : 500 };
    scene.end = begun && keeps ? 'completed' : 'failed';
  } else if (find('relayRefusal') !== undefined || actions.some(({ type }) => type === 'relayRefusal')) {
    scene.ending = { status: 401 };
    scene.end = null;
  } else if (forced) {
    scene.ending = { fault: forced.fault };
    scene.end = forced.end;
  }
}

function checkAnswer(answer: Answer, ending: Ending): void {
  if ('status' in ending) return same('the status', answer.status, ending.status);
  if ('fault' in ending) {
    same('the fault in the client’s answer', answer.body.error?.bridge_code, ending.fault);
    if (answer.status === 200)
      same(
        'the terminals',
        terminalsOf(answer).map(({ type }) => type),
        ['response.failed'],
      );
    return;
  }
  same(
    'the terminals',
    terminalsOf(answer).map(({ type }) => type),
    [ending.terminal],
  );
}

/** Checks that the client of the current turn has its answer, or that it has none yet. */
async function checkClient(scene: Scene, step: SessionStep): Promise<void> {
  const { actions, from, to } = step;
  if (!from.facts.attached || from.facts.told) return;
  const held = heldTooLong(step.variant.name, placeOf(from.snapshot)) ? { fault: 'bridge_hold_expired' } : undefined;
  const failed = held ?? (actions.find(({ type }) => type === 'failTurn')?.params as { fault: string } | undefined);
  const told =
    held !== undefined || actions.some(({ type }) => ['failTurn', 'deliverTerminal', 'relayRefusal'].includes(type));
  if (!told || step.variant.name === 'client.gone') {
    if (to.facts.attached && !scene.superseding) same('that the client has its answer', scene.client.answered, false);
    return;
  }
  const answer = await scene.client.answer;
  if (!answer) throw new Error('the client was cut off');
  checkAnswer(answer, failed ? failed : scene.ending!);
}

async function checkSocket(scene: Scene, { to }: SessionStep): Promise<void> {
  if (scene.cut || scene.ahead || placeOf(to.snapshot).endsWith('.dialing')) return;
  const expected = to.facts.socket ? 1 : 0;
  await until(() => scene.world.open === expected).catch(() => same('open sockets', scene.world.open, expected));
}

function checkRow(scene: Scene, step: SessionStep, row: SessionRow | null): void {
  const { to } = step;
  const place = placeOf(to.snapshot);
  const me = scene.world.at.bridge.workerId;
  if (!to.facts.row) return same('the row', row, null);
  if (!row) throw new Error('there is no row');
  const isClosed = place === 'closed' || (place === 'stale' && to.facts.closing);
  same('that the row is closed', row.state === 'closed', isClosed);
  if (isClosed) return;
  const running = /^(live\.(streaming|settling)|reconnecting\.(resending|settling))/.test(place);
  if (running) same('the active turn', row.activeTurnId, scene.turnId);
  if (place === 'live.idle') {
    // An orphan that could not be ended stays active, and the next start finds it.
    if (!scene.orphan) same('the active turn', row.activeTurnId, null);
    same('the owner', row.ownerWorkerId, me);
  }
  if (place === 'live.committing.asking' && !scene.orphan) same('the active turn', row.activeTurnId, null);
  if (place !== 'stale') {
    if (running || place === 'live.idle') same('the head', row.headTurnId, scene.headTurn);
    return;
  }
  same('the head', row.headTurnId, scene.headTurn);
  if (typeof scene.owner === 'object') return same('the owner', row.ownerWorkerId, scene.owner.rival);
  const left = step.actions.some(({ type }) => type === 'reportUnsettled');
  same('the active turn', row.activeTurnId, left ? scene.turnId : scene.orphan ? row.activeTurnId : null);
  if (!left && !scene.orphan && !scene.superseding) same('the owner', row.ownerWorkerId, null);
}

/** Compares the world with the model: the client, the sockets at the provider, and the rows. */
export async function compare(scene: Scene, step: SessionStep, _model: SnapshotFrom<SessionMachine>): Promise<void> {
  const { store } = scene.world.at;
  const { name } = step.variant;
  const { facts } = step.from;
  learnEnding(scene, step);
  if (name === 'store.cleared') scene.orphan = false;
  const settled = name.startsWith('store.settled');
  if (settled && facts.completed) {
    scene.headTurn = scene.turnId;
    scene.headId = (await scene.world.turn(scene.turnId))?.responseId ?? null;
  }
  await checkClient(scene, step);
  await checkSocket(scene, step);
  // The machine ends a session in the background.
  let problem: unknown;
  await until(async () => {
    try {
      checkRow(scene, step, await store.sessionById(scene.sessionId));
      return true;
    } catch (error) {
      problem = error;
      return false;
    }
  }, 2_000).catch(() => {
    throw problem;
  });
  if (settled && scene.end !== null)
    same('the end in the row', (await scene.world.turn(scene.turnId))?.state, scene.end);
}
