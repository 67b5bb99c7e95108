import type { Continuation, Item, RequestBody, WireForm } from './types.ts';

export interface PlanInput {
  body: RequestBody;
  continuation: Continuation;
  /** The turn that is continued, if its content is known. */
  parentResponseId: string | null;
  /** What this very socket can continue from; null on a fresh one. */
  socketAnchor: string | null;
  /** The provider keeps the parent's response, so that its id works on any socket. */
  anchorStored: boolean;
  /** Every item of the parent's lineage, exactly; null when that is not known, not exact or not loaded. */
  history: readonly Item[] | null;
}

/**
 * The form in which a turn leaves: anchor and new items, or everything and no anchor. Never both, and never an anchor
 * the upstream cannot resolve. What the client itself sent in full goes as it was sent.
 */
export function planWire(input: PlanInput): WireForm {
  const { body, continuation, parentResponseId, socketAnchor, anchorStored, history } = input;
  const held = parentResponseId !== null && socketAnchor === parentResponseId;
  const asSent = body.input as readonly Item[] | string;
  switch (continuation.kind) {
    case 'root':
      return { form: 'full', input: asSent };
    case 'extends':
      if (held && continuation.deltaAllowed) {
        return {
          form: 'delta',
          previousResponseId: parentResponseId,
          input: continuation.items.map(({ value }) => value),
        };
      }
      return { form: 'full', input: asSent };
    case 'anchored':
      if (parentResponseId !== null && (held || anchorStored)) {
        return { form: 'delta', previousResponseId: parentResponseId, input: asSent ?? [] };
      }
      if (history) return { form: 'full', input: [...history, ...continuation.items.map(({ value }) => value)] };
      return { form: 'impossible', reason: 'the earlier response is gone and its context cannot be rebuilt exactly' };
  }
}

export interface FrameInput {
  body: RequestBody;
  wire: Exclude<WireForm, { form: 'impossible' }>;
  /** Ask for encrypted reasoning although the client did not: without it an unstored turn could not be said again. */
  addEncryptedReasoning: boolean;
  /** The provider's own turn state, for the same client turn. */
  turnState: string | null;
}

const TURN_STATE = 'x-codex-turn-state';

export const ENCRYPTED_REASONING = 'reasoning.encrypted_content';

/** Whether the client's own `include` asks for encrypted reasoning. */
export function asksEncryptedReasoning(body: RequestBody): boolean {
  return Array.isArray(body.include) && body.include.includes(ENCRYPTED_REASONING);
}

/** The text of a `response.create` frame: the client's body with anchor and input in the planned form. */
export function createFrame({ body, wire, addEncryptedReasoning, turnState }: FrameInput): string {
  const frame: Record<string, unknown> = { type: 'response.create' };
  for (const [name, value] of Object.entries(body)) {
    if (name === 'type' || name === 'previous_response_id') continue;
    if (name === 'background' && value !== true) continue;
    frame[name] = name === 'input' ? wire.input : value;
  }
  frame.input ??= wire.input ?? [];
  // Only a background request may be answered at once with one object.
  frame.stream = body.background !== true || body.stream === true;
  if (wire.form === 'delta') frame.previous_response_id = wire.previousResponseId;
  if (addEncryptedReasoning) {
    frame.include = [...(Array.isArray(body.include) ? body.include : []), ENCRYPTED_REASONING];
  }
  const metadata = body.client_metadata as Record<string, unknown> | null | undefined;
  if (turnState !== null || (metadata && TURN_STATE in metadata)) {
    // What a client sends under this name is a token of this bridge or nobody's: the provider's own never left here.
    const { [TURN_STATE]: _own, ...rest } = metadata ?? {};
    frame.client_metadata = turnState === null ? rest : { ...rest, [TURN_STATE]: turnState };
  }
  return JSON.stringify(frame);
}
