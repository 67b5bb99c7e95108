import type { Lookup, LookupResult, Prefix, SessionRow, TurnItems, TurnRow, WorkerRow } from '../port.ts';
import { type MemoryDatabase, type SessionRecord, scoped, type TurnRecord } from './database.ts';
import { sessionRow, turnRow, workerRow } from './rows.ts';

/** The reads as plain functions over maps. */
export function createReads(db: MemoryDatabase, now: () => number) {
  const open = (id: string | null | undefined, scope: string): SessionRecord | null => {
    const session = id === null || id === undefined ? undefined : db.sessions.get(id);
    return session && session.scope === scope && session.state !== 'closed' ? session : null;
  };

  /** Turns are kept in the order they were started, so the last of equals is the newest. */
  const deepest = (scope: string, prefixes: readonly Prefix[]): TurnRecord | null => {
    if (prefixes.length === 0) return null;
    const wanted = new Map(prefixes.map(({ itemCount, transcriptFp }) => [transcriptFp, itemCount]));
    let found: TurnRecord | null = null;
    for (const turn of db.turns.values()) {
      if (turn.scope !== scope || turn.transcriptFp === null || turn.itemCount === null) continue;
      if (turn.state !== 'completed' && turn.state !== 'incomplete') continue;
      if (wanted.get(turn.transcriptFp) === turn.itemCount && turn.itemCount >= (found?.itemCount ?? 0)) found = turn;
    }
    return found;
  };

  return {
    lookup({ scope, anchor, tokenSessionId, hardKey, prefixes = [] }: Lookup): LookupResult {
      const anchorTurn = anchor === null ? undefined : db.turns.get(db.responses.get(scoped(scope, anchor)) ?? '');
      const anchored = open(anchorTurn?.sessionId, scope);
      const token = open(tokenSessionId, scope);
      const keyed = open(hardKey && db.keys.get(scoped(scope, hardKey.kind, hardKey.hash)), scope);
      const prefixTurn = deepest(scope, prefixes);
      const prefixed = open(prefixTurn?.sessionId, scope);
      const heads = new Map<string, TurnRow>();
      const owners = new Map<string, WorkerRow>();
      for (const session of [anchored, token, keyed, prefixed]) {
        const head = db.turns.get(session?.headTurnId ?? '');
        if (head && head.scope === scope) heads.set(head.id, turnRow(head));
        const owner = db.workers.get(session?.ownerWorkerId ?? '');
        if (owner) owners.set(owner.id, workerRow(owner, now()));
      }
      return {
        anchor: anchorTurn ? { turn: turnRow(anchorTurn), session: anchored && sessionRow(anchored) } : null,
        token: token && sessionRow(token),
        keyed: keyed && sessionRow(keyed),
        prefix: prefixTurn && { turn: turnRow(prefixTurn), session: prefixed && sessionRow(prefixed) },
        heads,
        owners,
      };
    },

    session(id: string): SessionRow | null {
      const session = db.sessions.get(id);
      return session ? sessionRow(session) : null;
    },

    turn(id: string): TurnRow | null {
      const turn = db.turns.get(id);
      return turn ? turnRow(turn) : null;
    },

    lineage(scope: string, turnId: string): readonly TurnItems[] {
      const line: TurnItems[] = [];
      const seen = new Set<string>();
      let next = db.turns.get(turnId);
      while (next && next.scope === scope && !seen.has(next.id)) {
        seen.add(next.id);
        const items = db.items.get(next.id);
        line.unshift({ turn: turnRow(next), input: items?.input ?? null, output: items?.output ?? null });
        next = next.parentTurnId === null ? undefined : db.turns.get(next.parentTurnId);
      }
      return line;
    },

    turnsOf(sessionId: string, limit: number): readonly TurnRow[] {
      const turns = [...db.turns.values()].filter((turn) => turn.sessionId === sessionId);
      return turns.reverse().slice(0, limit).map(turnRow);
    },

    sessions(limit: number): readonly SessionRow[] {
      return [...db.sessions.values()].reverse().slice(0, limit).map(sessionRow);
    },

    workers(): readonly WorkerRow[] {
      return [...db.workers.values()].map((worker) => workerRow(worker, now()));
    },
  };
}
