import type { AnyStateMachine } from 'xstate';

/** What the hub needs of a running XState actor. */
export interface ActorLike {
  readonly id: string;
  readonly logic?: unknown;
  getSnapshot(): unknown;
}

/** An actor as viewers know it. The ids hold no process: a session that moves goes on in the same picture. */
export interface Identity {
  kind: 'session' | 'turn' | 'worker';
  /** e.g. `session:<uuid>`. */
  id: string;
  /** Shown above the machine; short. */
  name: string;
  /** The session it is or belongs to; null for a worker, and for a turn that has no place yet. */
  sessionId: string | null;
  parentId: string | undefined;
}

const short = (id: string) => id.slice(0, 8);

/** Who an actor is, by its machine and its id. Null for machines that are none of the bridge's. */
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
