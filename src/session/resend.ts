import type { Turn } from './turn.ts';

/**
 * Returns whether a turn whose socket was lost may be sent once more. Required: only `response.created` and telemetry
 * have arrived, no output was shown, no hosted tool can have acted, and the turn uses no conversation or background
 * response at the provider.
 *
 * @param untaken true if the upstream reported that it did not accept the frame: the turn then cannot have had any
 *   effect
 */
export function mayResend(turn: Turn, untaken = false): boolean {
  const { body, hostedTools } = turn.request;
  if (turn.sawOutput || turn.stream.shown || turn.stream.finished) return false;
  if (untaken) return true;
  return body.conversation == null && body.background !== true && !hostedTools;
}

/**
 * Returns whether the whole context can be sent again: the client sent it in full, its lineage is known to be exact, or
 * only the provider knows the anchor.
 */
export function canSendFull(turn: Turn): boolean {
  if (turn.continuation?.kind !== 'anchored' || turn.parent === null) return true;
  return turn.history !== null || turn.parent?.replay === 'exact';
}
