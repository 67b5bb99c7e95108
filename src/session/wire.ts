import { asksEncryptedReasoning, createFrame } from '../transcript/planner.ts';
import type { Turn } from './turn.ts';

/** Families that reason unasked. The others refuse to be asked for encrypted reasoning. */
const reasoningModel = /^(o\d|gpt-[5-9]|codex)(?!.*chat)/;

function reasons({ reasoning, model }: Turn['request']['body']): boolean {
  return (reasoning !== undefined && reasoning !== null) || reasoningModel.test(String(model));
}

/**
 * The frame a turn leaves in. A turn the provider does not keep is asked for its encrypted reasoning, because without it
 * the context could not be said again on another socket; the client is not shown what it did not ask for.
 */
export function composeFrame(turn: Turn, turnState: string | null): string {
  const { request, wire } = turn;
  const { body } = request;
  if (!wire || wire.form === 'impossible') throw new Error('a turn without a wire form has no frame');
  turn.hideEncrypted = body.store === false && reasons(body) && !asksEncryptedReasoning(body);
  return createFrame({ request, wire, addEncryptedReasoning: turn.hideEncrypted, turnState });
}
