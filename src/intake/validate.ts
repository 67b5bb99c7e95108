import { z } from 'zod';
import { BridgeError } from '../errors.ts';
import { type Excess, isFields, MOST_LEVELS, rawNumber } from '../json.ts';

/**
 * Limits on one body. All are far above what clients send: a long session of Codex has thousands of items with about
 * ten values each. Limits documented by the provider are lower (128 tools, 16 keys of metadata) and are left for the
 * provider to enforce.
 */
export const bounds = {
  levels: MOST_LEVELS,
  /** Number of values and member names, over all levels. */
  values: 1_000_000,
  /** Number of members of the body itself. */
  members: 256,
  items: 65_536,
  tools: 4_096,
  included: 64,
  /** Number of members of `metadata` and of `client_metadata`. */
  metadata: 256,
  /**
   * Length of names that are stored, compared or shown: models, cache keys, turn ids, entries of `include`. In
   * characters.
   */
  name: 1_024,
  /**
   * Length of an id, in characters. Gateways pack a deployment and an encrypted original id into one; 1,500 have been
   * observed.
   */
  id: 65_536,
} as const;

const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  isFields(value) && rawNumber(value) === null;

const object = z.custom<Readonly<Record<string, unknown>>>(isObject, 'Invalid input: expected object');
const id = z.string().min(1).max(bounds.id);
const name = z.string().max(bounds.name);
const item = object.refine(
  (value) => typeof value.id !== 'string' || value.id.length <= bounds.id,
  `Too big: expected an id of <=${bounds.id} characters`,
);
const pairs = object.refine(
  (value) => Object.keys(value).length <= bounds.metadata,
  `Too big: expected object to have <=${bounds.metadata} keys`,
);
const clientMetadata = pairs.refine(
  ({ turn_id: turn }) => typeof turn !== 'string' || turn.length <= bounds.name,
  `Too big: expected turn_id to have <=${bounds.name} characters`,
);

/** Fields that Holdfast itself reads, or whose type affects how a request is placed. All other fields pass unchanged. */
const request = z.looseObject({
  model: name.min(1).nullish(),
  input: z.union([z.string(), z.array(item).max(bounds.items)]).nullish(),
  instructions: z.string().nullish(),
  previous_response_id: id.nullish(),
  conversation: z.union([id, object]).nullish(),
  stream: z.boolean().nullish(),
  store: z.boolean().nullish(),
  background: z.boolean().nullish(),
  generate: z.boolean().nullish(),
  tools: z.array(object).max(bounds.tools).nullish(),
  include: z.array(name).max(bounds.included).nullish(),
  reasoning: object.nullish(),
  text: object.nullish(),
  metadata: pairs.nullish(),
  client_metadata: clientMetadata.nullish(),
  prompt_cache_key: name.nullish(),
});

/**
 * Checks the fields of a `POST /responses` body whose types matter here. No resource has been opened for the request
 * yet.
 *
 * @throws BridgeError `bridge_invalid_request` with the name of the field
 */
export function validateRequest(body: Readonly<Record<string, unknown>>): void {
  const names = Object.keys(body);
  if (names.length > bounds.members) throw invalid(`The body has more than ${bounds.members} members.`);
  if (names.some(({ length }) => length > bounds.name)) {
    throw invalid(`A member of the body has a name of more than ${bounds.name} characters.`);
  }
  const lists = [
    ['input', bounds.items],
    ['tools', bounds.tools],
    ['include', bounds.included],
  ] as const;
  // Check the lengths first: a list that is too long is not validated, and a union would not report why it failed.
  for (const [name, most] of lists) {
    const list = body[name];
    if (Array.isArray(list) && list.length > most) {
      throw invalid(`${name}: Too big: expected array to have <=${most} items.`, name);
    }
  }
  const parsed = request.safeParse(body);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    const param = issue!.path.join('.') || undefined;
    throw invalid(`${param ?? 'body'}: ${issue!.message}.`, param);
  }
  if (body.previous_response_id != null && body.conversation != null) {
    throw invalid('previous_response_id and conversation cannot be used together.', 'previous_response_id');
  }
}

/** Returns the error of a body that exceeds a limit which its text alone shows. */
export const excessive = (excess: Excess): BridgeError =>
  excess === 'levels'
    ? invalid(`The body is nested deeper than ${bounds.levels} levels.`)
    : new BridgeError('bridge_body_too_large', { detail: `The body holds more than ${bounds.values} values.` });

/** Returns the error of a body that is not a JSON object. */
export const notAnObject = () => invalid('The body must be a JSON object.');

/** Returns whether a parsed body is an object. */
export const isBody = isObject;

const invalid = (detail: string, param?: string) =>
  new BridgeError('bridge_invalid_request', { detail, ...(param === undefined ? {} : { param }) });
