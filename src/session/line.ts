import type { TurnLine } from '../observe/log.ts';
import type { TurnFacts } from '../store/port.ts';
import type { Session } from './session.ts';
import type { Turn } from './turn.ts';

const since = (turn: Turn, at: number | null) => (at === null ? null : Math.round(at - turn.times.received));

/** What is stored of a turn beside its end. @param now monotonic milliseconds */
export function factsOf(turn: Turn, creates: number, now: number): TurnFacts {
  const { request, wire, ending } = turn;
  return {
    outcome: turn.outcome,
    form: turn.times.sent === null || !wire || wire.form === 'impossible' ? null : wire.form,
    bytesFromClient: request.bytes,
    bytesSent: turn.frameBytes,
    creates,
    fault: ending?.fault ?? null,
    upstreamStatus: ending?.error?.status ?? ending?.answer?.status ?? null,
    heldMs: since(turn, turn.times.sent),
    firstEventMs: since(turn, turn.times.firstEvent),
    totalMs: Math.round(now - turn.times.received),
  };
}

/** What the log says about a turn that has ended. No content, no credential. */
export function describeTurn(turn: Turn, session: Session | null, now: number): TurnLine {
  const { request, evidence, wire, ending } = turn;
  const sent = turn.times.sent === null || !wire || wire.form === 'impossible' ? null : wire.items;
  return {
    request: request.requestId,
    session: session?.id ?? null,
    epoch: session?.epoch ?? null,
    turn: turn.id,
    outcome: turn.outcome,
    decidedBy: turn.decidedBy,
    shape: evidence.shape,
    form: sent === null ? null : (wire?.form ?? null),
    terminal: ending?.state ?? 'cancelled',
    fault: ending?.fault ?? null,
    cause: turn.cause,
    upstreamStatus: ending?.error?.status ?? ending?.answer?.status ?? null,
    upstreamRequest: (ending?.answer?.headers['x-request-id'] ?? turn.upstreamRequest)?.slice(0, 200) ?? null,
    heldMs: since(turn, turn.times.sent),
    firstEventMs: since(turn, turn.times.firstEvent),
    totalMs: Math.round(now - turn.times.received),
    itemsFromClient: request.items.list.length,
    itemsSent: sent,
    bytesFromClient: request.bytes,
    bytesSent: turn.frameBytes,
    tokens: turn.usage,
    tokenIgnored: evidence.token.kind === 'ignored' ? evidence.token.reason : null,
  };
}
