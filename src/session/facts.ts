import { isDeepStrictEqual } from 'node:util';
import type { Config } from '../config.ts';
import { explain, type Resolution } from '../resolve/resolve.ts';
import { mayBeParent, tellsRepeats } from '../resolve/situation.ts';
import type { Decision, Facts, Likeness, LocalSession } from '../resolve/types.ts';
import { type Lookup, type LookupResult, MOST_CANDIDATES, type SessionStore, type TurnRow } from '../store/port.ts';
import { continuedBy, decodeForms, type Line } from '../transcript/line.ts';
import { COMPARISON_PATH } from '../transcript/provider-ids.ts';
import { itemsOf, loadContents, referencesTo } from './history.ts';
import type { Roster } from './roster.ts';
import type { Session } from './session.ts';
import type { KnownTurn, Turn } from './turn.ts';

export interface DeciderOptions {
  store: SessionStore;
  roster: Roster;
  me(): string;
  instancePolicy: Config['instancePolicy'];
  /** How long a turn that has ended waits for its client, milliseconds. */
  graceMs: number;
  /** Other workers may use the same store. */
  shared: boolean;
  /** Whether the upstream resolves ids of stored responses on any connection, as far as is known for a credential. */
  takesAnchors(credentialFp: string): boolean;
}

type Candidate = LookupResult['candidates'][number];

/** Turns that the request may be a repeat of. */
type RunsAlready = Pick<Facts, 'idempotent' | 'repeated' | 'elsewhere'>;

/** More turns that are alike up to a place are not compared with one request. */
const MOST_ALIKE = 64;

/** Whether the turn is run by this worker, as opposed to being refused, handed on or shown from another one's stream. */
const runsHere = ({ do: act }: Decision) =>
  act !== 'refuse' && act !== 'forward' && act !== 'await_owner' && act !== 'reattach';

/** One place has hidden all others: there may be more turns that end at it. */
const crowded = ({ candidates }: LookupResult) =>
  candidates.length === MOST_CANDIDATES &&
  candidates.every(({ turn }) => turn.clientFp !== null && turn.clientFp === candidates[0]!.turn.clientFp);

/** Gathers what is known about a request and resolves it. Throws `StoreUnavailable`. */
export function createDecider({ store, roster, me, instancePolicy, graceMs, shared, takesAnchors }: DeciderOptions) {
  /**
   * Resolves, and reads the anchor's lineage only where that decides something, or the turn will run here and may need it:
   * not for a request that another worker serves, and not where a socket here, or the provider, holds the anchor.
   */
  async function resolved(turn: Turn, facts: Omit<Facts, 'anchorExact'>): Promise<Decision> {
    const { evidence } = turn;
    const given = (anchorExact: boolean | null) => explain(evidence, { ...facts, anchorExact });
    const by = ({ row, decision }: Resolution): Decision => {
      turn.decidedBy = row.id;
      return decision;
    };
    if (!facts.rows.anchor) return by(given(null));
    const { turn: anchor, session } = facts.rows.anchor;
    if (anchor.replay !== 'exact') return by(given(false));
    const view = session ? facts.local.get(session.id) : undefined;
    const held = view?.epoch === session?.epoch && view?.socketAnchor === anchor.responseId;
    if (held && !view?.busy) return by(given(true));
    const [exact, inexact] = [given(true), given(false)];
    const kept = anchor.storedUpstream && anchor.credentialFp === evidence.credentialFp;
    const unneeded = !runsHere(exact.decision) || (kept && takesAnchors(evidence.credentialFp));
    if (unneeded && isDeepStrictEqual(exact.decision, inexact.decision)) return by(exact);
    turn.history ??= itemsOf(await store.lineage(evidence.scope, anchor.id));
    return by(turn.history === null ? inexact : exact);
  }

  /**
   * The decision to hand a request to the owner of the session that its thread or token names. What the request's items
   * continue is then the owner's to find out. Null: it has to be found out here.
   */
  function passedOn(turn: Turn, rows: LookupResult, known: RunsAlready): Decision | null {
    const { evidence, attempts } = turn;
    // A session header is a hint: the items may say that it is another conversation.
    if (evidence.hardKey?.kind === 'session' && evidence.token.kind !== 'ours') return null;
    const local = roster.views(rows, null, evidence.scope, null);
    const { row, decision } = explain(evidence, {
      ...known,
      me: me(),
      rows,
      local,
      attempts,
      instancePolicy,
      anchorExact: null,
      like: null,
    });
    if (decision.do !== 'forward') return null;
    turn.decidedBy = row.id;
    return decision;
  }

  /** Most requests continue the session that is warm here: what the rows would say of it, its fenced start says anyway. */
  function certain(turn: Turn): Decision | null {
    const { evidence } = turn;
    // Behind an anchor nothing here shows whose the items are that a request only names.
    if (evidence.comparison !== null || (evidence.anchor !== null && evidence.references.length > 0)) return null;
    // Nor whose anything else is that only the store knows.
    if (evidence.owned.size > evidence.references.length) return null;
    for (const session of roster.certain(evidence, () => turn.items.places)) {
      const { head, line } = session;
      if (!head) continue;
      if (evidence.anchor === null && !continuesWarm(turn, head, line)) continue;
      turn.anchor = evidence.anchor === null ? null : head;
      turn.decidedBy = null;
      return { do: 'use', outcome: 'live_reuse', sessionId: session.id, epoch: session.epoch, anchor: turn.anchor };
    }
    return null;
  }

  /** The request continues a head here, and what it adds is all the client's: no other turn can be continued deeper. */
  function continuesWarm(turn: Turn, head: TurnRow, line: Line | null): boolean {
    const count = line && continuedBy(line, turn.items);
    if (count === null) return false;
    const { references, credentialFp, contextFp } = turn.evidence;
    const kept = head.storedUpstream && head.credentialFp === credentialFp;
    // What only names an item of the line is left out of a delta; in full it may need that item's content.
    if (references.length > 0 && !kept && head.contextFp !== contextFp) return false;
    return turn.items.list.slice(count).every(({ fromClient }) => fromClient);
  }

  /** The line that a turn ends: from the session that ended it, if it is here, else from the store. */
  async function lineOf(scope: string, { turn, session }: Candidate): Promise<Line | null> {
    const here = session && roster.get(session.id);
    if (here?.line?.turnId === turn.id) return here.line;
    let line: Line | null = null;
    for (const { id, parentTurnId, forms: text } of await store.line(scope, turn.id)) {
      const forms = text === null ? null : decodeForms(text);
      // A gap: what precedes this turn is not known, so only what a compaction begins with can be recognised.
      const detached: boolean = parentTurnId !== null && line === null;
      line = forms && (!detached || forms.begins.length > 0) ? { turnId: id, forms, parent: line, detached } : null;
    }
    if (line) here?.learnLine(line);
    return line;
  }

  const isBusy = ({ session }: Candidate): boolean =>
    session !== null && (roster.get(session.id)?.view().busy ?? session.activeTurnId !== null);

  /** The deepest candidate whose line is exactly the start of the request. */
  async function verified(turn: Turn, candidates: readonly Candidate[]): Promise<(Candidate & KnownTurn) | null> {
    let busy: (Candidate & KnownTurn) | null = null;
    let deepest = 0;
    for (const candidate of candidates) {
      if (!mayBeParent(candidate.turn)) continue;
      const line = await lineOf(turn.evidence.scope, candidate);
      const count = line && continuedBy(line, turn.items);
      if (line === null || count === null || count < deepest) continue;
      // Of conversations with the same words, one that is free here serves; others may be running.
      if (!isBusy(candidate)) return { ...candidate, row: candidate.turn, line };
      busy ??= { ...candidate, row: candidate.turn, line };
      deepest = count;
    }
    return busy;
  }

  /** What the request's items continue, with the rows it was found by; the first rows when there is no such turn. */
  async function continued(turn: Turn, query: Lookup) {
    const search = { ...query, places: turn.items.places };
    const first = await store.lookup(search);
    const seen: string[] = [];
    for (let rows = first; ; rows = await store.lookup({ ...search, besides: seen })) {
      const known = await verified(turn, rows.candidates);
      if (known) return { rows, known };
      seen.push(...rows.candidates.map((candidate) => candidate.turn.id));
      if (!crowded(rows) || seen.length >= MOST_ALIKE) return { rows: first, known: null };
    }
  }

  /** The head of a named session, as a candidate, when the request may well continue it. */
  function namedHead(turn: Turn, { token, keyed, heads }: LookupResult): Candidate | null {
    const session = token ?? keyed;
    const head = heads.get(session?.headTurnId ?? '');
    if (!session || !head?.transcriptFp) return null;
    return turn.items.places.includes(head.transcriptFp) ? { turn: head, session } : null;
  }

  /**
   * Whether a request under a session header is of another conversation than that header's own session. A header that
   * names none yet does not call a conversation away from a session that no key names.
   */
  function isApart(turn: Turn, { keyed, heads, named }: LookupResult, like: Likeness | null): boolean {
    const { hardKey, anchor, token, requestFp } = turn.evidence;
    if (hardKey?.kind !== 'session' || anchor !== null || token.kind === 'ours') return false;
    if (!keyed) return like?.exact === true && like.session !== null && !named.has(like.session.id);
    if (like) return like.session?.id !== keyed.id;
    const here = roster.get(keyed.id);
    if (here?.epoch === keyed.epoch)
      return here.head?.requestFp !== requestFp && !here.related(turn) && holdsAConversation(here);
    // Only its worker knows what a running turn was asked.
    if (keyed.activeTurnId !== null) return false;
    const head = heads.get(keyed.headTurnId ?? '');
    return head !== undefined && head.transcriptFp !== null && head.requestFp !== requestFp;
  }

  const holdsAConversation = ({ head, attachable }: Session) =>
    attachable !== null || (head !== null && head.transcriptFp !== null);

  /**
   * Notes which of the named items the provider can look up, and fetches the others.
   *
   * @returns the path of a field that names what the scope did not make; null without one, and with the client's own
   *   credential
   */
  async function readReferences(turn: Turn, within: TurnRow | null): Promise<string | null> {
    const { scope, references, owned, credentialFp, credentialIsClients } = turn.evidence;
    if (references.length === 0 && owned.size === 0) return null;
    const rows = await referencesTo(store, scope, [...new Set([...references, ...owned.keys()])]);
    const stored = new Set(
      rows.filter((row) => row.storedUpstream && row.credentialFp === credentialFp).map(({ itemId }) => itemId),
    );
    const missing = new Set(references.filter((id) => !stored.has(id)));
    if (missing.size > 0) {
      const turnIds = new Set(rows.filter(({ itemId }) => missing.has(itemId)).map(({ turnId }) => turnId));
      if (within) turnIds.add(within.id);
      turn.contents = await loadContents(store, scope, turnIds, [...missing]);
    }
    if (credentialIsClients) return null;
    const made = new Set(rows.map(({ itemId }) => itemId));
    for (const [id, path] of owned) if (missing.has(id) ? !turn.contents.has(id) : !made.has(id)) return path;
    return null;
  }

  /** Turns that this request may repeat, of this worker and others: only others can have what is not found here. */
  function mayRunElsewhere(
    { evidence }: Turn,
    repeated: LocalSession | null,
    named: boolean,
  ): Promise<Facts['elsewhere']> {
    const alone = !shared || instancePolicy !== 'forward' || repeated !== null;
    if (alone || !(named || tellsRepeats(evidence))) return Promise.resolve([]);
    const found = store.repeated(evidence.scope, evidence.requestFp, graceMs);
    // It is awaited later, or not at all where another read fails first.
    found.catch(() => {});
    return found;
  }

  return async function decide(turn: Turn): Promise<Decision> {
    const { evidence } = turn;
    const repeated = roster.repeated(evidence.scope, evidence.requestFp);
    // What a warm session here would generate again may be under way, or done, somewhere else.
    const here = turn.resolutions === 1 && !repeated && !evidence.repeats ? certain(turn) : null;
    if (here) return here;
    const named = evidence.hardKey !== null || evidence.token.kind === 'ours';
    const asked = mayRunElsewhere(turn, repeated, named);
    const runsAlready = async (): Promise<RunsAlready> => ({
      idempotent: roster.withIdempotencyKey(evidence.scope, evidence.idempotencyKey),
      repeated,
      elsewhere: await asked,
    });
    const query: Lookup = {
      scope: evidence.scope,
      anchor: evidence.anchor,
      tokenSessionId: evidence.token.kind === 'ours' ? evidence.token.sessionId : null,
      hardKey: evidence.hardKey,
    };
    const search = evidence.anchor === null && turn.items.list.length > 0;
    let rows: LookupResult | null = null;
    let known: (Candidate & KnownTurn) | null = null;
    if (named || !search) {
      rows = await store.lookup(query);
      const away = search ? passedOn(turn, rows, await runsAlready()) : null;
      if (away) return away;
      const head = search ? namedHead(turn, rows) : null;
      known = head && (await verified(turn, [head]));
    }
    // Without a name; or the conversation was edited, compacted or forked by its client.
    if (search && !known) ({ rows, known } = await continued(turn, query));
    rows ??= await store.lookup(query);
    const like: Likeness | null = known
      ? { turn: known.turn, session: known.session, exact: true }
      : search && rows.candidates[0]
        ? { ...rows.candidates[0], exact: false }
        : null;
    turn.namedByKey = rows.keyed?.id ?? null;
    turn.ancestor = known ?? turn.ancestor;
    turn.anchor = rows.anchor?.turn ?? null;
    const local = roster.views(rows, like?.session ?? null, evidence.scope, evidence.anchor);
    const foreignReference = await readReferences(turn, turn.ancestor?.row ?? turn.anchor);
    return resolved(turn, {
      me: me(),
      rows,
      local,
      attempts: turn.attempts,
      instancePolicy,
      like,
      apart: isApart(turn, rows, like),
      foreignReference: foreignReference ?? ((await ownsComparison(turn)) ? null : COMPARISON_PATH),
      ...(await runsAlready()),
    });
  };

  /** A response that only a comparison names: under a shared credential it must be one of the scope's own. */
  async function ownsComparison({ evidence }: Turn): Promise<boolean> {
    const { comparison, scope, credentialIsClients } = evidence;
    if (comparison === null || credentialIsClients) return true;
    return (await store.lookup({ scope, anchor: comparison, tokenSessionId: null, hardKey: null })).anchor !== null;
  }
}
