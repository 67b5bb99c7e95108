import type { SessionEvent } from '../../machines/session.ts';
import type { Answer, Fence, KeyRef, RowFace, TurnResult, Writer } from '../store/port.ts';
import type { Turn } from './turn.ts';

/** Session data of a commit. It is read when the commit is made and is the same for every repetition. */
export interface CommitScene {
  sessionId: string;
  scope: string;
  writer: Writer;
  epoch: number;
  upstreamId: string;
  keys: readonly KeyRef[];
  /** Turn at which a new session starts; null for a session without a past. */
  forkHead: string | null;
  face(): RowFace;
}

/** Facts that are read at the moment the store's verdict arrives. */
export interface CommitFacts {
  socketOpen(): boolean;
  /**
   * Returns whether the worker may still start turns under its lease.
   *
   * @param leaseLeftMs rest of the worker's lease as reported by the store, in milliseconds
   */
  leaseValid(leaseLeftMs: number): boolean;
  /**
   * Requests a heartbeat if only the lease is missing, or if the worker's own row may be lost.
   *
   * @param fenced true if the store answered that this worker does not own the session, or has no row
   * @returns false if a heartbeat could not change the result
   */
  renew(fenced: boolean): boolean;
}

export type CommitReply = { event: SessionEvent } | { unknown: string };

/**
 * A late heartbeat is not a lost lease: while the lease is being renewed the answer counts as unknown. The repeated
 * start is answered as already made.
 */
const started = (facts: CommitFacts, leaseLeftMs: number): CommitReply => {
  const leaseValid = facts.leaseValid(leaseLeftMs);
  if (!leaseValid && facts.renew(false)) return { unknown: 'the lease is being renewed' };
  return { event: { type: 'store.started', socketOpen: facts.socketOpen(), leaseValid } };
};

const fenced = (facts: CommitFacts, event: SessionEvent): CommitReply =>
  facts.renew(true) ? { unknown: "the worker's row is being looked at" } : { event };

const noVerdict = (
  answer: Extract<Answer<never>, { reason: string }>,
  rowExists: boolean,
  onRejected: (reason: string) => void,
): CommitReply => {
  if (answer.verdict === 'unknown') return { unknown: answer.reason };
  onRejected(answer.reason);
  return { event: { type: 'store.rejected', rowExists } };
};

const turnStart = (turn: Turn) => ({
  id: turn.id,
  parentTurnId: turn.parent?.id ?? null,
  shape: turn.evidence.shape,
  requestFp: turn.evidence.requestFp,
  contextFp: turn.evidence.contextFp,
  storedUpstream: turn.evidence.store,
  credentialFp: turn.evidence.credentialFp,
  clientTurnId: turn.evidence.clientTurnId,
});

/**
 * Creates the session's commits. Each one turns one fenced store call into one machine event. `unknown` means that
 * there is no verdict: the runtime repeats the same call with the same ids until it is answered.
 *
 * @param onRejected called with the store's reason when it rejects a commit
 */
export function createCommits(
  store: Fence,
  scene: CommitScene,
  facts: CommitFacts,
  onRejected: (reason: string) => void,
) {
  const base = () => ({ ...scene.writer, sessionId: scene.sessionId, epoch: scene.epoch, face: scene.face() });

  const settle = async (turnId: string, result: TurnResult, done: () => SessionEvent): Promise<CommitReply> => {
    const answer = await store.settle({ ...base(), turnId, result });
    switch (answer.verdict) {
      case 'ok':
      case 'already':
        return { event: done() };
      case 'branch':
        return { event: { type: 'store.fenced' } };
      default:
        return noVerdict(answer, true, onRejected);
    }
  };

  return {
    async create(turn: Turn): Promise<CommitReply> {
      const { scope, keys, upstreamId, forkHead: headTurnId } = scene;
      const model = typeof turn.request.body.model === 'string' ? turn.request.body.model : null;
      const answer = await store.create({
        ...base(),
        scope,
        keys,
        upstreamId,
        model,
        headTurnId,
        turn: turnStart(turn),
      });
      switch (answer.verdict) {
        case 'ok':
        case 'already':
          return started(facts, answer.leaseLeftMs);
        case 'fenced':
          return fenced(facts, { type: 'store.not_created' });
        case 'key_taken':
          return { event: { type: 'store.not_created' } };
        default:
          return noVerdict(answer, false, onRejected);
      }
    },

    async start(turn: Turn): Promise<CommitReply> {
      const answer = await store.start({ ...base(), expectedHead: turn.expectedHead, turn: turnStart(turn) });
      switch (answer.verdict) {
        case 'ok':
        case 'already':
          return started(facts, answer.leaseLeftMs);
        case 'head_moved':
          return { event: { type: 'store.head_moved' } };
        case 'busy':
          return { event: { type: 'store.busy' } };
        case 'fenced':
          return fenced(facts, { type: 'store.fenced' });
        case 'ended':
          return { event: { type: 'store.fenced' } };
        default:
          return noVerdict(answer, true, onRejected);
      }
    },

    settle: (turn: Turn, result: TurnResult): Promise<CommitReply> =>
      settle(turn.id, result, () => ({ type: 'store.settled', socketOpen: facts.socketOpen() })),

    /** Settles as `lost` an active turn of this epoch that no actor runs, so that the lane can start another one. */
    orphan: (turnId: string): Promise<CommitReply> =>
      settle(turnId, bareResult('lost', null), () => ({ type: 'store.cleared' })),
  };
}

/** Returns a turn result without content. */
export function bareResult(state: TurnResult['state'], usage: unknown, error: unknown = null): TurnResult {
  return {
    state,
    responseId: null,
    items: null,
    transcriptFp: null,
    clientFp: null,
    secondFp: null,
    thirdFp: null,
    forms: null,
    itemIds: [],
    itemCount: null,
    replay: 'never',
    usage,
    error,
  };
}
