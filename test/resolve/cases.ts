import type { AttemptFact, Evidence, Facts, LocalSession } from '../../src/resolve/types.ts';
import type { SessionRow, TurnRow, WorkerRow } from '../../src/store/port.ts';
import {
  actor,
  evidence,
  facts,
  header,
  key,
  ME,
  OTHER,
  ours,
  sessionRow,
  streaming,
  t1,
  turnRow,
  unreachable,
  worker,
} from './support.ts';

/**
 * One combination of evidence, row state, liveness, attempts and policy in a small world: session `s` with turn t1 and
 * its head t2, a second session, and as bait a session of another scope with the same ids.
 */
export interface Case {
  evidence: Evidence;
  facts: Facts;
  /** The generated state of session `s`, for the invariants. */
  session: SessionRow;
  owner: Owner;
}

type Owner = 'nobody' | 'me' | 'alive' | 'unreachable' | 'denies' | 'expired' | 'dead' | 'missing';

interface Ownership {
  owner: Owner;
  row: Partial<SessionRow>;
  owners: WorkerRow[];
  local: LocalSession[];
  attempts: AttemptFact[];
}

const stored = { storedUpstream: true };
const foreign = sessionRow({ scope: 'globex', id: 'bait' });

const anchors = [
  'none',
  'head',
  'older',
  'unknown',
  'unsettled',
  'sessionless',
  'closed',
  'failed',
  'foreign',
] as const;
const contexts = ['exact', 'stored', 'stored_for_other', 'neither', 'lost'] as const;
const likes = ['none', 'head', 'older', 'foreign', 'only_like', 'only_like_older'] as const;
const tokens = ['none', 'invalid', 'ignored', 'current', 'old', 'elsewhere'] as const;
const keys = ['none', 'known', 'elsewhere', 'new', 'apart'] as const;
const passThroughs = [null, 'conversation', 'no_websocket'] as const;

const same = { activeRequestFp: 'fp_new', clientAttached: false } as const;
const actors: (LocalSession | null)[] = [
  null,
  actor(),
  actor({ socketAnchor: null }),
  actor({ ...same, bufferComplete: true, activeParentTurnId: 't1' }),
  streaming(),
  streaming({ clientAttached: false }),
  streaming(same),
  streaming({ ...same, bufferComplete: false }),
  streaming({ state: 'live.settling.asking' }),
  streaming({ state: 'connecting.dialing', queueFull: true }),
  streaming({ ...same, epoch: 3 }),
  actor({ state: 'stale' }),
];

function* ownerships(): Generator<Ownership> {
  const theirs = { ownerWorkerId: OTHER };
  const ofBoth = (kind: 'not_owner' | 'busy'): AttemptFact[] =>
    ['s', 'second'].map((sessionId) => ({ kind, sessionId }));
  for (const activeTurnId of [null, 't3']) {
    const others = (owner: Owner, owners: WorkerRow[], attempts: AttemptFact[] = []): Ownership => {
      // A worker whose session was claimed by another may still run its old actor, which must never count.
      return { owner, row: { ...theirs, activeTurnId }, owners, local: [streaming(same)], attempts };
    };
    yield { owner: 'nobody', row: { ownerWorkerId: null, activeTurnId: null }, owners: [], local: [], attempts: [] };
    for (const local of actors) {
      if (local?.epoch === 4 && local.state.startsWith('live.streaming') && activeTurnId === null) continue;
      const row = { ownerWorkerId: ME, activeTurnId };
      yield { owner: 'me', row, owners: [worker({ id: ME })], local: local ? [local] : [], attempts: [] };
    }
    yield others('alive', [worker()]);
    yield others(
      'alive',
      [worker({ state: 'draining' })],
      [{ kind: 'lost_race', sessionId: 's' }, { kind: 'key_taken' }],
    );
    yield others('unreachable', [worker()], [unreachable]);
    yield others('denies', [worker()], ofBoth('not_owner'));
    yield others('expired', [worker({ leaseLeftMs: -5 })]);
    yield others('dead', [worker({ state: 'dead', leaseLeftMs: -5 })], [unreachable]);
    yield others('missing', []);
    yield others('missing', [], ofBoth('busy'));
    yield others('missing', [worker({ version: 'unknown', internalUrl: null })]);
  }
}

function anchorOf(
  kind: (typeof anchors)[number],
  turn: Partial<TurnRow>,
  session: SessionRow,
): Facts['rows']['anchor'] {
  switch (kind) {
    case 'head':
      return { turn: turnRow('t2', turn), session };
    case 'older':
      return { turn: turnRow('t1', turn), session };
    case 'failed':
      return { turn: turnRow('t2', { ...turn, state: 'failed' }), session };
    case 'sessionless':
      return { turn: turnRow('t2', turn), session: null };
    case 'closed':
      return { turn: turnRow('t2', turn), session: { ...session, state: 'closed' } };
    case 'foreign':
      return { turn: turnRow('t2', { ...turn, ...stored, scope: 'globex' }), session: foreign };
    default:
      return null;
  }
}

function likeOf(kind: (typeof likes)[number], session: SessionRow): Facts['like'] {
  if (kind === 'none') return null;
  if (kind === 'foreign') return { turn: turnRow('t2', { scope: 'globex' }), session: foreign, exact: true };
  const turn = kind === 'head' || kind === 'only_like' ? turnRow('t2') : t1;
  return { turn, session, exact: !kind.startsWith('only_like') };
}

function tokenOf(kind: (typeof tokens)[number]): Evidence['token'] {
  if (kind === 'none') return { kind };
  if (kind === 'invalid' || kind === 'ignored') return { kind, reason: 'generated' };
  return { ...ours, epoch: kind === 'old' ? 3 : 4, sessionId: kind === 'elsewhere' ? 'second' : 's' };
}

/** Yields all cases in a fixed order. */
export function* cases(): Generator<Case> {
  for (const { owner, row, owners, local, attempts } of ownerships()) {
    for (const anchor of anchors) {
      const known = !['none', 'unknown', 'unsettled', 'foreign'].includes(anchor);
      for (const context of known ? contexts : (['neither'] as const)) {
        for (const like of anchor === 'none' ? likes : (['none'] as const)) {
          const session = sessionRow({ ...row, anchorLost: context === 'lost' });
          const second = sessionRow({ id: 'second', ...row });
          const turn =
            context === 'stored' ? stored : context === 'stored_for_other' ? { ...stored, credentialFp: 'x' } : {};
          const actors = local.map((each) =>
            anchor === 'unsettled' ? { ...each, unsettledResponseIds: ['resp_t2'] } : each,
          );
          for (const token of tokens) {
            for (const hard of keys) {
              const world = facts({
                anchor: anchorOf(anchor, turn, session),
                token: token === 'elsewhere' ? second : token === 'current' || token === 'old' ? session : null,
                keyed: hard === 'known' ? session : hard === 'elsewhere' || hard === 'apart' ? second : null,
                apart: hard === 'apart' && anchor === 'none',
                owners,
                local: actors,
                attempts,
                anchorExact: known ? context === 'exact' || context === 'lost' : null,
                like: likeOf(like, session),
              });
              for (const passThrough of passThroughs) {
                for (const credentialIsClients of [false, true]) {
                  for (const instancePolicy of ['forward', 'reject'] as const) {
                    const asked = evidence({
                      anchor: anchor === 'none' ? null : anchor === 'older' ? 'resp_t1' : 'resp_t2',
                      token: tokenOf(token),
                      hardKey: hard === 'none' ? null : hard === 'apart' ? header : key,
                      passThrough,
                      credentialIsClients,
                    });
                    yield { evidence: asked, facts: { ...world, instancePolicy }, session, owner };
                  }
                }
              }
            }
          }
        }
      }
    }
  }
}
