import { createHash } from 'node:crypto';
import type { Item } from '../../transcript/types.ts';
import { readSealed, SEALED_MEMBERS } from './seeded.ts';

/** Input of the simulated model. `instructions` and `tools` are those of the request itself. */
export interface ModelContext {
  items: readonly Item[];
  instructions?: unknown;
  tools?: unknown;
  reasoning?: unknown;
}

/** Serialises JSON with sorted keys. Undefined members are left out, as in a request body. */
function canonicalJson(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(',')}]`;
  if (value === null || typeof value !== 'object') return JSON.stringify(value) ?? 'null';
  const members = Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, member]) => `${JSON.stringify(key)}:${canonicalJson(member)}`);
  return `{${members.join(',')}}`;
}

const TEXT_PARTS = new Set(['input_text', 'output_text', 'text']);

function messageContent(content: unknown): unknown {
  const parts: readonly unknown[] = Array.isArray(content) ? content : [{ type: 'input_text', text: content ?? '' }];
  return parts.map((part) => {
    const { type, text } = (part ?? {}) as Record<string, unknown>;
    return TEXT_PARTS.has(String(type)) ? { text } : part;
  });
}

/**
 * Returns the content of a ciphertext, which is equal in all its forms. A ciphertext of another origin stands for
 * itself.
 */
const opened = (sealed: unknown): unknown => readSealed(sealed)?.nonce ?? sealed;

/** Returns the identity of an item: without ids made by the server, status, annotations and the form of the seal. */
function identity(item: Item): unknown {
  const { id: _id, status: _status, ...rest } = item;
  switch (item.type ?? 'message') {
    case 'message':
      return ['message', item.role, messageContent(item.content)];
    case 'function_call':
      return ['function_call', item.call_id, item.name, item.arguments];
    case 'custom_tool_call':
      return ['custom_tool_call', item.call_id, item.name, item.input];
    case 'function_call_output':
    case 'custom_tool_call_output':
      return [item.type, item.call_id, item.output];
    case 'reasoning':
      return ['reasoning', opened(item.encrypted_content) ?? { summary: item.summary ?? [] }];
    default: {
      const sealed = SEALED_MEMBERS.filter((member) => member in rest);
      return { ...rest, ...Object.fromEntries(sealed.map((member) => [member, opened(rest[member])])) };
    }
  }
}

/** Returns the items of a request's `input`. A string is one user message. */
export function inputItems(input: unknown): readonly Item[] {
  if (typeof input === 'string') return [{ type: 'message', role: 'user', content: input }];
  return Array.isArray(input) ? (input as Item[]) : [];
}

/**
 * Returns whether an item is a hosted server's list of tools. It is the provider's own copy and is listed again when
 * the context has none.
 */
const isToolList = (item: Item): boolean => item.type === 'mcp_list_tools';

/** Returns the identification of a context that is stored in content sealed under it. */
export const prefixOf = (line: string): string => line.slice(0, 16) || 'root';

/** Returns whether an item is sealed reasoning that was made under another context than the one hashed so far. */
function isStale(line: string, item: Item): boolean {
  if (item.type !== 'reasoning') return false;
  const prefixes = readSealed(item.encrypted_content)?.prefixes ?? [];
  return prefixes.length > 0 && !prefixes.includes(prefixOf(line));
}

/** Bytes per estimated token. Only the proportions of token counts matter. */
export const BYTES_PER_TOKEN = 4;

/** Running hash over a context, and the items that the model receives. */
interface Folded {
  line: string;
  /** Items that are part of the context. */
  kept: readonly Item[];
  /** Estimated tokens of the added items, equal for every form in which a client sends an item. */
  tokens: number;
  /** Reasoning items that do not follow the exact prefix they were made under. The model does not receive them. */
  removed: readonly Item[];
}

/**
 * Extends a running hash by items, so that the time to digest a chain of any length depends only on the new items.
 *
 * @param onItem called after each item with the hash and the number of tokens so far
 */
export function fold(line: string, items: readonly Item[], onItem?: (line: string, tokens: number) => void): Folded {
  const folded = { line, tokens: 0, kept: [] as Item[], removed: [] as Item[] };
  for (const item of items) {
    if (isStale(folded.line, item)) {
      folded.removed.push(item);
      continue;
    }
    folded.kept.push(item);
    if (isToolList(item)) continue;
    const canonical = canonicalJson(identity(item));
    folded.line = createHash('sha256').update(folded.line).update(canonical).digest('hex');
    folded.tokens += Math.ceil(canonical.length / BYTES_PER_TOKEN);
    onItem?.(folded.line, folded.tokens);
  }
  return folded;
}

/** Counts the items of a context that its digest covers. */
export const countItems = (items: readonly Item[]): number => items.filter((item) => !isToolList(item)).length;

/**
 * Returns the hex SHA-256 of a folded line together with the request's own instructions, tools and reasoning
 * configuration.
 */
export function sealLine(line: string, context: Omit<ModelContext, 'items'>): string {
  const tools = Array.isArray(context.tools) && context.tools.length === 0 ? null : (context.tools ?? null);
  const fields = [context.instructions || null, tools, context.reasoning ?? null];
  return createHash('sha256').update(line).update(canonicalJson(fields)).digest('hex');
}

/**
 * Returns the hex SHA-256 over the identity of every item, in order, and over instructions, tools and reasoning
 * configuration.
 *
 * @param context everything that the model sees
 */
export function contextDigest(context: ModelContext): string {
  return sealLine(fold('', context.items).line, context);
}

/** Element of a conversation as a test lists it: a string is a user message, a response stands for its output items. */
export type ExpectedItem = string | Item | readonly Item[] | { readonly output: readonly unknown[] };

/** A context as a test expects it; a string is a single user message. */
export interface ExpectedContext extends Omit<ModelContext, 'items'> {
  items: string | readonly ExpectedItem[];
}

function flatten(item: ExpectedItem): readonly Item[] {
  if (typeof item === 'string' || Array.isArray(item)) return inputItems(item);
  if ('output' in item && Array.isArray(item.output) && !('call_id' in item)) return item.output as Item[];
  return [item as Item];
}

/**
 * Returns the digest that the simulated model reports for this context: 16 hex digits, to be compared with `digestOf`.
 *
 * @param context items and settings, as the test knows them
 * @example expectedDigest({ items: ['first', firstResponse, 'second'], instructions: 'Be brief.' })
 */
export function expectedDigest(context: ExpectedContext): string {
  const items = typeof context.items === 'string' ? inputItems(context.items) : context.items.flatMap(flatten);
  return contextDigest({ ...context, items }).slice(0, 16);
}

const IN_TEXT = /digest=([0-9a-f]{16})/;
const IN_CALL = /^call_([0-9a-f]{16})_/;

/**
 * Extracts the digest from an answer: from a text, from a response object's message text, or else from the ids of its
 * tool calls.
 *
 * @param answer text, or response object
 * @returns null when there is none
 */
export function digestOf(answer: string | { readonly output?: readonly unknown[] } | null | undefined): string | null {
  if (typeof answer === 'string') return IN_TEXT.exec(answer)?.[1] ?? null;
  let fromCall: string | null = null;
  for (const item of (answer?.output ?? []) as Item[]) {
    const found = item.type === 'message' ? IN_TEXT.exec(JSON.stringify(item.content))?.[1] : undefined;
    if (found) return found;
    if (typeof item.call_id === 'string') fromCall ??= IN_CALL.exec(item.call_id)?.[1] ?? null;
  }
  return fromCall;
}
