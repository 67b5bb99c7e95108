import { hash } from 'node:crypto';
import { hashable, identitiesOf, identitiesShown, identity, looseIdentity, typeOf } from './items.ts';
import type { Fingerprint, Item, ItemHash, ReadItem, ReadItems } from './types.ts';

/**
 * Matching of a request's items with the turns that they continue.
 *
 * A provider seals an item separately for each event that shows it, may list items that it did not stream, and may change
 * ids between the two. So one turn is known in several forms, and a client may send back any of them, turn by turn. This
 * has two consequences. A fingerprint over everything cannot be looked up: the **place** fingerprint covers only the
 * client-made items and the last item, and selects candidates. The decision then compares item by item: each known item is
 * a set of accepted hashes (its **forms**), and a request continues a turn when every item of the turn's line accepts the
 * request's item at its position.
 */

/** Hashes accepted for one known item. */
type Accepted = readonly ItemHash[];

/** Items that one turn added to its line. */
export interface TurnForms {
  input: readonly Accepted[];
  /** Alternatives for the output: usually one; two when the terminal event listed other items than were streamed. */
  outputs: readonly (readonly Accepted[])[];
  /**
   * Alternatives for the start of the line after the provider compacted the context. Clients send either one of these or
   * the whole line, compaction included. Empty without a compaction.
   */
  begins: readonly (readonly Accepted[])[];
}

/** Forms of a turn and of its ancestors. */
export interface Line {
  readonly turnId: string;
  readonly forms: TurnForms;
  readonly parent: Line | null;
  /** The turn has a parent that is not known here. Only a start of the line after a compaction can then be matched. */
  readonly detached?: boolean;
}

export const HASH_CHARS = 22;
const short = (text: string): ItemHash => hash('sha256', hashable(text), 'base64url').slice(0, HASH_CHARS);

/** Chain over no items. */
export const EMPTY: Fingerprint = short('');

const clientRoles = new Set(['user', 'system', 'developer']);
const clientTypes = new Set([
  'function_call_output',
  'custom_tool_call_output',
  'computer_call_output',
  'local_shell_call_output',
  'apply_patch_call_output',
  'mcp_approval_response',
]);

/** Returns whether only clients make such an item. Its text is the same in every form of a turn. */
export function isFromClient(item: Item): boolean {
  const type = typeOf(item);
  return type === 'message' ? clientRoles.has(item.role as string) : clientTypes.has(type);
}

/** Returns the hash of an item as a request holds it. */
export function itemHash(item: Item): ItemHash {
  return short(identity(item));
}

/** Returns the hashes under which a client may repeat an item that it made or was shown; the item's own hash is first. */
export const acceptedOf = (item: Item): Accepted => identitiesOf(item).map(short);

/** Part of an item that a chain covers. */
type Link = Pick<ReadItem, 'hash' | 'fromClient'>;

/** Returns the chain after one more item. Items made by a model are skipped. */
const next = (before: Fingerprint, { hash: own, fromClient }: Link): Fingerprint =>
  fromClient ? short(`${before}\n${own}`) : before;

/** Extends a client chain by more items. */
export function extendChain(from: Fingerprint, items: readonly Link[]): Fingerprint {
  return items.reduce(next, from);
}

/** Returns the chains over items: entry n covers the first n. */
export function chainOver(items: readonly Link[]): Fingerprint[] {
  const chain = [EMPTY];
  for (const item of items) chain.push(next(chain.at(-1)!, item));
  return chain;
}

/**
 * Returns the fingerprint of the place after an item of a transcript.
 *
 * @param chain client chain up to the place
 * @param last item before the place
 */
export function placeAfter(chain: Fingerprint, last: Item): Fingerprint {
  return short(`${chain}\n>${looseIdentity(last)}`);
}

/** Most places looked up. The deepest match wins, so the longest prefixes come first. */
const MOST_PLACES = 256;

/** Number of newest items among which a known turn may also have ended after a client-made item. */
const NEWEST = 8;

/**
 * Returns the places in a request's items where a known turn may have ended, deepest first: after items of the model, and
 * among the newest items after any item (a warm-up has no output, and some outputs end like an input).
 */
export function plausiblePlaces(items: readonly ReadItem[], chain: readonly Fingerprint[]): Fingerprint[] {
  const places: Fingerprint[] = [];
  for (let count = items.length; count > 0 && places.length < MOST_PLACES; count -= 1) {
    const last = items[count - 1]!;
    if (count <= items.length - NEWEST && last.fromClient) continue;
    places.push(placeAfter(chain[count]!, last.value));
  }
  return places;
}

const shown = (items: readonly Item[]): Accepted[] => items.map((item) => identitiesShown(item).map(short));

/** Merges two lists of equal length: each item accepts what either one accepts. */
const merged = (one: readonly Accepted[], other: readonly Accepted[]): Accepted[] =>
  one.map((hashes, index) => [...new Set([...hashes, ...other[index]!])]);

/** Returns the forms of an output: one list, or two where the terminal event listed other items than were streamed. */
function alternatives(streamed: readonly Item[], listed: readonly Item[] | null): (readonly Accepted[])[] {
  const [one, other] = [shown(streamed), shown(listed ?? [])];
  if (one.length === other.length) return one.length === 0 ? [] : [merged(one, other)];
  return [one, other].filter((each) => each.length > 0);
}

const isCompaction = (item: Item) => typeOf(item) === 'compaction';
const fromCompaction = (items: readonly Item[]) => items.slice(Math.max(0, items.findLastIndex(isCompaction)));

/**
 * Returns the forms of a turn.
 *
 * @param turn.streamed output items of `response.output_item.done`
 * @param turn.listed output items of the terminal event; null or empty when it listed none
 */
export function formsOf(turn: {
  input: readonly Pick<ReadItem, 'accepted'>[];
  streamed: readonly Item[];
  listed: readonly Item[] | null;
}): TurnForms {
  const { input, streamed, listed } = turn;
  const compacted = [...streamed, ...(listed ?? [])].some(isCompaction);
  return {
    input: input.map(({ accepted }) => accepted),
    outputs: alternatives(streamed, listed),
    begins: compacted ? alternatives(fromCompaction(streamed), listed && fromCompaction(listed)) : [],
  };
}

/** Serialises forms for the store. */
export function encodeForms({ input, outputs, begins }: TurnForms): string {
  return JSON.stringify(begins.length > 0 ? [input, outputs, begins] : [input, outputs]);
}

const isListOf =
  <T>(isEntry: (value: unknown) => value is T) =>
  (value: unknown): value is T[] =>
    Array.isArray(value) && value.every(isEntry);
const areItems = isListOf(isListOf((value): value is ItemHash => typeof value === 'string'));
const areAlternatives = isListOf(areItems);

/** Parses what `encodeForms` wrote; null for any other text, such as that of another version. */
export function decodeForms(text: string): TurnForms | null {
  let stored: unknown;
  try {
    stored = JSON.parse(text);
  } catch {
    return null;
  }
  if (!Array.isArray(stored)) return null;
  const [input, outputs, begins = []] = stored as unknown[];
  return areItems(input) && areAlternatives(outputs) && areAlternatives(begins) ? { input, outputs, begins } : null;
}

/** Relation of a request's items to a line: they continue it after `count` items, or end within it. */
export interface Relation {
  kind: 'continues' | 'within';
  count: number;
}

/**
 * Matches `items` with `hashes` from position `at`. Returns the position after them; -1 when an item differs, infinity when
 * the hashes end first.
 */
function take(items: readonly Accepted[], hashes: readonly ItemHash[], at: number): number {
  for (let index = 0; index < items.length; index += 1) {
    if (at + index >= hashes.length) return Number.POSITIVE_INFINITY;
    if (!items[index]!.includes(hashes[at + index]!)) return -1;
  }
  return at + items.length;
}

/**
 * Compares a request's items with a line. The request continues the line when its first items are exactly the line's, each
 * in any of its forms. It is within the line when it ends before the line does without a difference.
 *
 * @returns null when it neither continues the line nor is within it
 */
export function relate(line: Line, { hashes }: Pick<ReadItems, 'hashes'>): Relation | null {
  const nodes: Line[] = [];
  for (let node: Line | null = line; node; node = node.parent) nodes.push(node);
  const start: ReadonlySet<number> = new Set([0]);
  let places = start;
  let within = false;
  /** Returns the positions reached after any of several lists of items, from any of several positions. */
  const after = (from: ReadonlySet<number>, lists: readonly (readonly Accepted[])[]): Set<number> => {
    const reached = new Set<number>();
    for (const items of lists) {
      for (const at of from) {
        const next = take(items, hashes, at);
        if (next === Number.POSITIVE_INFINITY) within = true;
        else if (next >= 0) reached.add(next);
      }
    }
    return reached;
  };
  for (const { forms, detached } of nodes.reverse()) {
    const asked = detached ? new Set<number>() : after(places, [forms.input]);
    const whole = forms.outputs.length === 0 ? asked : after(asked, forms.outputs);
    places = new Set([...whole, ...after(start, forms.begins)]);
  }
  const count = Math.max(-1, ...places);
  if (count > 0) return { kind: 'continues', count };
  return within && hashes.length > 0 ? { kind: 'within', count: hashes.length } : null;
}

/** Returns how many of a request's first items are exactly the line; null when the request does not continue it. */
export function continuedBy(line: Line, read: Pick<ReadItems, 'hashes'>): number | null {
  const relation = relate(line, read);
  return relation?.kind === 'continues' ? relation.count : null;
}
