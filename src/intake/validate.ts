import { z } from 'zod';
import { BridgeError } from '../errors.ts';
import { type Excess, isFields, MOST_LEVELS, rawNumber } from '../json.ts';

/**
 * What one body may hold. All of it is far beyond what clients send: a long session of Codex has thousands of items and
 * some ten values in each. What the provider documents is smaller still (128 tools, 16 keys of metadata), and for it to
 * refuse.
 */
export const bounds = {
  levels: MOST_LEVELS,
  /** Values and member names, all levels together. */
  values: 1_000_000,
  /** Members of the body itself. */
  members: 256,
  items: 65_536,
  tools: 4_096,
  included: 64,
  /** Members of `metadata` and of `client_metadata`. */
  metadata: 256,
  /** Characters of names that are stored, compared or shown: models, cache keys, turn ids, what is included. */
  name: 1_024,
  /** Characters of an id. Gateways pack a deployment and an encrypted original into one; 1,500 have been seen. */
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

/** The fields Holdfast itself reads, or whose type decides how a request is placed. Everything else passes as it is. */
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
 * Checks the fields of a `POST /responses` body whose types matter here. Throws `bridge_invalid_request` naming the field;
 * nothing has been opened for the request yet.
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
  // Counted first: what is too long is not looked through, and a union would not say why it failed.
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

/** The error of a body that goes beyond a bound which its text alone shows. */
export const excessive = (excess: Excess): BridgeError =>
  excess === 'levels'
    ? invalid(`The body is nested deeper than ${bounds.levels} levels.`)
    : new BridgeError('bridge_body_too_large', { detail: `The body holds more than ${bounds.values} values.` });

/** A body that is no object at its top. */
export const notAnObject = () => invalid('The body must be a JSON object.');

/** Whether a parsed body is an object. */
export const isBody = isObject;

const invalid = (detail: string, param?: string) =>
  new BridgeError('bridge_invalid_request', { detail, ...(param === undefined ? {} : { param }) });
