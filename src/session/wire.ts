import { asksEncryptedReasoning, createFrame } from '../transcript/planner.ts';
import type { Turn } from './turn.ts';

/**
 * The frame a turn leaves in. A turn the provider does not keep is asked for its encrypted reasoning, because without it
 * the context could not be said again on another socket; the client is not shown what it did not ask for.
 */
export function composeFrame(turn: Turn, turnState: string | null): string {
  const { body } = turn.request;
  const { wire } = turn;
  if (!wire || wire.form === 'impossible') throw new Error('a turn without a wire form has no frame');
  const reasons = body.reasoning !== undefined && body.reasoning !== null;
  turn.hideEncrypted = body.store === false && reasons && !asksEncryptedReasoning(body);
  return createFrame({ body, wire, addEncryptedReasoning: turn.hideEncrypted, turnState });
}
