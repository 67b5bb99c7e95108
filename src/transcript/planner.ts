import { arrayText, changedMembers, elementTexts, spansByName, textOf, withMembers } from '../json.ts';
import type { Continuation, ReadItem, ReadRequest, RequestBody, WireForm, WireInput } from './types.ts';

/** Inputs of the decision about a turn's wire form. */
export interface PlanInput {
  request: Pick<ReadRequest, 'text' | 'members' | 'items'>;
  continuation: Continuation;
  /** Response id of the continued turn, if its content is known. */
  parentResponseId: string | null;
  /** Response id that this very socket can continue; null on a fresh one. */
  socketAnchor: string | null;
  /** The provider stores the parent's response, so that its id works on any socket. */
  anchorStored: boolean;
  /** Texts of all items of the parent's lineage; null when it is unknown, not exact or not loaded. */
  history: readonly string[] | null;
  /** Texts of items that the provider did not store, by item id. They replace items that only name them. */
  contents: ReadonlyMap<string, string>;
}

/**
 * Plans the form in which a turn is sent: anchor and new items, or everything without an anchor. Never both, and never an
 * anchor that the upstream cannot resolve. A full input of the client is sent as received.
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
 * Returns an item as it can be sent: an item that only names content which the provider cannot look up is replaced by that
 * content, and so is reasoning whose ciphertext the client was not shown.
 */
function resolved({ named, json }: ReadItem, contents: ReadonlyMap<string, string>): string {
  return named === null ? json : (contents.get(named) ?? json);
}

/** Returns a request's own input as it was sent. */
export function inputAsSent({ text, members, items }: PlanInput['request']): WireInput {
  return { input: textOf(text, spansByName(members).get('input')), items: items.list.length };
}

const inputOf = (texts: readonly string[]) => ({ input: arrayText(texts), items: texts.length });

/** Inputs of a `response.create` frame. */
export interface FrameInput {
  request: Pick<ReadRequest, 'text' | 'members' | 'body'>;
  wire: Exclude<WireForm, { form: 'impossible' }>;
  /**
   * Requests encrypted reasoning although the client did not: without it a turn that is not stored could not be sent again.
   */
  addEncryptedReasoning: boolean;
  /** Provider's own turn state for the same client turn; null when there is none. */
  turnState: string | null;
}

const TURN_STATE = 'x-codex-turn-state';

export const ENCRYPTED_REASONING = 'reasoning.encrypted_content';

/** Returns whether the client's own `include` requests encrypted reasoning. */
export function asksEncryptedReasoning(body: RequestBody): boolean {
  return Array.isArray(body.include) && body.include.includes(ENCRYPTED_REASONING);
}

/**
 * Returns the text of a `response.create` frame: the client's body as written, with anchor and input in the planned form.
 * No field is added that the client did not send, except encrypted reasoning and the turn state. A socket always streams,
 * so a `stream` that the client sent becomes true.
 */
export function createFrame({ request, wire, addEncryptedReasoning, turnState }: FrameInput): string {
  const { body, text, members } = request;
  const written = spansByName(members);
  const changes = new Map<string, string | null>([['type', null]]);
  if (body.background !== true) changes.set('background', null);
  if (wire.input !== null) changes.set('input', wire.input);
  if (wire.form === 'delta') changes.set('previous_response_id', JSON.stringify(wire.previousResponseId));
  else if (body.previous_response_id != null) changes.set('previous_response_id', null);
  // Only a background request may be answered at once with a single object.
  if ('stream' in body && body.stream !== true && body.background !== true) changes.set('stream', 'true');
  if (addEncryptedReasoning) {
    const asked = elementTexts(textOf(text, written.get('include')) ?? '');
    changes.set('include', arrayText([...asked, JSON.stringify(ENCRYPTED_REASONING)]));
  }
  const metadata = body.client_metadata as Record<string, unknown> | null | undefined;
  if (turnState !== null || (metadata && Object.hasOwn(metadata, TURN_STATE))) {
    // A client's value under this name is a token of this bridge, or useless: the provider's own is never sent to clients.
    const own = turnState === null ? null : JSON.stringify(turnState);
    const given = metadata ? textOf(text, written.get('client_metadata')) : null;
    changes.set('client_metadata', withMembers(given ?? '{}', new Map([[TURN_STATE, own]])));
  }
  const fields = changedMembers(text, changes, members);
  const begun = fields.before.slice(fields.before.indexOf('{') + 1);
  return `{"type":"response.create"${fields.members === '' ? '' : ','}${begun}${fields.members}${fields.after.trimEnd()}`;
}
