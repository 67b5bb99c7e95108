import { recordOf, type TurnContext } from './context.ts';
import { foldItems, inputItems, sealLine } from './digest.ts';
import { responseEvents, responseObject } from './events.ts';
import type { TurnFault } from './faults.ts';
import type { Step } from './program.ts';
import type { ResponseRecord } from './provider.ts';
import { composeReply, usageOf } from './reply.ts';
import type { Intake, TurnHost } from './turn.ts';

/** Seconds since the epoch of the first response; later ones follow by one each, whatever the clock says. */
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

/** One response as a program: created, its items, the commit, the terminal event. Also the record it leaves. */
export function composeSegment(spec: SegmentSpec): {
  steps: Step[];
  record: ResponseRecord;
  started: Record<string, unknown>;
} {
  const { context, body, faults, turn, incompleteReason } = spec;
  const { provider, options } = spec.host;
  const { credential, connection, wire } = spec.intake;
  const reuse = faults.find((fault) => fault.kind === 'reuse_response_id');
  const id = (reuse && (reuse.id ?? provider.lastId(credential))) || provider.id('resp');
  provider.remember(credential, id);
  const { output, deltas } = composeReply({
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
  const started = responseObject({ id, createdAt, body });
  const finished: Record<string, unknown> = {
    ...started,
    status: complete ? 'completed' : 'incomplete',
    completed_at: complete ? createdAt : null,
    incomplete_details: complete ? null : { reason: incompleteReason },
    output: output.map((item) => (complete || item.type !== 'message' ? item : { ...item, status: 'incomplete' })),
    usage: usageOf(context, output),
  };
  const record = recordOf({ context, credential, connection, response: finished });
  const events = responseEvents({ started, finished, deltas, queued: body.background === true });
  const steps: Step[] = events.map((event) => ({ op: 'send', event }));
  if (wire.transport === 'websocket' && (options.turnState === 'metadata' || options.turnState === 'both')) {
    const headers = { 'x-codex-turn-state': `ts-${turn}`, 'openai-model': body.model };
    steps.splice(1, 0, { op: 'send', event: { type: 'response.metadata', response_id: id, headers } });
  }
  steps.splice(-1, 0, { op: 'commit', record });
  return { steps, record, started };
}

/** The context of the successor of a steered response: the chain with its output, then the steering input. */
export function steeredContext(record: ResponseRecord, text: string, body: Record<string, unknown>): TurnContext {
  const input = inputItems(text);
  const line = foldItems(record.line, input);
  return {
    previous: record,
    input,
    line,
    count: record.count + input.length,
    openCalls: record.openCalls,
    tokens: record.tokens,
    cachedTokens: record.tokens,
    digest: sealLine(line, body).slice(0, 16),
    conversation: null,
  };
}
