import { hash } from 'node:crypto';
import { canonical } from './identity.ts';
import type { Fingerprint, ItemHash, RequestBody } from './types.ts';

/**
 * Returns the form of a text to hash. Hashing a long string takes several times as long as encoding it and hashing its
 * bytes.
 */
export const hashable = (text: string): string | Buffer => (text.length < 65_536 ? text : Buffer.from(text, 'utf8'));

const sha256 = (text: string): Fingerprint => hash('sha256', hashable(text), 'hex');

/** Fields that do not change the model's input, or that may change between the turns of one line. */
const ignored = new Set([
  'type',
  'input',
  'previous_response_id',
  'conversation',
  'background',
  'client_metadata',
  'metadata',
  'stream',
  'stream_options',
  'user',
  'safety_identifier',
  'prompt_cache_key',
  'prompt_cache_retention',
  'prompt_cache_options',
  'moderation',
  'access_programs',
  'service_tier',
  'max_output_tokens',
  'max_tool_calls',
  'temperature',
  'top_p',
  'top_logprobs',
  'generate',
]);

/** Values that the API assumes for absent fields. */
const defaults = new Map<string, string>([
  ['tool_choice', canonical('auto')],
  ['parallel_tool_calls', canonical(true)],
  ['truncation', canonical('disabled')],
  ['store', canonical(true)],
  ['tools', canonical([])],
  ['include', canonical([])],
  ['text', canonical({ format: { type: 'text' } })],
]);

function contextField(name: string, value: unknown): string {
  if (name === 'include' && Array.isArray(value)) return canonical([...new Set(value.map(String))].sort());
  return canonical(value);
}

/**
 * Returns the fingerprint of the fields that must be equal for a request to be sent as a delta of another. Unknown fields
 * are compared; a field at its default equals its absence.
 */
export function contextFingerprint(body: RequestBody): Fingerprint {
  const fields: string[] = [];
  for (const name of Object.keys(body).sort()) {
    const value = body[name];
    if (ignored.has(name) || value === null || value === undefined) continue;
    const text = contextField(name, value);
    if (text !== defaults.get(name) && text !== '{}') fields.push(`${name}=${text}`);
  }
  return sha256(fields.join('\n'));
}

/** Fields about delivery, and stamps that change with every attempt. They are not part of the requested generation. */
const delivery = new Set(['type', 'stream', 'stream_options', 'client_metadata', 'input']);

/**
 * Returns the fingerprint of a request. Requests with equal fingerprints ask for the same generation.
 *
 * @param hashes hashes of the items of the body's input
 */
export function requestFingerprint(body: RequestBody, hashes: readonly ItemHash[]): Fingerprint {
  const fields: string[] = [];
  for (const name of Object.keys(body).sort()) {
    const value = body[name];
    if (delivery.has(name) || value === null || value === undefined) continue;
    fields.push(`${name}=${contextField(name, value)}`);
  }
  return sha256(`${fields.join('\n')}\n${hashes.join()}`);
}
