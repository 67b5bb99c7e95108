import type { Lookup, LookupResult, SessionRow, TurnItems, TurnRow, WorkerRow } from '../port.ts';
import { type MemoryDatabase, type SessionRecord, scoped } from './database.ts';
import { sessionRow, turnRow, workerRow } from './rows.ts';

/** The reads as plain functions over maps. */
export function createReads(db: MemoryDatabase, now: () => number) {
  const open = (id: string | null | undefined, scope: string): SessionRecord | null => {
    const session = id === null || id === undefined ? undefined : db.sessions.get(id);
    return session && session.scope === scope && session.state !== 'closed' ? session : null;
  };

  return {
    lookup({ scope, anchor, tokenSessionId, hardKey }: Lookup): LookupResult {
      const anchorTurn = anchor === null ? undefined : db.turns.get(db.responses.get(scoped(scope, anchor)) ?? '');
      const anchored = open(anchorTurn?.sessionId, scope);
      const token = open(tokenSessionId, scope);
      const keyed = open(hardKey && db.keys.get(scoped(scope, hardKey.kind, hardKey.hash)), scope);
      const heads = new Map<string, TurnRow>();
      const owners = new Map<string, WorkerRow>();
      for (const session of [anchored, token, keyed]) {
        const head = db.turns.get(session?.headTurnId ?? '');
        if (head && head.scope === scope) heads.set(head.id, turnRow(head));
        const owner = db.workers.get(session?.ownerWorkerId ?? '');
        if (owner) owners.set(owner.id, workerRow(owner, now()));
      }
      return {
        anchor: anchorTurn ? { turn: turnRow(anchorTurn), session: anchored && sessionRow(anchored) } : null,
        token: token && sessionRow(token),
        keyed: keyed && sessionRow(keyed),
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
