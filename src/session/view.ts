import type { LocalSession } from '../resolve/types.ts';
import type { Lane } from './lane.ts';

/** States in which an actor has no turn. */
const resting = new Set(['live.idle', 'stale']);

/** Returns the resolver's view of a session that has an actor on this worker. */
export function viewOf(
  lane: Lane,
  { state, socketAnchor, queueFull }: { state: string; socketAnchor: string | null; queueFull: boolean },
): LocalSession {
  const { current, waiting } = lane;
  const shown = current ?? lane.undelivered;
  return {
    sessionId: lane.id,
    scope: lane.scope,
    epoch: lane.epoch,
    state,
    busy: current !== null || waiting.length > 0 || !resting.has(state),
    socketAnchor,
    clientAttached: shown?.stream.attached ?? false,
    bufferComplete: shown?.repeatable ?? false,
    activeRequestFp: shown?.evidence.requestFp ?? null,
    activeParentTurnId: shown?.parent?.id ?? null,
    activeClientTurnId: shown?.evidence.clientTurnId ?? null,
    activeIdempotencyKey: shown?.evidence.idempotencyKey ?? null,
    unsettledResponseIds: current?.ending && current.responseId ? [current.responseId] : [],
    queueLength: waiting.length,
    queueFull,
  };
}
