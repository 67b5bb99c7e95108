import type { Outcome } from './types.ts';

export interface OutcomeEntry {
  outcome: Outcome;
  /** Description of what happened to the request, in one sentence. */
  meaning: string;
}

const meanings: Record<Outcome, string> = {
  created: 'Nothing was known of this conversation: a new session was created.',
  live_reuse: "The conversation's own socket was still open on this worker and carried the turn.",
  stale_recovery: 'No worker ran the session: it was claimed, reconnected and continued from durable state.',
  forwarded: 'Another worker owns the session: the request was proxied to it in one hop.',
  forked: 'The request continues an older turn, or the head while a turn runs: a new session was started at that turn.',
  reattached: 'The same request was already running: its stream was resumed, without a second generation.',
  superseded: 'The running turn had lost its client: it was cancelled and this request runs instead.',
  parallel_lane: 'The session was busy for another client: the request ran beside it in a short-lived session.',
  passed_through: 'The turn had to go over plain HTTP and did; it is recorded like any other.',
  wrong_instance: 'Another worker owns the session and could not be asked.',
  expired_continuity: 'What the request continues is unknown or cannot be rebuilt exactly: nothing was sent upstream.',
  token_invalid: 'The turn-state token is forged, damaged or of another tenant: nothing was opened.',
  refused:
    'The bridge could not place the request: a queue is full, the conversation kept moving, or a limit is reached.',
};

/** Returns every outcome with its meaning, in the order of the documentation. */
export function outcomeTable(): readonly OutcomeEntry[] {
  return Object.entries(meanings).map(([outcome, meaning]) => ({ outcome: outcome as Outcome, meaning }));
}
