import type { Item } from '../../transcript/types.ts';
import { recordOf, type TurnContext } from './context.ts';
import { countItems, fold, inputItems, sealLine } from './digest.ts';
import type { TerminalDialect } from './directives.ts';
import { begun, obfuscate, responseEvents, responseObject, scatterIds } from './events.ts';
import type { TurnFault } from './faults.ts';
import type { Step } from './program.ts';
import type { ResponseRecord } from './provider.ts';
import { composeReply, usageOf } from './reply.ts';
import { chance } from './seeded.ts';
import type { Intake, TurnHost } from './turn.ts';

/**
 * Creation time of the first response, in seconds since the Unix epoch. Later responses follow in steps of one second,
 * independent of the clock.
 */
const FIRST_CREATED_AT = 1_760_000_000;

export interface SegmentSpec {
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
export function composeSegment(spec: SegmentSpec): {
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
export function steeredContext(record: ResponseRecord, text: string, body: Record<string, unknown>): TurnContext {
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
