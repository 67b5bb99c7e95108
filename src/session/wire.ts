import { asksEncryptedReasoning, createFrame } from '../transcript/planner.ts';
import type { Turn } from './turn.ts';

/** Model families that reason by default. Other models reject a request for encrypted reasoning. */
const reasoningModel = /^(o\d|gpt-[5-9]|codex)(?!.*chat)/;

function reasons({ reasoning, model }: Turn['request']['body']): boolean {
  return (reasoning !== undefined && reasoning !== null) || reasoningModel.test(String(model));
}

/**
 * Returns the frame in which a turn is sent. If the provider does not store the response, its encrypted reasoning is
 * requested as well: without it the context could not be resent on another socket. It is hidden from a client that did
 * not request it.
 */
export function composeFrame(turn: Turn, turnState: string | null): string {
  const { request, wire } = turn;
  const { body } = request;
  if (!wire || wire.form === 'impossible') throw new Error('a turn without a wire form has no frame');
  turn.hideEncrypted = body.store === false && reasons(body) && !asksEncryptedReasoning(body);
  return createFrame({ request, wire, addEncryptedReasoning: turn.hideEncrypted, turnState });
}
