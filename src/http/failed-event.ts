import { memberText } from '../json.ts';
import { bareResponse } from '../transcript/bare-response.ts';
import { isBeginning } from '../upstream/frames.ts';

/** Extracts the `sequence_number` of an event without parsing it. Every typed event has it as a top-level number. */
export function sequenceOf(json: string): number | null {
  const match = /"sequence_number":\s*(\d+)/.exec(json);
  return match ? Number(match[1]) : null;
}

/** Returns the id of the response that an event announces, or null for an event that announces none. */
export function responseIdOf(type: string, json: string): string | null {
  if (!isBeginning({ type })) return null;
  const id: unknown = JSON.parse(memberText(memberText(json, 'response') ?? '', 'id') ?? 'null');
  return typeof id === 'string' && id !== '' ? id : null;
}

export interface FailedEventInput {
  error: { code: string; message: string; bridge_code?: string };
  requestId: string;
  /** Id of the response whose beginning was sent to the client. OpenAI's SDK accepts no other id after it. */
  responseId: string | null;
  /** Model named in the request, or null when it named none. */
  model: string | null;
  /** Wall-clock time, in milliseconds. */
  now: number;
  /** True when the client has received the beginning of its response. */
  begun: boolean;
  /** Last sequence number that was sent, or -1. */
  sequence: number;
}

/**
 * Builds the events that end a failed stream. They begin with `response.created` when the client has received no
 * beginning of a response, because clients accept nothing before it.
 */
export function failedEvent(input: FailedEventInput): { type: string; json: string }[] {
  const { error, requestId, model, begun, sequence } = input;
  const id = input.responseId ?? `resp_holdfast_${requestId.replaceAll('-', '')}`;
  const response = bareResponse({ id, model, now: input.now });
  const events: { type: string; json: string }[] = [];
  const add = (type: string, body: object) => {
    const sequence_number = sequence + 1 + events.length;
    events.push({ type, json: JSON.stringify({ type, sequence_number, response: { ...response, ...body } }) });
  };
  if (!begun) add('response.created', {});
  add('response.failed', { status: 'failed', error });
  return events;
}
