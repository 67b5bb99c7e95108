import { randomUUID } from 'node:crypto';
import type {
  Answer,
  ClaimVerdict,
  CreateCall,
  KeyRef,
  ReleaseCall,
  SavedState,
  SessionStore,
  SettleCall,
  StartCall,
  TurnResult,
  TurnStart,
} from '../../src/store/port.ts';
import { type Purged, purgeKinds } from '../../src/store/port.ts';

/** Long enough not to expire during a test. */
export const LEASE_MS = 600_000;
/** A lease that has already expired when it is written. */
export const EXPIRED_MS = -1000;

export const saved = (state: SavedState['state'] = 'live'): SavedState => ({
  state,
  snapshot: { value: state },
  machineVersion: 1,
});

export const turnStart = (over: Partial<TurnStart> = {}): TurnStart => ({
  id: randomUUID(),
  parentTurnId: null,
  shape: 'fresh',
  requestFp: 'request',
  contextFp: 'context',
  storedUpstream: false,
  credentialFp: 'credential',
  clientTurnId: null,
  ...over,
});

export const completed = (over: Partial<TurnResult> = {}): TurnResult => ({
  state: 'completed',
  responseId: `resp_${randomUUID()}`,
  items: { input: ['{"type":"message","role":"user"}'], output: ['{"type":"message","role":"assistant"}'] },
  transcriptFp: 'transcript',
  clientFp: 'client',
  secondFp: null,
  thirdFp: null,
  forms: 'forms',
  itemIds: [],
  replay: 'exact',
  usage: { input_tokens: 1 },
  error: null,
  ...over,
});

export const bare = (state: TurnResult['state']): TurnResult => ({
  state,
  responseId: null,
  items: null,
  transcriptFp: null,
  clientFp: null,
  secondFp: null,
  thirdFp: null,
  forms: null,
  itemIds: [],
  replay: 'never',
  usage: null,
  error: null,
});

export const key = (hash: string = randomUUID()): KeyRef => ({ kind: 'thread', hash });

/** A worker's hold on one session, and the calls it makes with it. */
export interface Lane {
  sessionId: string;
  scope: string;
  me: string;
  nonce: string;
  epoch: number;
  firstTurn: TurnStart;
  create: CreateCall;
  start(over?: Partial<StartCall>): StartCall;
  settle(turnId: string, result?: TurnResult): SettleCall;
  /** Returns only the writer and the epoch, for `release` and `close`. */
  hold(state?: SavedState['state']): ReleaseCall;
}

export async function newWorker(store: SessionStore, leaseMs = LEASE_MS): Promise<string> {
  const id = randomUUID();
  const answer = await store.register({ id, internalUrl: null, livenessPath: null, version: 'test', leaseMs });
  if (answer.verdict !== 'ok') throw new Error(`register: ${answer.reason}`);
  return id;
}

export function lane(me: string, over: Partial<CreateCall> = {}): Lane {
  const sessionId = over.sessionId ?? randomUUID();
  const nonce = over.nonce ?? randomUUID();
  const turn = over.turn ?? turnStart();
  const scope = over.scope ?? 'local';
  const create: CreateCall = {
    sessionId,
    me,
    nonce,
    scope,
    keys: [],
    upstreamId: 'openai',
    model: 'model',
    headTurnId: null,
    turn,
    saved: saved(),
    ...over,
  };
  return laneAt({ sessionId, scope, me, nonce, epoch: 1 }, create);
}

function laneAt(at: Pick<Lane, 'sessionId' | 'scope' | 'me' | 'nonce' | 'epoch'>, create: CreateCall): Lane {
  const writer = { scope: at.scope, sessionId: at.sessionId, me: at.me, nonce: at.nonce, epoch: at.epoch };
  return {
    ...at,
    firstTurn: create.turn,
    create,
    start: (over = {}) => ({ ...writer, expectedHead: null, turn: turnStart(), saved: saved(), ...over }),
    settle: (turnId, result = completed()) => ({ ...writer, turnId, result, saved: saved() }),
    hold: (state = 'stale') => ({ ...writer, saved: saved(state) }),
  };
}

/** Returns the same session as held by the worker that claimed it. */
export const claimedLane = (from: Lane, me: string, nonce: string, epoch: number): Lane =>
  laneAt({ sessionId: from.sessionId, scope: from.scope, me, nonce, epoch }, from.create);

/** Creates a session whose first turn is active. */
export async function busyLane(store: SessionStore, me: string, over: Partial<CreateCall> = {}): Promise<Lane> {
  const made = lane(me, over);
  const answer = await store.create(made.create);
  if (answer.verdict !== 'ok') throw new Error(`create: ${JSON.stringify(answer)}`);
  return made;
}

/** Creates a session whose first turn is completed and is its head. */
export async function idleLane(store: SessionStore, me: string, over: Partial<CreateCall> = {}): Promise<Lane> {
  const made = await busyLane(store, me, over);
  const answer = await store.settle(made.settle(made.firstTurn.id));
  if (answer.verdict !== 'ok') throw new Error(`settle: ${JSON.stringify(answer)}`);
  return made;
}

/** Claims with the epoch and revision of the current row. */
export async function claimNow(
  store: SessionStore,
  sessionId: string,
  me: string,
  nonce = randomUUID(),
): Promise<Answer<ClaimVerdict>> {
  const row = (await store.sessionById(sessionId))!;
  return store.claim({ scope: row.scope, sessionId, me, nonce, epochRead: row.epoch, revisionRead: row.revision });
}

/**
 * Sweeps until a whole round deletes nothing.
 *
 * @param limit number of rows that one step examines
 */
export async function sweepAll(store: SessionStore, limit = 100, olderThanHours = 24): Promise<void> {
  for (let took = 1; took > 0; ) {
    took = 0;
    for (const kind of purgeKinds) {
      let after: readonly string[] | null = null;
      for (let more = true; more; ) {
        const step: Purged = await store.purge({ kind, olderThanHours, limit, after });
        took += Object.values(step.removed).reduce((sum, rows) => sum + rows, 0);
        ({ after, more } = step);
      }
    }
  }
}
