import type { ErrorShape, ErrorSpec } from './error-shapes.ts';
import type { SimEvent } from './events.ts';
import type { Point, TurnFault } from './faults.ts';
import type { ResponseRecord } from './provider.ts';
import { isSignal, rateLimitsEvent } from './signals.ts';

/**
 * One step of a turn's program, the list of everything that is sent, in order. Faults rewrite the program before it is
 * sent.
 */
export type Step =
  | { op: 'send'; event: SimEvent; again?: boolean }
  | { op: 'raw'; text: string }
  | { op: 'sleep'; ms: number }
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
export interface TurnFacts {
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

function failedEvent(facts: TurnFacts, code: string, message: string): SimEvent {
  const response = { ...facts.started, status: 'failed', error: { code, message } };
  return { type: 'response.failed', response };
}

/**
 * Applies one fault to a turn's program. Faults that shape the answer itself were applied earlier and change nothing
 * here.
 */
export function rewrite(steps: readonly Step[], fault: TurnFault, facts: TurnFacts): Step[] {
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
export function numberEvents(steps: readonly Step[]): Step[] {
  let next = 0;
  return steps.map((step) => {
    if (!isSend(step) || isSignal(step.event)) return step;
    if (step.event.type === 'response.created') next = 0;
    const sequence_number = step.again ? next - 1 : next++;
    return { ...step, event: { ...step.event, sequence_number } };
  });
}
