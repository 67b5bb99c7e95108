import { mayBeParent } from '../../../src/resolve/situation.ts';
import { scoped } from '../../../src/testing/memory-store/database.ts';
import type { Create } from './upstream.ts';
import type { Slot, World } from './world.ts';

interface Body {
  input?: unknown;
  previous_response_id?: unknown;
}

/** Returns the client's last message in a frame. */
function saidLast(input: unknown): string | null {
  const items = (Array.isArray(input) ? input : []) as { role?: string; content?: { text?: string }[] }[];
  return items.findLast(({ role }) => role === 'user')?.content?.[0]?.text ?? null;
}

/** Returns the turn with that response. */
const turnOf = ({ database }: World, responseId: string) =>
  [...database.turns.values()].find((turn) => turn.responseId === responseId);

/**
 * Checks a frame at the moment it is sent. Its turn must have been started under the fence by the sending process. If
 * the bridge chose an anchor, the provider must be able to resolve it on that connection.
 */
export function checkFrame(
  world: World,
  create: Create,
  slot: Slot,
  asked: ReadonlyMap<string, ReadonlySet<string>>,
): void {
  const { database } = world;
  const { previous_response_id: anchor, input } = create.body as Body;
  const text = saidLast(input);
  world.note(`${create.process.name} sends ${text}${anchor ? ` after ${anchor}` : ''}`);
  const prints = asked.get(text ?? '');
  if (!prints) return world.violate('a frame that no client asked for', String(text));
  const author = `${create.process.name}#`;
  const turns = [...database.turns.values()].filter(
    ({ requestFp, authorWorkerId }) => prints.has(requestFp) && authorWorkerId.startsWith(author),
  );
  if (turns.length === 0) return world.violate('a frame before its start', `${create.process.name}: ${text}`);
  const active = turns.some(({ scope, id, state, sessionId }) => {
    const session = database.sessions.get(scoped(scope, sessionId));
    return state === 'active' && session?.activeTurnId === id;
  });
  if (!active) {
    if (!slot.frozen) world.violate('a frame of a turn that is not active', `${create.process.name}: ${text}`);
    else world.note('a frame left too late');
  }
  if (typeof anchor !== 'string') return;
  const named = turnOf(world, anchor);
  const sent = turns.find(({ sessionId, state }) => state === 'active' && sessionId === named?.sessionId);
  if (sent && sent.parentTurnId !== named!.id) {
    world.violate('a turn that continues another than its parent', `${create.process.name}: ${text}`);
  }
  if (create.anchorKnown !== false) return;
  if (!world.clientAnchors.has(anchor)) {
    world.violate('an anchor that the provider cannot resolve there', `${create.process.name}: ${text}`);
  }
}

/**
 * Checks the refusal of an anchor by the bridge: the turn with that response must not be one that any worker can continue.
 *
 * @param request name of the refused request, for the report
 */
export function checkExpired(world: World, responseId: string, request: string): void {
  const { turns, sessions, items } = world.database;
  const turn = turnOf(world, responseId);
  if (!turn || !mayBeParent(turn) || turn.replay !== 'exact') return;
  const session = sessions.get(scoped(turn.scope, turn.sessionId));
  if (session?.anchorLost && session.headTurnId === turn.id) return;
  for (let each: typeof turn | undefined = turn; ; each = turns.get(scoped(each.scope, each.parentTurnId))) {
    if (!each || !items.has(scoped(each.scope, each.id))) return;
    if (each.parentTurnId === null) break;
  }
  world.violate('an anchor that could be continued was refused', request);
}

/**
 * Checks some seconds after the last client was answered that no turn is in flight, no request waits and no quota is in
 * use.
 */
export function checkAtRest(world: World): void {
  for (const { worker, process } of world.slots) {
    if (!worker) {
      world.violate('a worker that does not come back', process.name);
      continue;
    }
    const { dispatcher, quota, registry } = worker;
    if (dispatcher.inFlight > 0) world.violate('a turn in flight without a waiting client', process.name);
    const { waiting, running, bytes } = quota.inHand;
    if (waiting + running + bytes > 0)
      world.violate('a request that still counts', `${waiting} waiting, ${running} running, ${bytes} bytes`);
    for (const session of registry.all()) {
      const { state, busy, queueLength } = session.view();
      if (busy || state !== 'live.idle')
        world.violate('a session that does not come to rest', `${session.id} ${state}`);
      if (queueLength > 0) world.violate('a queue that is not empty', session.id);
    }
  }
}

/** Checks after all deadlines have passed that no actor is left, and that every row is idle or can be taken over. */
export async function checkDurable(world: World): Promise<void> {
  const { database } = world;
  for (const { worker, process } of world.slots) {
    if (worker && worker.registry.size > 0) {
      const left = [...worker.registry.all()].map((session) => `${session.id} ${session.view().state}`);
      world.violate('a session without an exit', `${process.name}: ${left.join(', ')}`);
    }
    const { bufferedBytes = 0, unreadBytes = 0 } = worker?.quota ?? {};
    if (bufferedBytes + unreadBytes > 0)
      world.violate('a buffer that is not given back', `${process.name}: ${bufferedBytes} and ${unreadBytes} bytes`);
  }
  const alive = new Set(world.slots.flatMap(({ worker }) => (worker ? [worker.membership.id] : [])));
  for (const session of database.sessions.values()) {
    const { scope, activeTurnId, ownerWorkerId, headTurnId } = session;
    if (activeTurnId !== null && !world.refusals.has(activeTurnId)) {
      if (alive.has(ownerWorkerId ?? ''))
        world.violate('a turn left active by a live worker', `${session.id} ${activeTurnId}`);
      const owner = database.workers.get(ownerWorkerId ?? '');
      if (owner && owner.state !== 'dead' && owner.heartbeatExpiresAt >= world.agenda.now)
        world.violate('an active turn that no worker runs', `${session.id} ${activeTurnId}`);
    }
    const head = headTurnId === null ? null : database.turns.get(scoped(scope, headTurnId));
    if (head && head.state !== 'completed' && head.state !== 'incomplete')
      world.violate('a head that is no parent', `${session.id} ${head.state}`);
  }
}
