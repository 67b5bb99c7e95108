import { randomUUID } from 'node:crypto';
import { SHARED_ABOVE } from '../../src/store/items.ts';
import type { ClaimCall, SessionStore } from '../../src/store/port.ts';
import type { WatchedConnection } from '../support/plans.ts';
import { completed, saved, turnStart } from './calls.ts';

/** Reads one row without recording the plan. */
export async function readOne<Row>({ client, taken }: WatchedConnection, sql: string): Promise<Row> {
  const row = (await client.query(sql)).rows[0] as Row;
  taken();
  return row;
}

interface Idle {
  id: string;
  scope: string;
  epoch: string;
  nonce: string;
  owner: string;
  head: string;
}

/** Returns the idle session with the longest line whose owner is alive. */
export const idleSession = (watched: WatchedConnection) =>
  readOne<Idle>(
    watched,
    `select s.id, s.scope, s.epoch, owner_nonce as nonce, owner_worker_id as owner, head_turn_id as head
       from bridge_session s
      where active_turn_id is null and owner_worker_id in ('w1', 'w2', 'w3') and state = 'live'
      order by (select count(*) from turn t where t.session_id = s.id) desc limit 1`,
  );

type Step = [name: string, perform: () => Promise<unknown>];

/**
 * Returns every statement of a turn's way through the bridge, to be executed in this order on rows of the data set.
 *
 * @returns the steps, the scope that all of them name, the turn that one settles, and the session that one closes
 */
export async function turnSteps(watched: WatchedConnection, store: Omit<SessionStore, 'shutdown'>) {
  const { id, scope, epoch, nonce, owner, head } = await idleSession(watched);
  const row = await readOne<{ response: string; place: string; fp: string; hash: string; item: string }>(
    watched,
    `select t.response_id as response, t.transcript_fp as place, t.request_fp as fp,
            (select hash from session_key where scope = t.scope limit 1) as hash,
            (select item_id from turn_item i where i.scope = t.scope limit 1) as item
       from turn t where id = '${head}'`,
  );
  const hardKey = { kind: 'thread', hash: row.hash } as const;
  const nothing = { scope, anchor: null, tokenSessionId: null, hardKey: null };
  const me = { me: owner, nonce, scope, sessionId: id, epoch: Number(epoch), saved: saved() };
  const turn = turnStart({ parentTurnId: head, shape: 'delta' });
  const large = JSON.stringify({ text: 'x'.repeat(SHARED_ABOVE) });
  const result = completed({ itemIds: ['i'], items: { input: [large], output: [] } });
  const fresh = { me: owner, nonce, scope, sessionId: randomUUID(), saved: saved() };
  const forked = turnStart({ parentTurnId: head });
  const steps: Step[] = [
    ['anchor', () => store.lookup({ ...nothing, anchor: row.response })],
    ['token and key', () => store.lookup({ ...nothing, tokenSessionId: id, hardKey })],
    ['places', () => store.lookup({ ...nothing, places: [row.place, 'nowhere', 'else'], besides: ['none'] })],
    ['references', () => store.references(scope, [row.item, 'unknown'])],
    ['repeats', () => store.repeated(scope, row.fp, 1e13)],
    ['line', () => store.line(scope, head)],
    ['lineage', () => store.lineage(scope, head)],
    ['start', () => store.start({ ...me, expectedHead: head, turn })],
    ['running', () => store.turn(scope, turn.id)],
    ['settle', () => store.settle({ ...me, turnId: turn.id, result })],
    ['lineage with a large item', () => store.lineage(scope, turn.id)],
    [
      'create',
      () =>
        store.create({
          ...{ ...fresh, keys: [{ kind: 'thread', hash: randomUUID() }], upstreamId: 'u', model: null },
          ...{ headTurnId: head, turn: forked },
        }),
    ],
    ['settle a first turn', () => store.settle({ ...fresh, epoch: 1, turnId: forked.id, result: completed() })],
    ['release', () => store.release({ ...fresh, epoch: 1, saved: saved('stale') })],
    [
      'claim',
      async () => {
        const { epoch: epochRead, revision: revisionRead } = (await store.session(scope, fresh.sessionId))!;
        return store.claim({ ...fresh, epochRead, revisionRead });
      },
    ],
    ['close', () => store.close({ ...fresh, epoch: 2 })],
    ['erasure', () => store.eraseResponse(scope, result.responseId!)],
    ['heartbeat', () => store.heartbeat(owner, 'serving', 600_000)],
    ['expiry', () => store.declareExpired(owner)],
    ['workers', () => store.workers()],
    ['keep an object', () => store.keepObjects(scope, 'files', ['file_1', 'file_2'])],
    ['own objects', () => store.ownObjects(scope, ['file_1', 'unknown'])],
    ['list objects', () => store.listObjects({ scope, kind: 'files', limit: 2, order: 'desc', after: 'file_2' })],
    ['drop an object', () => store.dropObject(scope, 'file_1')],
  ];
  return { steps, scope, settled: { sessionId: id, turnId: turn.id }, closed: fresh.sessionId };
}

/** Returns the claim of a session whose owner died during a turn, and that turn. */
export async function orphanedClaim(watched: WatchedConnection): Promise<{ call: ClaimCall; lost: string }> {
  const busy = await readOne<{ scope: string; id: string; epoch: string; revision: string; lost: string }>(
    watched,
    `select scope, id, epoch, revision, active_turn_id as lost from bridge_session s
      where active_turn_id is not null
        and exists (select from worker w where w.id = s.owner_worker_id and w.state = 'dead') limit 1`,
  );
  const { scope, id: sessionId, lost } = busy;
  const read = { epochRead: Number(busy.epoch), revisionRead: Number(busy.revision) };
  return { call: { me: 'w1', nonce: 'n', scope, sessionId, ...read }, lost };
}
