import { z } from 'zod';
import { BridgeError } from '../errors.ts';

/** Gateways pack a deployment and an encrypted original into an id; 1,500 characters have been seen. */
const LONGEST_ID = 65_536;

const object = z.record(z.string(), z.unknown());

/** The fields Holdfast itself reads, or whose type decides how a request is placed. Everything else passes as it is. */
const request = z.looseObject({
  model: z.string().min(1).nullish(),
  input: z.union([z.string(), z.array(object)]).nullish(),
  instructions: z.string().nullish(),
  previous_response_id: z.string().min(1).max(LONGEST_ID).nullish(),
  conversation: z.union([z.string().min(1), object]).nullish(),
  stream: z.boolean().nullish(),
  store: z.boolean().nullish(),
  background: z.boolean().nullish(),
  generate: z.boolean().nullish(),
  tools: z.array(object).nullish(),
  include: z.array(z.string()).nullish(),
  reasoning: object.nullish(),
  text: object.nullish(),
  metadata: object.nullish(),
  client_metadata: object.nullish(),
  prompt_cache_key: z.string().nullish(),
});

/**
 * Checks the fields of a `POST /responses` body whose types matter here. Throws `bridge_invalid_request` naming the field;
 * nothing has been opened for the request yet.
 */
export function validateRequest(body: Record<string, unknown>): void {
  const parsed = request.safeParse(body);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const param = issue!.path.join('.') || undefined;
    throw new BridgeError('bridge_invalid_request', { param, detail: `${param ?? 'body'}: ${issue!.message}.` });
  }
  if (body.previous_response_id != null && body.conversation != null) {
    throw new BridgeError('bridge_invalid_request', {
      param: 'previous_response_id',
      detail: 'previous_response_id and conversation cannot be used together.',
    });
  }
}
