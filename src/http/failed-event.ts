import { memberText } from '../json.ts';
import { bareResponse } from '../transcript/bare-response.ts';
import { isBeginning } from '../upstream/frames.ts';

/** The `sequence_number` an event carries, found without parsing it: it is a top-level number of every typed event. */
export function sequenceOf(json: string): number | null {
  const match = /"sequence_number":\s*(\d+)/.exec(json);
  return match ? Number(match[1]) : null;
}

/** The id of the response that an event announces; null for an event that announces none. */
export function responseIdOf(type: string, json: string): string | null {
  if (!isBeginning({ type })) return null;
  const id: unknown = JSON.parse(memberText(memberText(json, 'response') ?? '', 'id') ?? 'null');
  return typeof id === 'string' && id !== '' ? id : null;
}

export interface FailedEventInput {
  error: { code: string; message: string; bridge_code?: string };
  requestId: string;
  /** The response that the client has been shown the beginning of: OpenAI's SDK takes no other after it. */
  responseId: string | null;
  /** The model the request asked for, or null when it named none. */
  model: string | null;
  /** Wall clock in milliseconds. */
  now: number;
  /** The client has been shown the beginning of its response. */
  begun: boolean;
  /** Last sequence number that was shown, or -1. */
  sequence: number;
}

/**
 * The events that end a stream that the bridge must fail: `response.created` first when the client has not seen the
 * beginning of one, because clients take nothing before it.
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
