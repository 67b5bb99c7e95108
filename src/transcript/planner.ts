import { arrayText, changedMembers, elementTexts, spansByName, textOf, withMembers } from '../json.ts';
import type { Continuation, ReadItem, ReadRequest, RequestBody, WireForm, WireInput } from './types.ts';

export interface PlanInput {
  request: Pick<ReadRequest, 'text' | 'members' | 'items'>;
  continuation: Continuation;
  /** The turn that is continued, if its content is known. */
  parentResponseId: string | null;
  /** What this very socket can continue from; null on a fresh one. */
  socketAnchor: string | null;
  /** The provider keeps the parent's response, so that its id works on any socket. */
  anchorStored: boolean;
  /** The texts of every item of the parent's lineage; null when that is not known, not exact or not loaded. */
  history: readonly string[] | null;
  /** Texts of items that the provider did not keep, by item id: sent in place of what only names them. */
  contents: ReadonlyMap<string, string>;
}

/**
 * The form in which a turn leaves: anchor and new items, or everything and no anchor. Never both, and never an anchor
 * the upstream cannot resolve. What the client itself sent in full goes as it was sent.
 */
export function planWire(input: PlanInput): WireForm {
  const { request, continuation, parentResponseId, socketAnchor, anchorStored, history, contents } = input;
  const held = parentResponseId !== null && socketAnchor === parentResponseId;
  const whole = (items: readonly ReadItem[]) => items.map((item) => resolved(item, contents));
  const asSent = () => (contents.size === 0 ? inputAsSent(request) : inputOf(whole(request.items.list)));
  const added = () => whole(continuation.items);
  switch (continuation.kind) {
    case 'root':
      return { form: 'full', ...asSent() };
    case 'extends':
      if (held && continuation.deltaAllowed) {
        return { form: 'delta', previousResponseId: parentResponseId, ...inputOf(added()) };
      }
      return { form: 'full', ...asSent() };
    case 'anchored':
      if (parentResponseId !== null && (held || anchorStored)) {
        return { form: 'delta', previousResponseId: parentResponseId, ...asSent() };
      }
      if (history) return { form: 'full', ...inputOf([...history, ...added()]) };
      return { form: 'impossible', reason: 'the earlier response is gone and its context cannot be rebuilt exactly' };
  }
}

/**
 * An item as it can be sent: what names an item that the provider cannot look up gives way to that item. So does
 * reasoning whose ciphertext the client was not shown.
 */
function resolved({ named, json }: ReadItem, contents: ReadonlyMap<string, string>): string {
  return named === null ? json : (contents.get(named) ?? json);
}

/** A request's own input as it was sent. */
export function inputAsSent({ text, members, items }: PlanInput['request']): WireInput {
  return { input: textOf(text, spansByName(members).get('input')), items: items.list.length };
}

const inputOf = (texts: readonly string[]) => ({ input: arrayText(texts), items: texts.length });

export interface FrameInput {
  request: Pick<ReadRequest, 'text' | 'members' | 'body'>;
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

/**
 * The text of a `response.create` frame: the client's body as it was written, with anchor and input in the planned form.
 * Fields the client did not send are not added; a socket always streams, so a `stream` it did send becomes true.
 */
export function createFrame({ request, wire, addEncryptedReasoning, turnState }: FrameInput): string {
  const { body, text, members } = request;
  const written = spansByName(members);
  const changes = new Map<string, string | null>([['type', null]]);
  if (body.background !== true) changes.set('background', null);
  if (wire.input !== null) changes.set('input', wire.input);
  if (wire.form === 'delta') changes.set('previous_response_id', JSON.stringify(wire.previousResponseId));
  else if (body.previous_response_id != null) changes.set('previous_response_id', null);
  // Only a background request may be answered at once with one object.
  if ('stream' in body && body.stream !== true && body.background !== true) changes.set('stream', 'true');
  if (addEncryptedReasoning) {
    const asked = elementTexts(textOf(text, written.get('include')) ?? '');
    changes.set('include', arrayText([...asked, JSON.stringify(ENCRYPTED_REASONING)]));
  }
  const metadata = body.client_metadata as Record<string, unknown> | null | undefined;
  if (turnState !== null || (metadata && Object.hasOwn(metadata, TURN_STATE))) {
    // What a client sends under this name is a token of this bridge or of no use: the provider's own never left here.
    const own = turnState === null ? null : JSON.stringify(turnState);
    const given = metadata ? textOf(text, written.get('client_metadata')) : null;
    changes.set('client_metadata', withMembers(given ?? '{}', new Map([[TURN_STATE, own]])));
  }
  const fields = changedMembers(text, changes, members);
  const begun = fields.before.slice(fields.before.indexOf('{') + 1);
  return `{"type":"response.create"${fields.members === '' ? '' : ','}${begun}${fields.members}${fields.after.trimEnd()}`;
}
