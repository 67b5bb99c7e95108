import { catalogue } from '../errors.ts';
import type { Outcome } from './types.ts';

export interface OutcomeEntry {
  outcome: Outcome;
  /** Description of what happened to the request, in one sentence. */
  meaning: string;
  /** Description of the client's answer over HTTP. */
  http: string;
}

const answer = "The upstream's answer.";
const refusal = (code: keyof typeof catalogue) => `${catalogue[code].status} \`${code}\``;

const entries: Record<Outcome, Omit<OutcomeEntry, 'outcome'>> = {
  created: { meaning: 'Nothing was known of this conversation: a new session was made.', http: answer },
  live_reuse: { meaning: "The conversation's own socket was still open here and carried the turn.", http: answer },
  stale_recovery: {
    meaning: 'No worker ran the session any more: it was claimed, reconnected and continued from durable state.',
    http: answer,
  },
  forwarded: {
    meaning: 'Another worker owns the session: the request was proxied there in one hop.',
    http: "The owner's answer, with the owner's own outcome where it got that far.",
  },
  forked: {
    meaning: 'The request continues an older turn, or the head while a turn runs: it got a session of its own there.',
    http: answer,
  },
  reattached: {
    meaning: 'The same request was already running: its stream was taken up again, with no second generation.',
    http: "The running turn's events from the start, then live.",
  },
  superseded: {
    meaning: 'The running turn had lost its client: it was cancelled and this request runs instead.',
    http: answer,
  },
  parallel_lane: {
    meaning: 'The session was busy for another client: the request ran beside it in a short-lived session.',
    http: answer,
  },
  passed_through: { meaning: 'The turn had to go over plain HTTP and did; it is recorded all the same.', http: answer },
  wrong_instance: {
    meaning: 'Another worker owns the session and could not be asked.',
    http: `${refusal('bridge_wrong_instance')} with the rest of that worker's lease as Retry-After.`,
  },
  expired_continuity: {
    meaning: 'What the request continues is unknown or cannot be rebuilt exactly: nothing was sent upstream.',
    http: `${refusal('bridge_session_expired')}, code \`${catalogue.bridge_session_expired.code}\`.`,
  },
  token_invalid: {
    meaning: 'The turn-state token is forged, damaged or of another tenant: nothing was opened.',
    http: `${refusal('bridge_token_invalid')}.`,
  },
  refused: {
    meaning:
      'The bridge could not place the request: its queue is full, the conversation kept moving, or a limit is hit.',
    http: 'The status of its `bridge_code`, with Retry-After where repeating helps.',
  },
};

/** Returns every outcome with its meaning and the client's answer, in the order of the documentation. */
export function outcomeTable(): readonly OutcomeEntry[] {
  return Object.entries(entries).map(([outcome, entry]) => ({ outcome: outcome as Outcome, ...entry }));
}
