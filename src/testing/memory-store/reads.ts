import { TURNS_PER_ITEM, usableItemIds } from '../../store/items.ts';
import {
  type LineTurn,
  type Lookup,
  type LookupResult,
  MOST_CANDIDATES,
  MOST_REPEATED,
  type ReferencedItem,
  type Repeated,
  type SessionRow,
  type TurnItems,
  type TurnRow,
  type WorkerRow,
} from '../../store/port.ts';
import {
  keyOf,
  type MemoryDatabase,
  type SessionRecord,
  scoped,
  sessionRow,
  type TurnRecord,
  turnRow,
  workerRow,
} from './database.ts';

/**
 * Creates the reads as plain functions over maps.
 *
 * @param now returns the store's clock in milliseconds
 */
export function createReads(db: MemoryDatabase, now: () => number) {
  const open = (key: string | null | undefined): SessionRecord | null => {
    const session = db.sessions.get(key ?? '');
    return session && session.state !== 'closed' ? session : null;
  };
  const openOf = ({ scope, sessionId }: TurnRecord) => open(scoped(scope, sessionId));

  const newestFirst = (scope: string, ids: ReadonlySet<string> | undefined): TurnRecord[] =>
    [...(ids ?? [])].map((id) => db.turns.get(scoped(scope, id))!).sort((a, b) => b.ordinal - a.ordinal);

  /** Returns turns that end at one of the places, in the order of the places. */
  const endingAt = (scope: string, places: readonly string[], besides: ReadonlySet<string>): TurnRecord[] => {
    const found = new Set<TurnRecord>();
    for (const place of places) {
      for (const turn of newestFirst(scope, db.places.get(scoped(scope, place)))) {
        if (found.size === MOST_CANDIDATES) return [...found];
        if ((turn.state === 'completed' || turn.state === 'incomplete') && !besides.has(turn.id)) found.add(turn);
      }
    }
    return [...found];
  };

  /** Returns the turn and its ancestors within the scope, root first. */
  const ancestry = (scope: string, turnId: string): TurnRecord[] => {
    const line = new Set<TurnRecord>();
    let next = db.turns.get(scoped(scope, turnId));
    while (next && !line.has(next)) {
      line.add(next);
      next = next.parentTurnId === null ? undefined : db.turns.get(scoped(scope, next.parentTurnId));
    }
    return [...line].reverse();
  };

  return {
    lookup({ scope, anchor, tokenSessionId, hardKey, places = [], besides = [] }: Lookup): LookupResult {
      const anchorId = anchor === null ? undefined : db.responses.get(scoped(scope, anchor));
      const anchorTurn = anchorId === undefined ? undefined : db.turns.get(scoped(scope, anchorId));
      const anchored = anchorTurn ? openOf(anchorTurn) : null;
      const token = tokenSessionId === null ? null : open(scoped(scope, tokenSessionId));
      const keyed = open(hardKey && db.keys.get(scoped(scope, hardKey.kind, hardKey.hash)));
      const candidates = endingAt(scope, places, new Set(besides)).map((turn) => ({
        turn,
        session: openOf(turn),
      }));
      const heads = new Map<string, TurnRow>();
      const owners = new Map<string, WorkerRow>();
      const found = [anchored, token, keyed, ...candidates.map((each) => each.session)];
      const withKey = new Set(db.keys.values());
      for (const session of found) {
        const head = db.turns.get(scoped(scope, session?.headTurnId ?? ''));
        if (head) heads.set(head.id, turnRow(head));
        const owner = db.workers.get(session?.ownerWorkerId ?? '');
        if (owner) owners.set(owner.id, workerRow(owner, now()));
      }
      return {
        anchor: anchorTurn ? { turn: turnRow(anchorTurn), session: anchored && sessionRow(anchored) } : null,
        token: token && sessionRow(token),
        keyed: keyed && sessionRow(keyed),
        candidates: candidates.map(({ turn, session }) => ({
          turn: turnRow(turn),
          session: session && sessionRow(session),
        })),
        named: new Set(found.flatMap((session) => (session && withKey.has(keyOf(session)) ? [session.id] : []))),
        heads,
        owners,
      };
    },

    session(scope: string, id: string): SessionRow | null {
      const session = db.sessions.get(scoped(scope, id));
      return session ? sessionRow(session) : null;
    },

    turn(scope: string, id: string): TurnRow | null {
      const turn = db.turns.get(scoped(scope, id));
      return turn ? turnRow(turn) : null;
    },

    lineage(scope: string, turnId: string): readonly TurnItems[] {
      return ancestry(scope, turnId).map((turn) => {
        const items = db.items.get(keyOf(turn));
        return { turn: turnRow(turn), input: items?.input ?? null, output: items?.output ?? null };
      });
    },

    line(scope: string, turnId: string): readonly LineTurn[] {
      return ancestry(scope, turnId).map(({ id, parentTurnId, forms }) => ({ id, parentTurnId, forms }));
    },

    references(scope: string, itemIds: readonly string[]): readonly ReferencedItem[] {
      return usableItemIds(itemIds)
        .flatMap((itemId) =>
          newestFirst(scope, db.itemTurns.get(scoped(scope, itemId)))
            .slice(0, TURNS_PER_ITEM)
            .map((turn) => ({ itemId, turn })),
        )
        .sort((a, b) => b.turn.ordinal - a.turn.ordinal)
        .map(({ itemId, turn: { id: turnId, storedUpstream, credentialFp } }) => ({
          itemId,
          turnId,
          storedUpstream,
          credentialFp,
        }));
    },

    repeated(scope: string, requestFp: string, withinMs: number): readonly Repeated[] {
      const same = [...db.turns.values()].filter((turn) => turn.scope === scope && turn.requestFp === requestFp);
      return same
        .sort((a, b) => b.ordinal - a.ordinal)
        .slice(0, MOST_REPEATED)
        .flatMap((turn) => {
          const author = db.workers.get(turn.authorWorkerId);
          const ended = turn.state === 'completed' || turn.state === 'incomplete';
          const recent = ended && turn.endedAt !== null && turn.endedAt > now() - withinMs;
          return author && (turn.state === 'active' || recent)
            ? [{ turn: turnRow(turn), author: workerRow(author, now()) }]
            : [];
        });
    },

    sessions(limit: number): readonly SessionRow[] {
      return [...db.sessions.values()].reverse().slice(0, limit).map(sessionRow);
    },

    workers(): readonly WorkerRow[] {
      return [...db.workers.values()].map((worker) => ({
        ...workerRow(worker, now()),
        leaseUntilMs: worker.heartbeatExpiresAt,
      }));
    },
  };
}
