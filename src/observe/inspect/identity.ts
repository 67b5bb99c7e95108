import type { AnyStateMachine } from 'xstate';

/** Parts of a running XState actor that the hub uses. */
export interface ActorLike {
  readonly id: string;
  readonly logic?: unknown;
  getSnapshot(): unknown;
}

/**
 * Identity of an actor in the inspector. Ids contain no process, so a session that moves to another worker continues in
 * the same picture.
 */
export interface Identity {
  kind: 'session' | 'turn' | 'worker';
  /** Id shown to viewers, for example `session:<uuid>`. */
  id: string;
  /** Short name shown above the machine. */
  name: string;
  /** Session that the actor is or belongs to; null for a worker, and for a turn without a session. */
  sessionId: string | null;
  parentId: string | undefined;
}

const short = (id: string) => id.slice(0, 8);

/**
 * Derives the identity of an actor from its machine and id. Returns null for machines that do not belong to the bridge.
 *
 * @param sessionOfTurn the session on which a turn was placed, if known
 */
export function identify(ref: ActorLike, sessionOfTurn: string | undefined): Identity | null {
  const machine = (ref.logic as AnyStateMachine | undefined)?.id;
  if (machine === 'session') {
    const [sessionId, epoch] = ref.id.split('@') as [string, string?];
    const name = `session ${short(sessionId)}${epoch ? ` epoch ${epoch}` : ''}`;
    return { kind: 'session', id: `session:${sessionId}`, name, sessionId, parentId: undefined };
  }
  if (machine === 'turn') {
    const { turnId } = (ref.getSnapshot() as { context?: { turnId?: string } } | undefined)?.context ?? {};
    if (!turnId) return null;
    const parentId = sessionOfTurn === undefined ? undefined : `session:${sessionOfTurn}`;
    return {
      kind: 'turn',
      id: `turn:${turnId}`,
      name: `turn ${short(turnId)}`,
      sessionId: sessionOfTurn ?? null,
      parentId,
    };
  }
  if (machine === 'worker') {
    const workerId = ref.id.replace(/^worker:/, '');
    return {
      kind: 'worker',
      id: `worker:${workerId}`,
      name: `worker ${short(workerId)}`,
      sessionId: null,
      parentId: undefined,
    };
  }
  return null;
}
