/** The `sequence_number` an event carries, found without parsing it: it is a top-level number of every typed event. */
export function sequenceOf(json: string): number | null {
  const match = /"sequence_number":\s*(\d+)/.exec(json);
  return match ? Number(match[1]) : null;
}

export interface FailedEventInput {
  error: { code: string; message: string; bridge_code?: string };
  requestId: string;
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
 * beginning of one, because clients take nothing before it. The response has the fields that OpenAI's SDKs declare as
 * always there; Vercel's refuses one without `model`.
 */
export function failedEvent(input: FailedEventInput): { type: string; json: string }[] {
  const { error, requestId, model, begun, sequence } = input;
  const response = {
    id: `resp_holdfast_${requestId.replaceAll('-', '')}`,
    object: 'response',
    created_at: Math.floor(input.now / 1000),
    status: 'in_progress',
    error: null,
    incomplete_details: null,
    instructions: null,
    metadata: {},
    model: model ?? 'unknown',
    output: [],
    parallel_tool_calls: true,
    temperature: null,
    tool_choice: 'auto',
    tools: [],
    top_p: null,
    usage: null,
  };
  const events: { type: string; json: string }[] = [];
  const add = (type: string, body: object) => {
    const sequence_number = sequence + 1 + events.length;
    events.push({ type, json: JSON.stringify({ type, sequence_number, response: { ...response, ...body } }) });
  };
  if (!begun) add('response.created', {});
  add('response.failed', { status: 'failed', error });
  return events;
}
