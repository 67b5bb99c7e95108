import { explain } from '../../src/resolve/table.ts';
import type { AttemptFact, Decision, Evidence, Facts, LocalSession } from '../../src/resolve/types.ts';
import type { LookupResult, SessionRow, TurnRow, WorkerRow } from '../../src/store/port.ts';

/** Rows of one small world: worker `me` asks; session `s` has turn t1 and its head t2. */
export const SCOPE = 'acme';
export const ME = 'worker-me';
export const OTHER = 'worker-other';

export function turnRow(id: string, over: Partial<TurnRow> = {}): TurnRow {
  return {
    id,
    sessionId: 's',
    scope: SCOPE,
    parentTurnId: null,
    epoch: 4,
    authorWorkerId: ME,
    shape: 'full',
    state: 'completed',
    responseId: `resp_${id}`,
    requestFp: `fp_${id}`,
    contextFp: 'ctx',
    transcriptFp: `line_${id}`,
    clientFp: `chain_${id}`,
    replay: 'exact',
    storedUpstream: false,
    credentialFp: 'cred',
    clientTurnId: null,
    ...over,
  };
}

export function sessionRow(over: Partial<SessionRow> = {}): SessionRow {
  return {
    id: 's',
    scope: SCOPE,
    state: 'stale',
    snapshot: null,
    machineVersion: 1,
    revision: 9,
    ownerWorkerId: null,
    ownerNonce: null,
    epoch: 4,
    activeTurnId: null,
    headTurnId: 't2',
    upstreamId: 'openai',
    model: null,
    anchorLost: false,
    ...over,
  };
}

export function worker(over: Partial<WorkerRow> = {}): WorkerRow {
  return {
    id: OTHER,
    internalUrl: 'http://10.0.0.2:9000',
    livenessPath: null,
    state: 'serving',
    version: '1',
    leaseLeftMs: 7_400,
    ...over,
  };
}

export function actor(over: Partial<LocalSession> = {}): LocalSession {
  return {
    sessionId: 's',
    scope: SCOPE,
    epoch: 4,
    state: 'live.idle',
    busy: false,
    socketAnchor: 'resp_t2',
    clientAttached: false,
    bufferComplete: false,
    activeRequestFp: null,
    activeParentTurnId: null,
    activeClientTurnId: null,
    activeIdempotencyKey: null,
    unsettledResponseIds: [],
    queueLength: 0,
    queueFull: false,
    ...over,
  };
}

/** Returns an actor with a turn on the wire; by default the turn of another request. */
export function streaming(over: Partial<LocalSession> = {}): LocalSession {
  return actor({
    state: 'live.streaming',
    busy: true,
    clientAttached: true,
    bufferComplete: true,
    activeRequestFp: 'fp_running',
    activeParentTurnId: 't2',
    ...over,
  });
}

export function evidence(over: Partial<Evidence> = {}): Evidence {
  return {
    scope: SCOPE,
    credentialFp: 'cred',
    credentialIsClients: false,
    token: { kind: 'none' },
    anchor: null,
    hardKey: null,
    idempotencyKey: null,
    repeats: false,
    clientTurnId: null,
    shape: 'full',
    requestFp: 'fp_new',
    contextFp: 'ctx',
    store: false,
    references: [],
    comparison: null,
    owned: new Map(),
    foreign: null,
    passThrough: null,
    ...over,
  };
}

export interface World extends Omit<Partial<Facts>, 'rows' | 'local'> {
  anchor?: LookupResult['anchor'];
  token?: SessionRow | null;
  keyed?: SessionRow | null;
  owners?: readonly WorkerRow[];
  local?: readonly LocalSession[];
}

export function facts({
  anchor = null,
  token = null,
  keyed = null,
  owners = [],
  local = [],
  ...rest
}: World = {}): Facts {
  return {
    me: ME,
    rows: {
      anchor,
      token,
      keyed,
      candidates: [],
      named: new Set(),
      heads: new Map(),
      owners: new Map(owners.map((row) => [row.id, row])),
    },
    local: new Map(local.map((session) => [session.sessionId, session])),
    anchorExact: anchor ? false : null,
    attempts: [],
    instancePolicy: 'forward',
    ...rest,
  };
}

/** A session header, shared by all conversations of one client. */
export const header = { kind: 'session', hash: 'h' } as const;
export const key = { kind: 'thread', hash: 'k' } as const;
export const ours = { kind: 'ours', sessionId: 's', epoch: 4 } as const;
export const mine = { ownerWorkerId: ME, state: 'live' } as const;
export const theirs = { ownerWorkerId: OTHER, state: 'live' } as const;

export const t1 = turnRow('t1');
export const t2 = turnRow('t2', { parentTurnId: 't1' });
export const toHead = { anchor: 'resp_t2', shape: 'delta' } as const;
export const toOlder = { anchor: 'resp_t1', shape: 'delta' } as const;
export const at = (turn: TurnRow, session: SessionRow | null) => ({ turn, session });
export const expired = { do: 'refuse', outcome: 'expired_continuity', code: 'bridge_session_expired' };
export const unreachable: AttemptFact = { kind: 'unreachable', workerId: OTHER };

/** Returns the decision, with the id of the row that made it. */
export function decide(asked: Partial<Evidence>, world: World = {}): Decision & { row: string } {
  const { row, decision } = explain(evidence(asked), facts(world));
  return { row: row.id, ...decision };
}
