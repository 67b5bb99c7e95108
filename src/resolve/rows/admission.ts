import {
  mayBeParent,
  mayReattach,
  repeatedElsewhere,
  type Situation,
  sameIdempotencyKey,
  tellsRepeats,
} from '../situation.ts';
import type { LocalSession } from '../types.ts';
import { askOwner, awaitOwner, create, expired, fork, isLate, queueBehind, type Row, strong } from './row.ts';

/** Returns the actor of this scope that has shown this response id and is waiting for the answer to its settle. */
function unsettledAt({ evidence, facts, bystanders }: Situation): LocalSession | null {
  const { anchor, scope } = evidence;
  for (const actor of facts.local.values()) {
    if (!actor.unsettledResponseIds.includes(anchor ?? '')) continue;
    // Compatible providers reuse ids: an equal id in another scope means nothing.
    if (actor.scope === scope) return actor;
    if (actor.scope === undefined && bystanders.some(({ session }) => session.id === actor.sessionId)) return actor;
  }
  return null;
}

/** Rows that apply before any session is considered: the token, retries that identify themselves, and unknown anchors. */
export const admissionRows: readonly Row[] = [
  {
    id: 'token_invalid',
    outcome: 'token_invalid',
    when: 'The turn-state token says it is ours and does not verify, or was issued to another tenant.',
    does: 'Refused; nothing is opened.',
    decide: ({ evidence }) =>
      evidence.token.kind === 'invalid'
        ? { do: 'refuse', outcome: 'token_invalid', code: 'bridge_token_invalid' }
        : null,
  },
  {
    id: 'same_idempotency_key',
    outcome: 'reattached',
    when: 'A turn of this scope runs here, or ended undelivered, for the same request with the same Idempotency-Key.',
    does: 'The stream is shown from its start, then live; no second generation.',
    decide(situation) {
      const actor = situation.facts.idempotent;
      if (!actor || (actor.scope ?? situation.evidence.scope) !== situation.evidence.scope) return null;
      if (!sameIdempotencyKey(situation, actor) || !mayReattach(situation, actor)) return null;
      return { do: 'reattach', outcome: 'reattached', sessionId: actor.sessionId, epoch: actor.epoch };
    },
  },
  {
    id: 'repeat_unread',
    outcome: 'reattached',
    when: 'The request says that it is a repeat, or names that session: the same one, with the same parent, runs here or ended undelivered, its client has left, and its buffer is complete.',
    does: 'The stream is shown from its start, then live: a repeat costs no second generation.',
    decide(situation) {
      const actor = situation.facts.repeated;
      if (!actor || (actor.scope ?? situation.evidence.scope) !== situation.evidence.scope) return null;
      const named = strong(situation)?.session.id === actor.sessionId;
      if (!named && (actor.clientAttached || !tellsRepeats(situation.evidence))) return null;
      if (!mayReattach(situation, actor)) return null;
      return { do: 'reattach', outcome: 'reattached', sessionId: actor.sessionId, epoch: actor.epoch };
    },
  },
  {
    id: 'repeat_elsewhere',
    outcome: 'forwarded',
    when: 'As above, but the same request was started by another live worker; the instance policy is `forward`.',
    does: 'Forwarded there: whether its stream can be taken up is known there only.',
    decide(situation) {
      const { evidence, facts } = situation;
      const found = facts.instancePolicy === 'forward' ? repeatedElsewhere(situation) : null;
      if (!found) return null;
      const { turn, author } = found;
      if (!tellsRepeats(evidence) && strong(situation)?.session.id !== turn.sessionId) return null;
      const session = { id: turn.sessionId, scope: turn.scope, epoch: turn.epoch };
      return { do: 'forward', outcome: 'forwarded', session, workerId: author.id };
    },
  },
  {
    id: 'foreign_conversation',
    outcome: 'expired_continuity',
    when: 'The request names a provider-side conversation and would go out under a shared credential.',
    does: 'Fails closed: nothing shows that the conversation belongs to this scope.',
    decide: ({ evidence }) =>
      evidence.passThrough === 'conversation' && !evidence.credentialIsClients ? expired : null,
  },
  {
    id: 'foreign_object',
    outcome: 'refused',
    when: 'The request names an object at the provider that this scope did not make, under a shared credential.',
    does: 'Refused, with the path of the field: nothing shows that the object belongs to this scope.',
    decide({ evidence, facts }) {
      const param = evidence.foreign ?? facts.foreignReference ?? null;
      if (param === null || evidence.credentialIsClients) return null;
      return { do: 'refuse', outcome: 'refused', code: 'bridge_foreign_object', param };
    },
  },
  {
    id: 'anchor_unsettled',
    outcome: 'live_reuse',
    when: 'The anchor is the response of a turn here whose settle is still unanswered.',
    does: 'Queued behind that settle; refused with Retry-After when the queue is full.',
    decide(situation) {
      const actor = situation.anchorUnknown ? unsettledAt(situation) : null;
      return actor && queueBehind(actor);
    },
  },
  {
    id: 'anchor_unknown_owner_busy',
    outcome: 'forwarded',
    when: 'The anchor is unknown, but token or hard key name a session that is busy at another live worker.',
    does: 'Forwarded there first: the anchor may be a turn that has not settled yet.',
    decide(situation) {
      const elsewhere = situation.bystanders.find(({ owner, busy }) => owner === 'answers' && busy);
      return elsewhere ? askOwner(situation, elsewhere) : null;
    },
  },
  {
    id: 'anchor_unknown_owner_awaited',
    outcome: 'stale_recovery',
    when: 'As above, but that worker does not answer and is not known to be dead.',
    does: 'Waits, bounded, until it answers or is declared dead: until then the anchor is not known to be unknown.',
    decide(situation) {
      const elsewhere = situation.bystanders.find(({ owner, busy }) => busy && (owner === 'silent' || isLate(owner)));
      return elsewhere ? awaitOwner(situation, elsewhere) : null;
    },
  },
  {
    id: 'anchor_unknown_shared_credential',
    outcome: 'expired_continuity',
    when: 'The anchor is unknown in this scope and the upstream credential is shared.',
    does: 'Fails closed with the same bytes whether or not the id exists for someone else; nothing is sent upstream.',
    decide: ({ evidence, anchorUnknown }) => (anchorUnknown && !evidence.credentialIsClients ? expired : null),
  },
  {
    id: 'anchor_unknown_own_credential',
    outcome: 'created',
    when: "The anchor is unknown in this scope and the credential is the client's own.",
    does: 'Sent unchanged in a session without keys, because the provider may know the id; its answer is relayed.',
    decide: (situation) => (situation.anchorUnknown ? create(situation, 'created', [], null) : null),
  },
  {
    id: 'anchor_not_a_parent',
    outcome: 'expired_continuity',
    when: 'The anchor is a turn that failed, was cancelled or was lost.',
    does: 'Fails closed: such a turn is nobody’s parent.',
    decide: ({ anchor }) => (anchor && !mayBeParent(anchor) ? expired : null),
  },
  {
    id: 'anchor_without_session',
    outcome: 'forked',
    when: 'The anchor is known, but its session is closed or purged.',
    does: 'A session of its own starts at that turn if its context is exact or stored upstream; else fails closed.',
    decide: (situation) => (situation.anchor && !situation.candidate ? fork(situation) : null),
  },
];
