import { createHash } from 'node:crypto';
import type { Item } from '../../transcript/types.ts';
import { readSealed, SEALED_MEMBERS } from './sealed.ts';

/** Everything the simulated model is given. `instructions` and `tools` are those of the request itself. */
export interface ModelContext {
  items: readonly Item[];
  instructions?: unknown;
  tools?: unknown;
  reasoning?: unknown;
}

/** JSON with sorted keys; members that are undefined are left out, as they would be on the wire. */
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

/** What is sealed in a ciphertext, whichever event it came from; a ciphertext of somebody else is itself. */
const opened = (sealed: unknown): unknown => readSealed(sealed)?.nonce ?? sealed;

/** The part of an item that is its identity: without server-made ids, status, annotations and the seal's form. */
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

/** The items a request's `input` stands for: a string is one user message. */
export function inputItems(input: unknown): readonly Item[] {
  if (typeof input === 'string') return [{ type: 'message', role: 'user', content: input }];
  return Array.isArray(input) ? (input as Item[]) : [];
}

/** A hosted server's list of tools: the provider's own copy, listed again where the context has none. */
const isToolList = (item: Item): boolean => item.type === 'mcp_list_tools';

/** The mark of a context in what is sealed under it. */
export const prefixOf = (line: string): string => line.slice(0, 16) || 'root';

/** True for sealed reasoning that was made under another context than the one hashed so far. */
function isStale(line: string, item: Item): boolean {
  if (item.type !== 'reasoning') return false;
  const prefixes = readSealed(item.encrypted_content)?.prefixes ?? [];
  return prefixes.length > 0 && !prefixes.includes(prefixOf(line));
}

/** Only the proportions of tokens matter. */
export const BYTES_PER_TOKEN = 4;

/** A running hash over a context, and which of the items put to it the model is given. */
export interface Folded {
  line: string;
  /** The items that are part of the context. */
  kept: readonly Item[];
  /** Estimated tokens of what was added; equal in every form that a client sends an item in. */
  tokens: number;
  /** Reasoning that does not follow the exact prefix it was made under: the model is not given it. */
  removed: readonly Item[];
}

/**
 * Extends a running hash by items, so that a chain of any length is digested in time proportional to what is new.
 *
 * @param onItem is given the hash and the tokens so far after each item
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

/** Items of the context that a digest counts. */
export const countItems = (items: readonly Item[]): number => items.filter((item) => !isToolList(item)).length;

/** Hex SHA-256 of a folded line together with the request's own instructions, tools and reasoning configuration. */
export function sealLine(line: string, context: Omit<ModelContext, 'items'>): string {
  const tools = Array.isArray(context.tools) && context.tools.length === 0 ? null : (context.tools ?? null);
  const fields = [context.instructions || null, tools, context.reasoning ?? null];
  return createHash('sha256').update(line).update(canonicalJson(fields)).digest('hex');
}

/** Hex SHA-256 over the identity of every item, in order, and over instructions, tools and reasoning configuration. */
export function contextDigest(context: ModelContext): string {
  return sealLine(fold('', context.items).line, context);
}

/** What a test lists of a conversation: a string is a user message, a response stands for its output items. */
export type ExpectedItem = string | Item | readonly Item[] | { readonly output: readonly unknown[] };

export interface ExpectedContext extends Omit<ModelContext, 'items'> {
  items: string | readonly ExpectedItem[];
}

function flatten(item: ExpectedItem): readonly Item[] {
  if (typeof item === 'string' || Array.isArray(item)) return inputItems(item);
  if ('output' in item && Array.isArray(item.output) && !('call_id' in item)) return item.output as Item[];
  return [item as Item];
}

/**
 * The digest the simulated model reports for this context: 16 hex digits, to be compared with `digestOf`.
 *
 * @example expectedDigest({ items: ['first', firstResponse, 'second'], instructions: 'Be brief.' })
 */
export function expectedDigest(context: ExpectedContext): string {
  const items = typeof context.items === 'string' ? inputItems(context.items) : context.items.flatMap(flatten);
  return contextDigest({ ...context, items }).slice(0, 16);
}

const IN_TEXT = /digest=([0-9a-f]{16})/;
const IN_CALL = /^call_([0-9a-f]{16})_/;

/**
 * The digest in an answer: from a text, or from a response object's message text, else from its tool calls' ids.
 * Null when there is none.
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
