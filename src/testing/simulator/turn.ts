import { setTimeout as sleep } from 'node:timers/promises';
import type { Item } from '../../transcript/types.ts';
import { countItems, fold, inputItems, sealLine } from './digest.ts';
import {
  begun,
  type ErrorShape,
  type ErrorSpec,
  isSignal,
  isWarmUp,
  obfuscate,
  previousResponseNotFound,
  Refusal,
  rateLimitsEvent,
  responseEvents,
  responseObject,
  type SimEvent,
  scatterIds,
  signalsBefore,
  type Wire,
} from './events.ts';
import {
  type ChaosSource,
  createGate,
  type Gate,
  type Point,
  type Rules,
  type TurnFault,
  type TurnSeen,
} from './faults.ts';
import type { EntryOf, JournalWriter, TurnEnd } from './journal.ts';
import {
  type ConnectionCache,
  type Provider,
  type ResponseRecord,
  recordOf,
  resolveContext,
  type TurnContext,
} from './provider.ts';
import { composeReply, type TerminalDialect, usageOf } from './reply.ts';
import { chance } from './seeded.ts';
import type { SimulatorOptions } from './types.ts';

/**
 * One step of a turn's program, the list of everything that is sent, in order. Faults rewrite the program before it is
 * sent.
 */
export type Step =
  | { op: 'send'; event: SimEvent; again?: boolean }
  | { op: 'raw'; text: string }
  | { op: 'sleep'; ms: number }
  /** Refuses a fork whose parent is out of reach by now: its lane has advanced before the fork began. */
  | { op: 'reach'; anchor: string }
  /** From here on the provider holds the response: cached, and stored unless `store:false`. */
  | { op: 'commit'; record: ResponseRecord }
  | { op: 'hold'; until: 'release' | 'next_create' }
  /** The turn has ended for its lane; the following steps are sent late. */
  | { op: 'detach' }
  | { op: 'error'; error: ErrorSpec; shape: ErrorShape }
  | { op: 'respond'; status: number; headers: Record<string, string>; body: unknown }
  | { op: 'close'; code: number; reason: string }
  | { op: 'reset' };

const TERMINALS = new Set(['response.completed', 'response.incomplete', 'response.failed']);

/**
 * Returns whether an event is terminal. An incomplete response with reason `steered` is not, because its successor
 * follows.
 */
export function isTerminal(event: SimEvent): boolean {
  const response = event.response as { incomplete_details?: { reason?: string } | null } | undefined;
  return TERMINALS.has(event.type) && response?.incomplete_details?.reason !== 'steered';
}

const isSend = (step: Step): step is Step & { op: 'send' } => step.op === 'send';

/** Returns the index of the step before which the point lies, or the number of steps when the turn never reaches it. */
function indexOfPoint(steps: readonly Step[], point: Point): number {
  const after = (matches: (event: SimEvent) => boolean, nth = 1): number => {
    let seen = 0;
    let last = -1;
    for (const [index, step] of steps.entries()) {
      if (!isSend(step) || !matches(step.event)) continue;
      last = index;
      if (++seen === nth) break;
    }
    return last < 0 ? steps.length : last + 1;
  };
  const first = (matches: (step: Step) => boolean): number => {
    const index = steps.findIndex(matches);
    return index < 0 ? steps.length : index;
  };
  if (typeof point === 'object')
    return 'deltas' in point
      ? after(({ type }) => type.endsWith('.delta'), point.deltas)
      : after(() => true, point.events);
  switch (point) {
    case 'before_created': {
      const created = first((step) => isSend(step) && step.event.type === 'response.created');
      return created === steps.length ? 0 : created;
    }
    case 'after_created':
      return after(({ type }) => type === 'response.created');
    case 'after_item_added':
      return after(({ type }) => type === 'response.output_item.added');
    case 'after_item_done':
      return after(({ type }) => type === 'response.output_item.done');
    case 'before_terminal':
      return first((step) => step.op === 'commit');
    case 'after_terminal':
      return steps.length;
  }
}

/** Facts about the turn that rewriting needs besides its steps. */
export interface TurnMetrics {
  anchor: string | null;
  /** The response object as started; null when the turn was refused before it got an id. */
  started: Record<string, unknown> | null;
  foreignId: string;
  refusal: ErrorSpec;
}

function withForeignId(steps: readonly Step[], from: number, id: string): Step[] {
  return steps.map((step, index) => {
    if (index < from || !isSend(step) || typeof step.event.response !== 'object') return step;
    return { ...step, event: { ...step.event, response: { ...step.event.response, id } } };
  });
}

function failedEvent(facts: TurnMetrics, code: string, message: string): SimEvent {
  const response = { ...facts.started, status: 'failed', error: { code, message } };
  return { type: 'response.failed', response };
}

/**
 * Applies one fault to a turn's program. Faults that shape the answer itself were applied earlier and change nothing
 * here.
 */
function rewrite(steps: readonly Step[], fault: TurnFault, facts: TurnMetrics): Step[] {
  const upTo = (point: Point, ...then: Step[]): Step[] => [...steps.slice(0, indexOfPoint(steps, point)), ...then];
  const insert = (point: Point, ...between: Step[]): Step[] => {
    const at = indexOfPoint(steps, point);
    return [...steps.slice(0, at), ...between, ...steps.slice(at)];
  };
  switch (fault.kind) {
    case 'close':
      return upTo(fault.at, { op: 'close', code: fault.code ?? 1011, reason: fault.reason ?? '' });
    case 'reset':
      return upTo(fault.at, { op: 'reset' });
    case 'silence': {
      const telemetry = Array.from(
        { length: fault.telemetry ?? 0 },
        (): Step => ({ op: 'send', event: rateLimitsEvent() }),
      );
      return upTo(fault.at, ...telemetry, { op: 'hold', until: 'release' });
    }
    case 'hold':
      return insert(fault.at, { op: 'hold', until: fault.until ?? 'release' });
    case 'late_frames':
      return insert(fault.at, { op: 'detach' });
    case 'error': {
      const close: Step[] = fault.thenClose === undefined ? [] : [{ op: 'close', code: fault.thenClose, reason: '' }];
      const error: Step = { op: 'error', error: fault.error, shape: fault.shape ?? 'nested' };
      return upTo(fault.at ?? 'before_created', error, ...close);
    }
    case 'refuse_anchor': {
      if (facts.anchor === null) return [...steps];
      const { refusal } = facts;
      if (fault.as === 'failed')
        return upTo('after_created', { op: 'send', event: failedEvent(facts, refusal.code!, refusal.message) });
      return upTo('before_created', { op: 'error', error: refusal, shape: fault.shape ?? 'nested' });
    }
    case 'failed': {
      const event = failedEvent(facts, fault.code, fault.message ?? `The response failed: ${fault.code}.`);
      return upTo(fault.at ?? 'after_created', { op: 'send', event });
    }
    case 'drip':
      return steps.flatMap((step): Step[] => (isSend(step) ? [{ op: 'sleep', ms: fault.everyMs }, step] : [step]));
    case 'duplicate_terminal': {
      const terminal = steps.findLast((step) => isSend(step) && isTerminal(step.event));
      if (!terminal || !isSend(terminal)) return [...steps];
      const until = fault.until ?? 'now';
      const gap: Step[] = until === 'now' ? [] : until === 'next_create' ? [{ op: 'detach' }] : [{ op: 'hold', until }];
      return [...steps, ...gap, { ...terminal, again: true }];
    }
    case 'unknown_events': {
      const events = Array.from(
        { length: fault.count ?? 2 },
        (_, n): Step => ({ op: 'send', event: { type: 'response.future_feature.delta', note: `unknown ${n}` } }),
      );
      return insert(fault.at ?? 'after_created', ...events);
    }
    case 'telemetry': {
      const frames = Array.from({ length: fault.count ?? 1 }, (): Step[] => {
        const send: Step = { op: 'send', event: rateLimitsEvent() };
        return fault.everyMs === undefined ? [send] : [{ op: 'sleep', ms: fault.everyMs }, send];
      });
      return insert(fault.at ?? 'before_created', ...frames.flat());
    }
    case 'hostile_items': {
      const deep = `${'['.repeat(9_000)}${']'.repeat(9_000)}`;
      const items = fault.items ?? ['null', '17', '"text"', '[{"type":"message"}]', deep];
      const raw = items.map(
        (item): Step => ({ op: 'raw', text: `{"type":"response.output_item.done","output_index":"x","item":${item}}` }),
      );
      const listed = items.filter((item) => item.length < 10_000).map((item): unknown => JSON.parse(item));
      return insert('before_terminal', ...raw).map((step) => {
        if (step.op !== 'send' || !isTerminal(step.event)) return step;
        const response = step.event.response as { output?: unknown[] };
        const output = [...listed, ...(response.output ?? [])];
        return { ...step, event: { ...step.event, response: { ...response, output, usage: 'none' } } };
      });
    }
    case 'malformed':
      return insert(fault.at, { op: 'raw', text: fault.text ?? '{"type":"response.output_text.delta","delta":' });
    case 'wrong_response_id': {
      const from = fault.from === undefined ? indexOfPoint(steps, 'before_terminal') : indexOfPoint(steps, fault.from);
      return withForeignId(steps, from, fault.id ?? facts.foreignId);
    }
    case 'frames':
      return fault.frames.map(
        (frame): Step =>
          typeof frame === 'string' ? { op: 'raw', text: frame } : { op: 'raw', text: JSON.stringify(frame) },
      );
    case 'respond':
      return [{ op: 'respond', status: fault.status, headers: fault.headers ?? {}, body: fault.body ?? null }];
    case 'reply':
    case 'huge':
    case 'incomplete':
    case 'steered':
    case 'reuse_response_id':
      return [...steps];
  }
}

/** Assigns sequence numbers. Signals have none, and a repeated event keeps its number. */
function numberEvents(steps: readonly Step[]): Step[] {
  let next = 0;
  return steps.map((step) => {
    if (!isSend(step) || isSignal(step.event)) return step;
    if (step.event.type === 'response.created') next = 0;
    const sequence_number = step.again ? next - 1 : next++;
    return { ...step, event: { ...step.event, sequence_number } };
  });
}

/** Objects shared by all turns of one simulator. */
export interface TurnHost {
  options: SimulatorOptions;
  provider: Provider;
  rules: Rules;
  journal: JournalWriter;
  chaos: () => ChaosSource | null;
}

/** One create as it arrived. */
export interface Intake {
  wire: Wire;
  body: Record<string, unknown>;
  bytes: number;
  headers: Record<string, string>;
  credential: string;
  connection: number | null;
  nthOnConnection: number;
  lane: string | null;
  cache: ConnectionCache | null;
  queuedBehind: number;
}

/**
 * Creation time of the first response, in seconds since the Unix epoch. Later responses follow in steps of one second,
 * independent of the clock.
 */
const FIRST_CREATED_AT = 1_760_000_000;

interface SegmentSpec {
  host: TurnHost;
  intake: Intake;
  context: TurnContext;
  body: Record<string, unknown>;
  faults: readonly TurnFault[];
  turn: number;
  /** Null for a response that completes. */
  incompleteReason: string | null;
}

/** Share of the eligible turns whose terminal event lists the output differently. */
const OCCASIONAL = 0.5;

/**
 * Chooses how a turn's terminal event lists the output, as recorded from real providers: with lists of tools when the
 * request names a hosted server, empty at the backend for ChatGPT logins, and otherwise as configured in `dialects`.
 */
function dialectOf({ host, intake, body, turn }: SegmentSpec): TerminalDialect | null {
  const { dialects = {} } = host.options;
  const hosted = Array.isArray(body.tools) && body.tools.some((tool) => tool?.type === 'mcp');
  const shares: [TerminalDialect, number][] = [
    ['listed', hosted ? OCCASIONAL : (dialects.listed ?? 0)],
    ['empty', 'chatgpt-account-id' in intake.headers ? OCCASIONAL : (dialects.empty ?? 0)],
    ['ids', dialects.ids ?? 0],
  ];
  let left = chance(host.provider.seed, 'dialect', turn);
  for (const [dialect, share] of shares) {
    left -= share;
    if (left < 0) return dialect;
  }
  return null;
}

/** Returns two lists of a hosted server's tools, which are part of a response's output but are never streamed. */
const toolLists = (host: TurnHost): Item[] =>
  ['one', 'two'].map((name) => ({
    id: host.provider.id('mcpl'),
    type: 'mcp_list_tools',
    server_label: name,
    tools: [{ name: 'search', annotations: null, description: null, input_schema: { type: 'object' } }],
  }));

/** Composes one response as a program: created, its items, the commit, the terminal event. Also returns its record. */
function composeSegment(spec: SegmentSpec): {
  steps: Step[];
  record: ResponseRecord;
  started: Record<string, unknown>;
} {
  const { context, body, faults, turn, incompleteReason } = spec;
  const { host } = spec;
  const { provider, options } = host;
  const { credential, connection, wire } = spec.intake;
  const reuse = faults.find((fault) => fault.kind === 'reuse_response_id');
  const id = (reuse && (reuse.id ?? provider.lastId(credential))) || provider.id('resp');
  provider.remember(credential, id);
  const reply = composeReply({
    provider,
    credential,
    context,
    body,
    faults,
    reasoning: options.reasoning ?? false,
    deltaCount: options.deltaCount ?? 3,
  });
  const createdAt = FIRST_CREATED_AT + turn;
  const complete = incompleteReason === null;
  const output = reply.output.map((item) =>
    complete || item.type !== 'message' ? item : { ...item, status: 'incomplete' },
  );
  const streams = wire.transport === 'websocket' || body.stream === true;
  const dialect = streams && output.length > 0 ? (reply.dialect ?? dialectOf(spec)) : null;
  const removed = context.removed.map((item) => ({ id: item, action: 'removed', reason: 'prefix_mismatch' }));
  const started = {
    ...responseObject({ id, createdAt, body }),
    ...(removed.length > 0 ? { input_transformations: removed } : {}),
  };
  const whole: Record<string, unknown> = {
    ...started,
    service_tier: body.service_tier ?? 'default',
    status: complete ? 'completed' : 'incomplete',
    completed_at: complete ? createdAt : null,
    incomplete_details: complete ? null : { reason: incompleteReason },
    output: dialect === 'listed' ? [...toolLists(host), ...output] : output,
    usage: usageOf(context, output),
  };
  const items = output.map((item) => ({
    added: provider.sealer.inForm(credential, begun(item), 'added'),
    done: provider.sealer.inForm(credential, item, 'done'),
  }));
  const finished = dialect === 'empty' ? { ...whole, output: [] } : whole;
  let events = responseEvents({ started, items, finished, deltas: reply.deltas, queued: body.background === true });
  if (dialect === 'ids') events = scatterIds(events, () => provider.id('cap'));
  const aliases = events.flatMap(({ type, item, output_index }) =>
    type === 'response.output_item.done'
      ? [[(item as Item).id as string, output[output_index as number]!] as const]
      : [],
  );
  const wanted = body.stream_options as { include_obfuscation?: unknown } | null | undefined;
  if (wanted?.include_obfuscation !== false) events = obfuscate(events, provider.seed, id);
  const listed = events.at(-1)!.response as Record<string, unknown>;
  const response = dialect === 'ids' ? listed : whole;
  const record = recordOf({ context, credential, connection, response, aliases });
  const steps: Step[] = events.map((event) => ({ op: 'send', event }));
  if (wire.transport === 'websocket' && (options.turnState === 'metadata' || options.turnState === 'both')) {
    const headers = { 'x-codex-turn-state': `ts-${turn}`, 'openai-model': body.model };
    steps.splice(1, 0, { op: 'send', event: { type: 'response.metadata', response_id: id, headers } });
  }
  steps.splice(-1, 0, { op: 'commit', record });
  return { steps, record, started };
}

/** Returns the context of a steered response's successor: the chain with its output, then the steering input. */
function steeredContext(record: ResponseRecord, text: string, body: Record<string, unknown>): TurnContext {
  const input = inputItems(text);
  const { line, tokens } = fold(record.line, input);
  return {
    previous: record,
    input,
    removed: [],
    line,
    count: record.count + countItems(input),
    openCalls: record.openCalls,
    itemTokens: record.tokens + tokens,
    tokens: record.tokens + tokens,
    cachedTokens: record.tokens,
    digest: sealLine(line, body).slice(0, 16),
    conversation: null,
  };
}

function turnStateOf(intake: Intake): string | null {
  const metadata = intake.body.client_metadata as Record<string, unknown> | undefined;
  const value = intake.headers['x-codex-turn-state'] ?? metadata?.['x-codex-turn-state'];
  return typeof value === 'string' ? value : null;
}

export interface Turn {
  readonly number: number;
  /**
   * Runs the turn to its end. Never rejects.
   *
   * @param laneFree called once, when the lane may start its next turn
   */
  run(laneFree: () => void): Promise<void>;
}

/**
 * Accepts a create: assigns its number, selects its faults and, when it must wait, adds it to the journal immediately.
 */
export function openTurn(host: TurnHost, intake: Intake): Turn {
  const { options, provider, journal } = host;
  const { wire, body, credential, connection, cache } = intake;
  const number = provider.nextTurn();
  const anchor = typeof body.previous_response_id === 'string' ? body.previous_response_id : null;
  const lane = intake.lane ?? '';
  const seen: TurnSeen = {
    turn: number,
    connection,
    nthOnConnection: intake.nthOnConnection,
    transport: wire.transport,
    lane: intake.lane,
    body,
    headers: intake.headers,
  };
  const applied = host.rules.forTurn(seen);
  const wild = applied ? null : (host.chaos()?.forTurn(number) ?? null);
  const faults = applied?.faults ?? (wild ? [wild] : []);
  const gate: Gate = applied?.gate ?? createGate();
  const rule = applied?.rule ?? 0;
  let entry: EntryOf<'create'> | null = null;
  let conversation: string | null = null;

  const facts = {
    digest: null as string | null,
    contextItems: null as number | null,
    responseId: null as string | null,
  };
  function journalCreate(): void {
    if (entry) return void Object.assign(entry, facts);
    entry = journal.record('create', {
      turn: number,
      connection,
      transport: wire.transport,
      lane: intake.lane,
      credential,
      headers: intake.headers,
      body: options.journalBodies === false ? {} : body,
      bytes: intake.bytes,
      itemsReceived: inputItems(body.input).length,
      previousResponseId: anchor,
      generate: !isWarmUp(body),
      turnState: turnStateOf(intake),
      queuedBehind: intake.queuedBehind,
      ...facts,
    });
    if (faults.length > 0)
      journal.record('fault', { rule, turn: number, connection, fault: faults.length === 1 ? faults[0]! : faults });
  }

  /** Builds the turn's program with faults applied. The program of a refused request is a single error. */
  function plan(): Step[] {
    const foreignId = provider.id('resp');
    let steps: Step[];
    let started: Record<string, unknown> | null = null;
    try {
      const checkToolPairs = options.checkToolPairs ?? true;
      const reach = cache && { get: (id: string) => cache.get(id, lane) };
      const context = resolveContext({ provider, credential, cache: reach, body, checkToolPairs });
      const steered = faults.find((fault) => fault.kind === 'steered');
      const incomplete = faults.find((fault) => fault.kind === 'incomplete');
      const reason = steered ? 'steered' : incomplete ? (incomplete.reason ?? 'max_output_tokens') : null;
      const spec = { host, intake, turn: number };
      const first = composeSegment({ ...spec, context, body, faults, incompleteReason: reason });
      ({ steps, started } = first);
      conversation = context.conversation;
      if (steered) {
        const next = { ...body, previous_response_id: first.record.id };
        const successor = steeredContext(first.record, steered.input ?? 'Steered.', next);
        const follow = { ...spec, context: successor, body: next, faults: [], incompleteReason: null };
        steps.push(...composeSegment(follow).steps);
      }
      facts.digest = context.digest;
      facts.contextItems = context.count;
      facts.responseId = first.record.id;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      steps = [{ op: 'error', error: error.error, shape: 'nested' }];
    }
    if (started && wire.transport === 'websocket' && options.telemetry !== false) {
      const timing = 'x-responsesapi-include-timing-metrics' in intake.headers;
      const signals = signalsBefore(provider.seed, number, body.model, timing);
      steps.unshift(...signals.map((event): Step => ({ op: 'send', event })));
    }
    const begins = steps.findIndex((step) => isSend(step) && step.event.type === 'response.in_progress');
    if (cache && anchor !== null && begins >= 0) steps.splice(begins, 0, { op: 'reach', anchor });
    const known = { anchor, started, foreignId, refusal: previousResponseNotFound(anchor ?? '') };
    for (const fault of faults) steps = rewrite(steps, fault, known);
    return numberEvents(steps);
  }

  async function perform(steps: readonly Step[], laneFree: () => void): Promise<void> {
    let end: TurnEnd = 'scripted';
    let code: string | null = null;
    let outOfReach = false;
    let sequence = 0;
    const { gone } = wire;
    const wait = (ms: number) => sleep(ms, undefined, { signal: gone }).catch(() => undefined);
    const evict = () => anchor !== null && cache?.evict(anchor, lane);
    const held = () => journal.record('held', { turn: number, connection, rule });

    if (options.latencyMs) await wait(options.latencyMs);
    for (const step of steps) {
      if (gone.aborted || outOfReach) break;
      switch (step.op) {
        case 'send': {
          if (options.eventGapMs && sequence > 0) await wait(options.eventGapMs);
          const interleaved = wire.send(step.event);
          if (interleaved) await interleaved;
          sequence += 1;
          if (!isTerminal(step.event)) break;
          end = step.event.type.slice('response.'.length) as TurnEnd;
          if (end !== 'failed') break;
          code = (step.event.response as { error?: { code?: string } }).error?.code ?? null;
          evict();
          break;
        }
        case 'reach': {
          if (cache?.get(step.anchor, lane) || provider.stored(credential, step.anchor)) break;
          const error = previousResponseNotFound(step.anchor);
          wire.refuse(error, 'nested', sequence);
          end = 'error';
          code = error.code ?? null;
          outOfReach = true;
          break;
        }
        case 'raw':
          wire.raw(step.text);
          break;
        case 'sleep':
          await wait(step.ms);
          break;
        case 'commit': {
          const { record } = step;
          provider.read(record);
          if (body.store !== false) provider.store(record);
          cache?.put(lane, record);
          if (conversation !== null) provider.advance(credential, conversation, record);
          break;
        }
        case 'hold':
          held();
          await (step.until === 'release' ? gate.wait(gone) : Promise.race([gate.wait(gone), wire.next('create')]));
          break;
        case 'detach':
          held();
          laneFree();
          await Promise.race([gate.wait(gone), wire.next('created')]);
          break;
        case 'error':
          wire.refuse(step.error, step.shape, sequence);
          end = 'error';
          code = step.error.code ?? null;
          evict();
          break;
        case 'respond':
          wire.respond(step.status, step.headers, step.body);
          end = 'error';
          if (step.status >= 400) evict();
          break;
        case 'close':
          wire.close(step.code, step.reason);
          if (end === 'scripted') end = 'closed';
          break;
        case 'reset':
          wire.reset();
          if (end === 'scripted') end = 'reset';
          break;
      }
    }
    if (end === 'scripted' && gone.aborted) end = 'abandoned';
    wire.finish();
    journal.record('end', { turn: number, connection, responseId: facts.responseId, end, code });
  }

  if (intake.queuedBehind > 0) journalCreate();
  return {
    number,
    async run(free) {
      cache?.begin(lane);
      const laneFree = () => {
        cache?.end(lane);
        free();
      };
      const steps = plan();
      journalCreate();
      try {
        await perform(steps, laneFree);
      } finally {
        laneFree();
      }
    },
  };
}
