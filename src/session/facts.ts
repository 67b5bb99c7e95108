import type { Config } from '../config.ts';
import { resolve } from '../resolve/resolve.ts';
import type { Decision, Facts } from '../resolve/types.ts';
import type { Lookup, LookupResult, SessionStore } from '../store/port.ts';
import { deepestMatch } from '../transcript/continuation.ts';
import { normaliseInput } from '../transcript/items.ts';
import { plausibleBeginnings } from '../transcript/prefixes.ts';
import { itemsOf } from './history.ts';
import { chainOf, lineEnd } from './placement.ts';
import type { Roster } from './roster.ts';
import type { Turn } from './turn.ts';

export interface DeciderOptions {
  store: SessionStore;
  roster: Roster;
  me(): string;
  instancePolicy: Config['instancePolicy'];
}

/** Gathers what is known about a request, in one look-up, and resolves it. Throws `StoreUnavailable`. */
export function createDecider({ store, roster, me, instancePolicy }: DeciderOptions) {
  /** Loads the anchor's lineage unless a socket here holds it and is free: then nothing needs rebuilding. */
  async function anchorExact(turn: Turn, rows: LookupResult, local: Facts['local']): Promise<boolean | null> {
    const anchor = rows.anchor?.turn;
    if (!anchor) return null;
    const session = rows.anchor?.session;
    const view = session ? local.get(session.id) : undefined;
    const held = view?.epoch === session?.epoch && view?.socketAnchor === anchor.responseId;
    if (held && !view?.busy) return anchor.replay === 'exact';
    if (anchor.replay !== 'exact') return false;
    turn.history = itemsOf(await store.lineage(turn.evidence.scope, anchor.id));
    return turn.history !== null;
  }

  /** Most requests continue the session that is warm here: what the rows would say of it, its fenced start says anyway. */
  function certain(turn: Turn): Decision | null {
    const session = roster.certain(turn.evidence);
    const end = session && lineEnd(session.head);
    if (!session || !end) return null;
    if (turn.evidence.anchor === null && deepestMatch(chainOf(turn), [end]) === null) return null;
    turn.anchor = turn.evidence.anchor === null ? null : session.head;
    return { do: 'use', outcome: 'live_reuse', sessionId: session.id, epoch: session.epoch, anchor: turn.anchor };
  }

  /** The usual case of a named conversation: its head is the start of the input, so nothing deeper can be known. */
  function continuesHead(turn: Turn, { token, keyed, heads }: LookupResult): boolean {
    const session = token ?? keyed;
    if (!session) return normaliseInput(turn.request.body.input).length < 2;
    const head = lineEnd(heads.get(session.headTurnId ?? '') ?? null);
    return head !== null && deepestMatch(chainOf(turn), [head]) !== null;
  }

  return async function decide(turn: Turn): Promise<Decision> {
    const { evidence } = turn;
    const here = turn.resolutions === 1 ? certain(turn) : null;
    if (here) return here;
    const named = evidence.hardKey !== null || evidence.token.kind === 'ours';
    const query: Lookup = {
      scope: evidence.scope,
      anchor: evidence.anchor,
      tokenSessionId: evidence.token.kind === 'ours' ? evidence.token.sessionId : null,
      hardKey: evidence.hardKey,
    };
    const prefixes = () => plausibleBeginnings(normaliseInput(turn.request.body.input), chainOf(turn));
    let rows = await store.lookup(named || evidence.anchor !== null ? query : { ...query, prefixes: prefixes() });
    if (named && evidence.anchor === null && turn.resolutions === 1 && !continuesHead(turn, rows)) {
      // The conversation was edited, compacted or forked by its client: what it shares with a known one is looked up.
      rows = await store.lookup({ ...query, prefixes: prefixes() });
    }
    turn.namedByKey = rows.keyed?.id ?? null;
    turn.ancestor = rows.prefix?.turn ?? turn.ancestor;
    turn.anchor = rows.anchor?.turn ?? null;
    const local = roster.views(rows, evidence.scope, evidence.anchor);
    return resolve(evidence, {
      me: me(),
      rows,
      local,
      anchorExact: await anchorExact(turn, rows, local),
      attempts: turn.attempts,
      instancePolicy,
      prefix: rows.prefix,
      idempotent: roster.withIdempotencyKey(evidence.scope, evidence.idempotencyKey),
    });
  };
}
