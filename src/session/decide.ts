import { createHash } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { IDEMPOTENCY_HEADER, THREAD_HEADER, TURN_METADATA_HEADER, TURN_STATE_HEADER } from '../headers.ts';
import { mayBeParent, tellsRepeats } from '../resolve/situation.ts';
import { explain, type Resolution } from '../resolve/table.ts';
import type { Decision, Evidence, Facts, Likeness, LocalSession } from '../resolve/types.ts';
import { type KeyRef, type Lookup, type LookupResult, MOST_CANDIDATES, type TurnRow } from '../store/port.ts';
import { scopeKindOf, type Tokens } from '../token/token.ts';
import { decodeForms, type Line } from '../transcript/items.ts';
import { CONVERSATION_PATHS } from '../transcript/provider-ids.ts';
import { COMPARISON_PATH, LONGEST_METADATA } from '../transcript/read.ts';
import type { Names, RequestBody } from '../transcript/types.ts';
import type { SessionEnv } from './core.ts';
import type { LastOwners } from './last-owners.ts';
import { countOf, itemsOf, loadContents, madeBy, referencesTo } from './planning.ts';
import type { TurnRequest } from './port.ts';
import type { Session } from './session.ts';
import type { SessionRegistry } from './session-registry.ts';
import type { Turn, TurnWithLine } from './turn.ts';

/** Session headers, strongest first. A request uses exactly one. */
const sessionHeaders = ['session-id', 'session_id', 'x-session-id', 'x-session-affinity'] as const;

export interface ClassifyInput {
  request: TurnRequest;
  tokens: Pick<Tokens, 'verify'>;
  limits: {
    /** Maximum size of an upstream frame, in bytes; a larger body is sent over plain HTTP. */
    frameBytes: number;
    /** False if the upstream is known, or configured, to support only HTTP. */
    webSocket: boolean;
  };
}

const nothing: Names = { owned: new Map(), foreign: null };

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex');

function text(value: unknown): string | null {
  return typeof value === 'string' && value.trim() !== '' ? value.trim() : null;
}

function record(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : {};
}

/** Returns the anchor unchanged: ids are compared and relayed byte for byte. */
function anchorOf({ previous_response_id: id }: RequestBody): string | null {
  return typeof id === 'string' && id !== '' ? id : null;
}

/**
 * Returns the request's single hard key: the thread id, otherwise the first session header. Codex sub-agents share a
 * session id, but never a thread id.
 */
export function hardKeyOf(headers: TurnRequest['headers']): KeyRef | null {
  const thread = text(headers[THREAD_HEADER]);
  if (thread) return { kind: 'thread', hash: sha256(thread) };
  for (const name of sessionHeaders) {
    const session = text(headers[name]);
    if (session) return { kind: 'session', hash: sha256(session) };
  }
  return null;
}

function turnIdIn(metadata: unknown): string | null {
  const json = text(metadata);
  if (!json || json.length > LONGEST_METADATA) return null;
  try {
    return text(record(JSON.parse(json)).turn_id);
  } catch {
    return null;
  }
}

/** Returns whether the client marks the request as a retry. The OpenAI SDKs count attempts; 0 is the first one. */
function countsRepeats({ 'x-stainless-retry-count': count }: TurnRequest['headers']): boolean {
  return count !== undefined && !/^\s*0*\s*$/.test(count);
}

/**
 * Returns the client's turn id. Codex writes it into `client_metadata` and into a JSON header; a warm-up sends an empty
 * one.
 */
function clientTurnIdOf({ body, headers }: TurnRequest): string | null {
  const metadata = record(body.client_metadata);
  return text(metadata.turn_id) ?? turnIdIn(metadata[TURN_METADATA_HEADER]) ?? turnIdIn(headers[TURN_METADATA_HEADER]);
}

function passThroughOf({ body, bytes }: TurnRequest, limits: ClassifyInput['limits']): Evidence['passThrough'] {
  if (body.background === true) return 'background';
  if (body.conversation !== undefined && body.conversation !== null) return 'conversation';
  if (bytes > limits.frameBytes) return 'oversize';
  return limits.webSocket ? null : 'no_websocket';
}

/**
 * Reads a request into typed evidence. Raw headers are not read after this. Never throws.
 *
 * Values of keys are only kept as hashes.
 */
export function classify({ request, tokens, limits }: ClassifyInput): Evidence {
  const { caller, headers, body } = request;
  const { scope, credentialFp, credentialIsClients } = caller;
  const token = headers[TURN_STATE_HEADER]?.trim();
  return {
    scope,
    credentialFp,
    credentialIsClients,
    token: token ? tokens.verify(token, { scope, scopeKind: scopeKindOf(caller) }) : { kind: 'none' },
    anchor: anchorOf(body),
    hardKey: hardKeyOf(headers),
    idempotencyKey: text(headers[IDEMPOTENCY_HEADER]),
    repeats: countsRepeats(headers),
    clientTurnId: clientTurnIdOf(request),
    shape: request.shape,
    requestFp: request.requestFp,
    contextFp: request.contextFp,
    references: request.references,
    comparison: request.comparison,
    // The origin of referenced objects matters only if several tenants share a credential.
    ...(credentialIsClients ? nothing : request.names),
    store: body.store !== false,
    passThrough: passThroughOf(request, limits),
  };
}

type Candidate = LookupResult['candidates'][number];

/** Turns of which the request may be a repeat. */
type RunsAlready = Pick<Facts, 'idempotent' | 'repeated' | 'remoteRepeats'>;

/** Maximum number of turns with the same items up to a place that are compared with one request. */
const MOST_ALIKE = 64;

/**
 * Returns whether this worker runs the turn, as opposed to refusing it, forwarding it or attaching it to another
 * stream.
 */
const runsOnThisWorker = ({ do: act }: Decision) =>
  act !== 'refuse' && act !== 'forward' && act !== 'await_owner' && act !== 'reattach';

/** Returns whether all candidates end at the same place and fill the look-up's limit: more turns may end at that place. */
const crowded = ({ candidates }: LookupResult) =>
  candidates.length === MOST_CANDIDATES &&
  candidates.every(({ turn }) => turn.clientFp !== null && turn.clientFp === candidates[0]!.turn.clientFp);

const holdsAConversation = ({ turns: { attachable, head } }: Session) =>
  attachable !== null || (head !== null && head.transcriptFp !== null);

/** Collects the facts about requests and resolves them. */
export class Decider {
  readonly #env: SessionEnv;
  readonly #registry: SessionRegistry;
  readonly #lastOwners: LastOwners;
  readonly #shared: boolean;

  /** @param shared true if other workers may use the same store */
  constructor(env: SessionEnv, registry: SessionRegistry, lastOwners: LastOwners, shared: boolean) {
    this.#env = env;
    this.#registry = registry;
    this.#lastOwners = lastOwners;
    this.#shared = shared;
  }

  /**
   * Decides what happens with a request, without the store. Returns null if rows have to be read for that: then `decide`
   * decides.
   *
   * @param here true if the request must not be forwarded
   */
  decideWarm(turn: Turn, here: boolean): Decision | null {
    const { scope, requestFp, repeats } = turn.evidence;
    // A repeated request may already be running, or be finished, on another worker: do not start a second generation.
    if (turn.placement.resolutions !== 1 || repeats || this.#registry.repeated(scope, requestFp)) return null;
    return this.#withoutLookup(turn) ?? (here ? null : this.#toLastOwner(turn));
  }

  /**
   * Decides what happens with a request. Writes what it learned about the request's context to the turn.
   *
   * @throws StoreUnavailable if the store does not answer
   */
  async decide(turn: Turn): Promise<Decision> {
    const { evidence } = turn;
    const repeated = this.#registry.repeated(evidence.scope, evidence.requestFp);
    const named = evidence.hardKey !== null || evidence.token.kind === 'ours';
    const remoteRepeats = this.#findRemoteRepeats(turn, repeated, named);
    const runsAlready = async (): Promise<RunsAlready> => ({
      idempotent: this.#registry.withIdempotencyKey(evidence.scope, evidence.idempotencyKey),
      repeated,
      remoteRepeats: await remoteRepeats,
    });
    const query: Lookup = {
      scope: evidence.scope,
      anchor: evidence.anchor,
      tokenSessionId: evidence.token.kind === 'ours' ? evidence.token.sessionId : null,
      hardKey: evidence.hardKey,
    };
    const search = evidence.anchor === null && turn.items.list.length > 0;
    let rows: LookupResult | null = null;
    let known: (Candidate & TurnWithLine) | null = null;
    if (named || !search) {
      rows = await this.#env.store.lookup(query);
      const forward = search ? this.#forwardToNamedOwner(turn, rows, await runsAlready()) : null;
      if (forward) return forward;
      const head = search ? this.#namedHead(turn, rows) : null;
      known = head && (await this.#verified(turn, [head]));
    }
    // The request names no session, or its client has edited, compacted or forked the conversation.
    if (search && !known) ({ rows, known } = await this.#continued(turn, query));
    rows ??= await this.#env.store.lookup(query);
    const like: Likeness | null = known
      ? { turn: known.turn, session: known.session, exact: true }
      : search && rows.candidates[0]
        ? { ...rows.candidates[0], exact: false }
        : null;
    turn.placement.namedByKey = rows.keyed?.id ?? null;
    turn.ancestor = known ?? turn.ancestor;
    turn.anchor = rows.anchor?.turn ?? null;
    const local = this.#registry.views(rows, like?.session ?? null, evidence.scope, evidence.anchor);
    const foreignReference = await this.#readReferences(turn, turn.ancestor?.row ?? turn.anchor);
    return this.#resolved(turn, {
      me: this.#env.worker.id,
      rows,
      local,
      attempts: turn.placement.attempts,
      instancePolicy: this.#env.config.instancePolicy,
      like,
      apart: this.#isApart(turn, rows, like),
      ownsConversation:
        foreignReference === null && [...evidence.owned.values()].some((path) => CONVERSATION_PATHS.includes(path)),
      foreignReference: foreignReference ?? ((await this.#ownsComparison(turn)) ? null : COMPARISON_PATH),
      ...(await runsAlready()),
    });
  }

  /**
   * Resolves the request. Reads the anchor's lineage only if it changes the decision, or if the turn will run here and
   * may need it. Not read for a request that another worker serves, nor if a socket here, or the provider, holds the
   * anchor.
   */
  async #resolved(turn: Turn, facts: Omit<Facts, 'anchorExact'>): Promise<Decision> {
    const { evidence } = turn;
    const given = (anchorExact: boolean | null) => explain(evidence, { ...facts, anchorExact });
    const by = ({ row, decision }: Resolution): Decision => {
      turn.placement.decidedBy = row.id;
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
    const unneeded = !runsOnThisWorker(exact.decision) || (kept && this.#takesAnchors(turn));
    if (unneeded && isDeepStrictEqual(exact.decision, inexact.decision)) return by(exact);
    turn.history ??= itemsOf(await this.#env.store.lineage(evidence.scope, anchor.id));
    return by(turn.history === null ? inexact : exact);
  }

  /**
   * Returns the decision to forward a request to the owner of the session that its thread or token names. The owner
   * then determines what the request's items continue. Null if this worker has to determine that.
   */
  #forwardToNamedOwner(turn: Turn, rows: LookupResult, known: RunsAlready): Decision | null {
    const { evidence, placement } = turn;
    // A session header is only a hint: the items may show that the request belongs to another conversation.
    if (evidence.hardKey?.kind === 'session' && evidence.token.kind !== 'ours') return null;
    const local = this.#registry.views(rows, null, evidence.scope, null);
    const { row, decision } = explain(evidence, {
      ...known,
      me: this.#env.worker.id,
      rows,
      local,
      attempts: placement.attempts,
      instancePolicy: this.#env.config.instancePolicy,
      anchorExact: null,
      like: null,
    });
    if (decision.do !== 'forward') return null;
    turn.placement.decidedBy = row.id;
    return decision;
  }

  /**
   * Returns a decision without a look-up, if the request certainly continues a session that is idle here with an open
   * socket. This is the most frequent case; if the rows have changed since, the fenced start fails.
   */
  #withoutLookup(turn: Turn): Decision | null {
    const { evidence } = turn;
    // Only the store knows which scope owns the items that an anchored request references.
    if (evidence.comparison !== null || (evidence.anchor !== null && evidence.references.length > 0)) return null;
    // The same holds for the other provider-side ids in the request.
    if (evidence.owned.size > evidence.references.length) return null;
    for (const session of this.#registry.warm(evidence, () => turn.items.places)) {
      const { head, line } = session.turns;
      if (!head) continue;
      if (evidence.anchor === null && !this.#continuesWarm(turn, head, line)) continue;
      turn.anchor = evidence.anchor === null ? null : head;
      turn.placement.decidedBy = null;
      return { do: 'use', outcome: 'live_reuse', sessionId: session.id, epoch: session.epoch, anchor: turn.anchor };
    }
    return null;
  }

  /**
   * Returns the decision to forward a request to the worker that last served its conversation for this one. That worker then
   * decides.
   */
  #toLastOwner({ evidence, placement }: Turn): Decision | null {
    // An Idempotency-Key may name a turn that runs beside the conversation's session, here or on another worker.
    if (evidence.passThrough !== null || evidence.idempotencyKey !== null) return null;
    const owner = this.#lastOwners.of(evidence);
    if (owner === null || this.#registry.get(owner.session.id) !== null) return null;
    placement.decidedBy = null;
    return { do: 'forward', outcome: 'forwarded', ...owner };
  }

  /**
   * Returns whether the request continues this local head and adds only items that the client wrote. In that case no
   * other turn can match more of the request.
   */
  #continuesWarm(turn: Turn, head: TurnRow, line: Line | null): boolean {
    const count = countOf(line, turn.items);
    if (count === null) return false;
    const { references, credentialFp, contextFp } = turn.evidence;
    const kept = head.storedUpstream && head.credentialFp === credentialFp;
    // A delta leaves out items that only reference the line; a full send may need the contents of the referenced items.
    if (references.length > 0 && !kept && head.contextFp !== contextFp) return false;
    return turn.items.list.slice(count).every(({ fromClient }) => fromClient);
  }

  /**
   * Returns the line that ends at a turn: from the local session that ended it, otherwise from the store. Null if it
   * cannot be reconstructed.
   */
  async #lineOf(scope: string, { turn, session }: Candidate): Promise<Line | null> {
    const local = session && this.#registry.get(session.id);
    if (local?.turns.line?.turnId === turn.id) return local.turns.line;
    let line: Line | null = null;
    for (const { id, parentTurnId, forms: text } of await this.#env.store.line(scope, turn.id)) {
      const forms = text === null ? null : decodeForms(text);
      // The ancestors of this turn are unknown, so that only an output that begins with a compaction can be recognised.
      const detached: boolean = parentTurnId !== null && line === null;
      line = forms && (!detached || forms.begins.length > 0) ? { turnId: id, forms, parent: line, detached } : null;
    }
    if (line) local?.learnLine(line);
    return line;
  }

  #isBusy({ session }: Candidate): boolean {
    return session !== null && (this.#registry.get(session.id)?.view().busy ?? session.activeTurnId !== null);
  }

  /**
   * Returns the deepest candidate whose line is exactly the start of the request. Prefers an idle session over a busy
   * one.
   */
  async #verified(turn: Turn, candidates: readonly Candidate[]): Promise<(Candidate & TurnWithLine) | null> {
    let busy: (Candidate & TurnWithLine) | null = null;
    let deepest = 0;
    for (const candidate of candidates) {
      if (!mayBeParent(candidate.turn)) continue;
      const line = await this.#lineOf(turn.evidence.scope, candidate);
      const count = countOf(line, turn.items);
      if (line === null || count === null || count < deepest) continue;
      // Among conversations with identical items, use one that is idle; the others may be running a turn.
      if (!this.#isBusy(candidate)) return { ...candidate, row: candidate.turn, line };
      busy ??= { ...candidate, row: candidate.turn, line };
      deepest = count;
    }
    return busy;
  }

  /**
   * Searches the turn that the request's items continue.
   *
   * @returns that turn with the rows of the look-up that found it; the rows of the first look-up if there is no such
   *   turn
   */
  async #continued(turn: Turn, query: Lookup) {
    const search = { ...query, places: turn.items.places };
    const first = await this.#env.store.lookup(search);
    const seen: string[] = [];
    for (let rows = first; ; rows = await this.#env.store.lookup({ ...search, besides: seen })) {
      const known = await this.#verified(turn, rows.candidates);
      if (known) return { rows, known };
      seen.push(...rows.candidates.map((candidate) => candidate.turn.id));
      if (!crowded(rows) || seen.length >= MOST_ALIKE) return { rows: first, known: null };
    }
  }

  /** Returns the head of the session that token or key name, as a candidate, if the request's items may continue it. */
  #namedHead(turn: Turn, { token, keyed, heads }: LookupResult): Candidate | null {
    const session = token ?? keyed;
    const head = heads.get(session?.headTurnId ?? '');
    if (!session || !head?.transcriptFp) return null;
    return turn.items.places.includes(head.transcriptFp) ? { turn: head, session } : null;
  }

  /**
   * Returns whether a request with a session header belongs to another conversation than the header's own session. A
   * header that names no session yet does not pull a conversation away from a session that no key names.
   */
  #isApart(turn: Turn, { keyed, heads, named }: LookupResult, like: Likeness | null): boolean {
    const { hardKey, anchor, token, requestFp } = turn.evidence;
    if (hardKey?.kind !== 'session' || anchor !== null || token.kind === 'ours') return false;
    if (!keyed) return like?.exact === true && like.session !== null && !named.has(like.session.id);
    if (like) return like.session?.id !== keyed.id;
    const local = this.#registry.get(keyed.id);
    if (local?.epoch === keyed.epoch)
      return local.turns.head?.requestFp !== requestFp && !local.related(turn) && holdsAConversation(local);
    // Only the worker of a running turn knows the turn's request.
    if (keyed.activeTurnId !== null) return false;
    const head = heads.get(keyed.headTurnId ?? '');
    return head !== undefined && head.transcriptFp !== null && head.requestFp !== requestFp;
  }

  /**
   * Determines which referenced items the provider can look up, and loads the contents of the others.
   *
   * @returns the path of the first field that names an object which the scope did not create; null if there is none,
   *   and always null with the client's own credential
   */
  async #readReferences(turn: Turn, within: TurnRow | null): Promise<string | null> {
    const { scope, references, owned, credentialFp, credentialIsClients } = turn.evidence;
    if (references.length === 0 && owned.size === 0) return null;
    const rows = await referencesTo(this.#env.store, scope, [...new Set([...references, ...owned.keys()])]);
    const stored = new Set(
      rows.filter((row) => row.storedUpstream && row.credentialFp === credentialFp).map(({ itemId }) => itemId),
    );
    const missing = new Set(references.filter((id) => !stored.has(id)));
    if (missing.size > 0) {
      const turnIds = new Set(rows.filter(({ itemId }) => missing.has(itemId)).map(({ turnId }) => turnId));
      if (within) turnIds.add(within.id);
      turn.contents = await loadContents(this.#env.store, scope, turnIds, [...missing]);
    }
    if (credentialIsClients) return null;
    const made = await madeBy(this.#env.store, scope, [...owned.keys()], rows);
    for (const [id, path] of owned) if (missing.has(id) ? !turn.contents.has(id) : !made.has(id)) return path;
    return null;
  }

  /**
   * Looks up turns on other workers that this request may repeat. Skipped if a local turn was found, or if there are no
   * other workers to ask.
   */
  #findRemoteRepeats(
    { evidence }: Turn,
    repeated: LocalSession | null,
    named: boolean,
  ): Promise<Facts['remoteRepeats']> {
    const { instancePolicy, deadlines } = this.#env.config;
    const alone = !this.#shared || instancePolicy !== 'forward' || repeated !== null;
    if (alone || !(named || tellsRepeats(evidence))) return Promise.resolve([]);
    const found = this.#env.store.repeated(evidence.scope, evidence.requestFp, deadlines.grace);
    // The promise is awaited later, or never if another read fails first: avoid an unhandled rejection.
    found.catch(() => {});
    return found;
  }

  /**
   * Returns whether the scope may use the response that the request names for comparison. Under a shared credential it
   * must be a response of the scope itself.
   */
  async #ownsComparison({ evidence }: Turn): Promise<boolean> {
    const { comparison, scope, credentialIsClients } = evidence;
    if (comparison === null || credentialIsClients) return true;
    return (
      (await this.#env.store.lookup({ scope, anchor: comparison, tokenSessionId: null, hardKey: null })).anchor !== null
    );
  }

  /**
   * Returns whether the upstream resolves ids of stored responses on any connection, as far as is known for that
   * credential.
   */
  #takesAnchors({ evidence: { credentialFp }, request: { caller } }: Turn): boolean {
    const { abilities, target } = this.#env;
    return abilities.takesAnchors({ targetId: (caller.target ?? target).id, credentialFp });
  }
}
