import type { Turn } from './turn.ts';

/**
 * Whether a turn whose socket was lost may be sent once more. Only if nothing beyond `response.created` and telemetry
 * arrived, nothing was shown, no hosted tool could have acted, and the provider keeps no conversation of its own.
 *
 * @param untaken the upstream said that it did not take the frame: then nothing of it can have acted
 */
export function mayResend(turn: Turn, untaken = false): boolean {
  const { body, hostedTools } = turn.request;
  if (turn.sawOutput || turn.stream.shown || turn.stream.finished) return false;
  if (untaken) return true;
  return body.conversation == null && body.background !== true && !hostedTools;
}

/**
 * Whether the context can be sent again: the client sent it whole, its lineage is known to be exact, or its anchor is
 * the provider's own affair.
 */
export function canSendFull(turn: Turn): boolean {
  if (turn.continuation?.kind !== 'anchored' || turn.parent === null) return true;
  return turn.history !== null || turn.parent?.replay === 'exact';
}
