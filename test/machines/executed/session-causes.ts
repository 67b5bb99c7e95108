import { randomUUID } from 'node:crypto';
import type { SessionMachine } from '../../../machines/session.ts';
import type { CreateCall, SettleCall, StartCall } from '../../../src/store/port.ts';
import type { Path, RuleHandle, Step, TurnFault } from '../../../src/testing/index.ts';
import { placeOf, type SessionFacts } from './session-facts.ts';
import type { Client, RealWorld } from './session-world.ts';

export type SessionStep = Step<SessionMachine, SessionFacts>;

/** Form in which the client of the current turn will be informed of its end. */
export type Ending = { fault: string } | { status: number } | { terminal: 'response.completed' | 'response.failed' };

/** State of the session under test beyond the model: ids, and waiting clients. */
export interface Scene {
  readonly world: RealWorld;
  readonly path: Path<SessionMachine, SessionFacts>;
  readonly thread: string;
  sessionId: string;
  /** All clients that have sent a request on this path. */
  readonly clients: Client[];
  /** Client of the current turn. */
  client: Client;
  turnId: string;
  /** Id of the last response that continues the conversation. */
  headId: string | null;
  headTurn: string | null;
  /** Rules that hold the provider in the running turn and in the previous one. */
  held: RuleHandle | null;
  releasing: RuleHandle | null;
  /** Rule that holds the handshake. */
  dialing: RuleHandle | null;
  /** The connection was cut, but the machine has not received that yet. */
  cut: boolean;
  /** A dial was let through although the machine no longer waits for it. */
  ahead: boolean;
  ending: Ending | null;
  /** End of the turn that its row must have; null when a refusal decides it. */
  end: string | null;
  /** Worker that owns the session. */
  owner: 'me' | 'nobody' | { rival: string };
  orphan: boolean;
  /** A request that superseded the current turn waits for it to end. */
  superseding: boolean;
  said: number;
}

const message = (text: string) => ({ type: 'message', role: 'user', content: [{ type: 'input_text', text }] });

export function say(scene: Scene, anchored: boolean): Client {
  scene.said += 1;
  const input = [message(`${scene.thread} ${scene.said}`)];
  const body = { model: 'm', stream: true, store: false, input };
  const client = scene.world.ask(anchored ? { ...body, previous_response_id: scene.headId } : body, {
    'thread-id': scene.thread,
  });
  scene.clients.push(client);
  return client;
}

/** Prepares the handshake that this step begins, as the path requires. */
export function prepareDial(scene: Scene, index: number): void {
  const { steps } = scene.path;
  const next = steps[index + 1];
  scene.ahead = false;
  const faults: Record<string, Parameters<RealWorld['onUpgrade']>[0]> = {
    'socket.opened': { kind: 'hold' },
    'history.missing': null,
    'socket.failed': { kind: 'reset' },
    'socket.refused': { kind: 'refuse', status: 401, body: { error: { message: 'No.', code: 'nope' } } },
  };
  const name = next?.variant.name ?? '';
  if (name in faults) {
    scene.dialing = scene.world.onUpgrade(faults[name]!);
    return;
  }
  // A socket that opens unknown to the machine, while the turn it was for is being ended.
  const after = steps.slice(index + 1);
  const verdict = after.find(
    ({ variant, actions }) => variant.name.startsWith('store.settled') || actions.some(({ type }) => type === 'dial'),
  );
  scene.ahead =
    verdict?.variant.name === 'store.settled (socketOpen)' && placeOf(verdict.from.snapshot).startsWith('reconnecting');
  scene.world.onUpgrade(scene.ahead ? null : { kind: 'hang' });
}

/** Prepares the provider for the turn whose frame this step sends: it stops wherever the path may continue. */
export function prepareTurn(scene: Scene, index: number): void {
  const rest = scene.path.steps.slice(index + 1);
  if (rest[0]?.variant.name.startsWith('frame.not_sent')) return;
  const upTo = rest.findIndex(({ actions }) => actions.some(({ type }) => type.startsWith('send')));
  const mine = (upTo < 0 ? rest : rest.slice(0, upTo + 1)).map(({ variant }) => variant.name);
  const progress = mine.indexOf('upstream.progress');
  const ended = mine.findIndex((name) => name.startsWith('upstream.ended'));
  const begins = progress >= 0 && (ended < 0 || progress < ended);
  const faults: TurnFault[] = [{ kind: 'hold', at: 'before_created' }];
  if (begins) faults.push({ kind: 'hold', at: { deltas: 1 } });
  const error = (status: number): TurnFault => ({
    kind: 'error',
    error: { status, code: 'scripted', message: 'Scripted.' },
    at: 'before_created',
  });
  if (mine.includes('upstream.anchor_refused')) faults.push({ kind: 'refuse_anchor' });
  else if (ended >= 0) {
    const keeps = mine[ended] === 'upstream.ended (keepSocket)';
    if (!begins) faults.push(error(keeps ? 400 : 500));
    else if (!keeps) faults.push({ kind: 'failed', code: 'server_error', at: 'before_terminal' });
  }
  scene.held = scene.world.onTurn(faults);
}

/** Any of the three calls; a member that one of them lacks is not read from it. */
interface HeldCommit {
  args: [CreateCall & StartCall & SettleCall];
  pass(): Promise<unknown>;
  answer(value: { verdict: 'rejected'; reason: string }): void;
}

const callOf = (facts: SessionFacts): 'create' | 'start' | 'settle' =>
  facts.asked === 'create' || facts.asked === 'start' ? facts.asked : 'settle';

/** Makes the store give the required answer by creating its cause. */
async function verdict(scene: Scene, { variant, from }: SessionStep): Promise<void> {
  const { world, sessionId } = scene;
  const { store } = world.at;
  const { facts } = from;
  const name = variant.name;
  const held = (await world.gate.next(callOf(facts))) as unknown as HeldCommit;
  const [call] = held.args;
  if ((facts.asked === 'create' || facts.asked === 'start') && call.turn) scene.turnId = call.turn.id;
  const closed = name.includes('socketOpen: false') && facts.socket;
  if (closed) await world.cut();
  // The socket that the machine no longer waits for.
  if (scene.ahead && placeOf(from.snapshot).startsWith('reconnecting.settling')) await world.opened();
  const ask = { ...call, turn: { ...call.turn, id: randomUUID() } };
  const lease = (ms: number) =>
    world.sql(`update worker set heartbeat_expires_at = now() + make_interval(secs => $2) where id = $1`, [
      call.me,
      ms / 1_000,
    ]);

  switch (name) {
    case 'store.not_created':
      await store.create({ ...ask, sessionId: randomUUID(), nonce: randomUUID() });
      break;
    case 'store.head_moved': {
      const before = (await store.sessionById(sessionId))!.headTurnId;
      await world.sql(`update bridge_session set head_turn_id = 'elsewhere' where id = $1`, [sessionId]);
      await held.pass();
      return world.sql('update bridge_session set head_turn_id = $2 where id = $1', [sessionId, before]);
    }
    case 'store.busy':
      await store.start(ask);
      scene.orphan = true;
      break;
    case 'store.fenced':
      if (facts.asked === 'start') {
        await store.operatorRelease(sessionId);
        scene.owner = 'nobody';
        await held.pass();
        // The start is repeated once a heartbeat has shown that the worker's own row still exists.
        await (await world.gate.next('start')).pass();
        return;
      }
      scene.owner = { rival: await world.rob(sessionId) };
      await held.pass();
      if (call.me === world.at.bridge.workerId) await world.bury();
      return;
    case 'store.rejected (rowExists)':
    case 'store.rejected (rowExists: false)':
      return held.answer({ verdict: 'rejected', reason: 'no space left on device' });
    default:
      if (name.includes('leaseValid: false')) {
        await lease(1_000);
        await held.pass();
        return lease(400_000_000);
      }
  }
  await held.pass();
}

/** Makes one event of the path happen in the world. Events that follow by themselves are only awaited. */
export async function cause(scene: Scene, step: SessionStep): Promise<void> {
  const { world, sessionId } = scene;
  const { gate, clock } = world;
  const { facts } = step.from;
  const place = placeOf(step.from.snapshot);
  const name = step.variant.name;
  if (name.startsWith('store.')) return verdict(scene, step);
  if (name.startsWith('deadline.')) return;
  switch (name) {
    case 'socket.opened':
      scene.dialing?.release();
      return gate.open('lineage');
    case 'socket.failed':
    case 'socket.refused':
      return gate.open('lineage');
    case 'history.missing':
      await world.sql('delete from turn_items');
      return gate.open('lineage');
    case 'socket.lost (resendable)':
    case 'socket.lost (resendable: false)':
      return world.connection().reset();
    case 'turn.wanted':
      gate.open('lookup', 'lineage');
      // An orphaned turn is ended before its session is claimed.
      if (place === 'stale') gate.open('settle');
      // A request that was handed back, or that superseded another, is placed again; otherwise the client continues.
      if (!facts.limbo && !scene.superseding) scene.client = say(scene, facts.head);
      scene.superseding = false;
      return;
    case 'turn.cancelled (reason: superseded)':
      if (!place.startsWith('live.streaming')) return void clock.fire('request_hold');
      gate.open('lookup');
      scene.client = say(scene, false);
      scene.superseding = true;
      return;
    case 'client.gone':
      return scene.client.hangUp();
    case 'client.back': {
      gate.open('lookup', 'lineage');
      scene.client = world.ask(scene.client.body, { 'thread-id': scene.thread });
      scene.clients.push(scene.client);
      return;
    }
    case 'upstream.progress':
    case 'upstream.anchor_refused':
    case 'upstream.ended (keepSocket)':
    case 'upstream.ended (keepSocket: false)':
      return scene.releasing!.release();
    case 'operator.release':
    case 'operator.close':
      // Ending a running turn takes until its settle, which has a step of its own.
      if (/^(live\.streaming|reconnecting\.resending)/.test(place))
        return void world.operator(sessionId, 'close').catch(() => {});
      if ((await world.operator(sessionId, name === 'operator.close' ? 'close' : 'release')) !== 200)
        throw new Error(`the operator was refused`);
      return;
    case 'worker.draining':
      void world.at.bridge.close();
      return;
    case 'worker.dead':
      return world.bury();
  }
}
