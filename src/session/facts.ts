import type { Config } from '../config.ts';
import { resolve } from '../resolve/resolve.ts';
import type { Decision, Facts } from '../resolve/types.ts';
import type { LookupResult, SessionStore } from '../store/port.ts';
import { itemsOf } from './history.ts';
import type { Roster } from './roster.ts';
import type { Turn } from './turn.ts';

export interface DeciderOptions {
  store: SessionStore;
  roster: Roster;
  me(): string;
  /** Whether the upstream has turned out to speak no WebSocket. */
  httpOnly(): boolean;
  instancePolicy: Config['instancePolicy'];
}

/** Gathers what is known about a request, in one look-up, and resolves it. Throws `StoreUnavailable`. */
export function createDecider({ store, roster, me, httpOnly, instancePolicy }: DeciderOptions) {
  /** Loads the anchor's lineage unless a socket here holds it: then nothing needs rebuilding. */
  async function anchorExact(turn: Turn, rows: LookupResult, local: Facts['local']): Promise<boolean | null> {
    const anchor = rows.anchor?.turn;
    if (!anchor) return null;
    const session = rows.anchor?.session;
    const view = session ? local.get(session.id) : undefined;
    if (view && view.epoch === session?.epoch && view.socketAnchor === anchor.responseId)
      return anchor.replay === 'exact';
    if (anchor.replay !== 'exact') return false;
    turn.history = itemsOf(await store.lineage(turn.evidence.scope, anchor.id));
    return turn.history !== null;
  }

  return async function decide(turn: Turn): Promise<Decision> {
    if (turn.evidence.passThrough === null && httpOnly()) {
      turn.evidence = { ...turn.evidence, passThrough: 'no_websocket' };
    }
    const { evidence } = turn;
    const rows = await store.lookup({
      scope: evidence.scope,
      anchor: evidence.anchor,
      tokenSessionId: evidence.token.kind === 'ours' ? evidence.token.sessionId : null,
      hardKey: evidence.hardKey,
    });
    turn.anchor = rows.anchor?.turn ?? null;
    const local = roster.views(rows, evidence.scope, evidence.anchor);
    return resolve(evidence, {
      me: me(),
      rows,
      local,
      anchorExact: await anchorExact(turn, rows, local),
      attempts: turn.attempts,
      instancePolicy,
      idempotent: roster.withIdempotencyKey(evidence.scope, evidence.idempotencyKey),
    });
  };
}
