import type { Shape } from '../store/port.ts';
import { normaliseInput, typeOf } from './items.ts';
import type { RequestBody } from './types.ts';

/** What only a model or a tool round can have produced: an input that holds it carries history. */
const producedTypes = /(_call|_call_output|_output|reasoning|compaction|_approval_request|_approval_response)$/;

/** The shape of a request: anchored, or carrying its whole history, or beginning one. */
export function shapeOf(body: RequestBody): Shape {
  if (typeof body.previous_response_id === 'string' && body.previous_response_id !== '') return 'delta';
  const past = normaliseInput(body.input).some((item) => item.role === 'assistant' || producedTypes.test(typeOf(item)));
  return past ? 'full' : 'fresh';
}
