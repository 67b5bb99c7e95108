/** The `sequence_number` an event carries, found without parsing it: it is a top-level number of every typed event. */
export function sequenceOf(json: string): number | null {
  const match = /"sequence_number":\s*(\d+)/.exec(json);
  return match ? Number(match[1]) : null;
}

export interface FailedEventInput {
  error: { code: string; message: string; bridge_code?: string };
  requestId: string;
  /** `response.created` has been shown already. */
  created: boolean;
  /** Last sequence number that was shown, or -1. */
  sequence: number;
  /** The response as far as it is known. */
  response?: object;
}

/**
 * The events that end a stream that the bridge must fail: `response.created` first when the client has not seen one,
 * because clients take nothing before it.
 */
export function failedEvent(input: FailedEventInput): { type: string; json: string }[] {
  const { error, requestId, created, sequence } = input;
  const response = {
    id: `resp_holdfast_${requestId.replaceAll('-', '')}`,
    object: 'response',
    created_at: 0,
    output: [],
    ...input.response,
  };
  const events: { type: string; json: string }[] = [];
  const add = (type: string, body: object) => {
    const sequence_number = sequence + 1 + events.length;
    events.push({ type, json: JSON.stringify({ type, sequence_number, response: { ...response, ...body } }) });
  };
  if (!created) add('response.created', { status: 'in_progress', error: null });
  add('response.failed', { status: 'failed', error });
  return events;
}
