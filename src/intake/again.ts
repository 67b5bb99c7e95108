import {
  countValues,
  elementsAfter,
  holdsMoreThan,
  type Member,
  membersAfter,
  PartedText,
  parseExact,
  repeatedName,
  type Span,
  type Text,
  textOf,
  withSpans,
} from '../json.ts';
import {
  chainOver,
  contextFingerprint,
  fieldText,
  plausibleCounts,
  plausiblePlaces,
  requestFingerprint,
} from '../transcript/items.ts';
import { MOST_NAMES, namesIn } from '../transcript/provider-ids.ts';
import {
  comparisonOf,
  hasHostedTools,
  lookedAt,
  noNames,
  readItem,
  referencesIn,
  shapeOf,
} from '../transcript/read.ts';
import type { Fingerprint, Item, Names, ReadItem } from '../transcript/types.ts';
import {
  Arrival,
  type Beginning,
  bounds,
  cut,
  type Flat,
  itemsOf,
  marksOf,
  membersIn,
  placesOf,
  validateRequest,
} from './read.ts';

/**
 * Reading a body that repeats an earlier one and adds to it. Most clients resend their whole conversation with each turn, as
 * the same bytes and some more. The items that were read before are recognised by comparing text, and only what follows is
 * scanned, parsed and hashed. In any case of doubt nothing is returned, and the body is read as a whole. The result is the
 * same either way.
 */

/** Members that are large, and the same in every turn of a conversation. */
const LASTING = new Set(['instructions', 'tools', 'text']);

/** Lengths between which a lasting member is remembered, in characters. A client may send one of any length. */
const LONG = 512;
const LONGEST_LASTING = 131_072;

/** What is known of a lasting member, by its text. It was valid, and named no object at the provider. */
interface Facts {
  canonical: string | null;
  hostedTools: boolean;
}

/** Most members whose facts are remembered. */
const MOST_FACTS = 64;

/** Longest body that is remembered, in characters. */
const LONGEST = 16 * 2 ** 20;

/** Most characters, and most values and member names, after the known items: more are read in a thread. */
const LONGEST_REST = 1_048_576;
const MOST_ADDED = 8_192;

/** Returns a concatenation of the two, of the same kind as the first. */
function joined<A extends Uint32Array | Uint8Array>(one: A, other: ArrayLike<number>): A {
  const both = new (one.constructor as new (length: number) => A)(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both;
}

/** Returns whether a longer body can be read on top of this one. */
function isExtensible({ bare, marks, shape, text, memberNames, names }: Flat): boolean {
  if (bare || marks.length === 0 || shape === 'delta' || text.length > LONGEST) return false;
  // It also stands in place of bytes that are not UTF-8. A text in parts was read on top of one without it.
  if (typeof text === 'string' && text.includes('\ufffd')) return false;
  if (new Set(memberNames).size < memberNames.length || names.foreign !== null) return false;
  return [...names.owned.values()].every((path) => path.startsWith('input['));
}

/** Returns the names of a body's items, those that were read before and the new ones; null if they need a closer look. */
function namesOfAll(known: Flat, newItems: readonly Item[]): Names | null {
  const { owned, foreign } = namesIn({ input: newItems });
  if (foreign !== null) return null;
  const all = new Map(known.names.owned);
  for (const [id, path] of owned) {
    if (!all.has(id))
      all.set(
        id,
        path.replace(/\d+/, (index) => String(Number(index) + known.marks.length)),
      );
  }
  return all.size > MOST_NAMES ? null : { owned: all, foreign: null };
}

/**
 * Returns the places of a body, of which those of the known beginning are not computed again.
 *
 * @param chain chain over all items
 */
function placesOfAll(known: Flat, added: readonly ReadItem[], chain: readonly Fingerprint[]): Fingerprint[] {
  const { list } = itemsOf(known);
  const places = cut(known.places);
  const before = new Map(plausibleCounts(list).map((count, nth) => [count, places[nth]!]));
  return plausiblePlaces([...list, ...added], chain, before);
}

/** A body that was read. It is the beginning of the next one up to the end of its last item. */
interface Known extends Beginning {
  readonly flat: Flat;
  /** The names of objects at the provider were collected. */
  readonly named: boolean;
}

const shifted = <S extends Span>(span: S, by: number): S => ({ ...span, start: span.start + by, end: span.end + by });

/** Bodies that were read last, by conversation. */
export class KnownBodies {
  readonly #budget: number;
  readonly #bodies = new Map<string, Known>();
  readonly #facts = new Map<string, Facts>();
  #chars = 0;

  /** @param budget most characters of text that are remembered, over all conversations */
  constructor(budget: number) {
    this.#budget = budget;
  }

  /** Number of characters remembered. */
  get chars(): number {
    return this.#chars;
  }

  has(conversation: string): boolean {
    return this.#bodies.has(conversation);
  }

  /**
   * Remembers a body that was read, in place of the conversation's earlier one.
   *
   * @param named true if the names of objects at the provider were collected
   */
  remember(conversation: string, flat: Flat, named: boolean): void {
    this.#forget(conversation);
    if (!isExtensible(flat)) return;
    const { text, spans } = flat;
    this.#bodies.set(conversation, { flat, named, text, length: spans[spans.length - 1]! });
    this.#chars += flat.text.length;
    for (const oldest of this.#bodies.keys()) {
      if (this.#chars <= this.#budget) break;
      this.#forget(oldest);
    }
  }

  #forget(conversation: string): void {
    const known = this.#bodies.get(conversation);
    if (!known) return;
    this.#bodies.delete(conversation);
    this.#chars -= known.flat.text.length;
  }

  /**
   * Returns the receiver of a conversation's next body. `extended` reads it.
   *
   * @param conversation null if it is unknown
   * @param named true if the names of objects at the provider are to be collected
   */
  receive(conversation: string | null, named: boolean): Arrival<Known> {
    const known = conversation === null ? undefined : this.#bodies.get(conversation);
    return new Arrival(known?.named === named ? known : null);
  }

  /**
   * Reads a body that repeats all items of the conversation's last one, in the same bytes and at the same place.
   *
   * @returns null if it does not, if it is not valid, or if it must be read as a whole for another reason
   */
  extended({ beginning, rest, bytes }: Arrival<Known>): Flat | null {
    return beginning === null || rest === null ? null : this.#extended(beginning, rest, bytes);
  }

  /** Like `extended`, for a body that was received and decoded. */
  read(conversation: string, text: string, bytes: number, named: boolean): Flat | null {
    const known = this.#bodies.get(conversation);
    if (known?.named !== named) return null;
    if (text.length - known.length > LONGEST_REST) return null;
    let at = 0;
    for (const part of PartedText.of(known.text, known.length)) {
      if (text.slice(at, at + part.length) !== part) return null;
      at += part.length;
    }
    // A copy, because a slice would keep the whole text.
    return this.#extended(known, Buffer.from(text.slice(at)).toString(), bytes);
  }

  #extended(known: Known, rest: string, bytes: number): Flat | null {
    if (rest.length > LONGEST_REST) return null;
    if (holdsMoreThan(rest, MOST_ADDED)) return null;
    try {
      return this.#extend(known, rest, bytes);
    } catch {
      // Reading the whole body finds the same fault, and describes it.
      return null;
    }
  }

  /** @param rest text after the last item that is known */
  #extend({ flat: known, named, length }: Known, rest: string, bytes: number): Flat | null {
    const added = elementsAfter(rest, 0);
    const after = added && membersAfter(rest, added.end + 1);
    if (!after) return null;
    const text = PartedText.continuing(known.text, length, rest);
    const before = membersIn(known);
    const nth = before.findIndex(({ name }) => name === 'input');
    const members = [
      ...before.slice(0, nth),
      { ...before[nth]!, end: length + added.end + 1 },
      ...after.parts.map((member) => ({ ...shifted(member, length), from: member.from + length })),
    ];
    if (new Set(members.map(({ name }) => name)).size < members.length || members.length > bounds.members) return null;

    const newText = added.parts.length === 0 ? '[]' : `[${rest.slice(added.parts[0]!.start, added.end)}]`;
    const values = this.#values(known, newText, rest.slice(added.end));
    const besides = this.#besides(text, members, named);
    if (values === null || besides === null || (named && repeatedName(newText) !== null)) return null;
    const newItems = parseExact(newText) as Item[];
    const names = named ? namesOfAll(known, newItems) : noNames;
    if (names === null || known.marks.length + newItems.length > bounds.items) return null;
    // A lane would be refused over HTTP.
    if (besides.body.stream_id != null) return null;
    const body: Record<string, unknown> = { ...besides.body, input: newItems };
    validateRequest(body);
    besides.learn();

    const items = newItems.map((value, at) => readItem({ value, json: textOf(rest, added.parts[at])! }));
    // Before their own hashes are asked for, which are among these.
    const others = items.map(({ accepted }) => accepted.slice(1));
    const chain = known.chain + chainOver(items, cut(known.chain, known.marks.length)[0]!).slice(1).join('');
    const othersBefore = [known.othersBefore.at(-1)!];
    for (const each of others) othersBefore.push(othersBefore.at(-1)! + each.length);
    const shape = shapeOf(body, newItems);
    const hashes = known.hashes + items.map(({ hash }) => hash).join('');
    return {
      text,
      bytes,
      envelope: '',
      values,
      body: lookedAt(body),
      memberNames: members.map(({ name }) => name),
      memberPlaces: placesOf(members),
      spans: joined(
        known.spans,
        added.parts.flatMap(({ start, end }) => [length + start, length + end]),
      ),
      bare: false,
      hashes,
      chain,
      places: placesOfAll(known, items, cut(chain)).join(''),
      others: known.others + others.flat().join(''),
      othersBefore: joined(known.othersBefore.subarray(0, -1), othersBefore),
      marks: joined(known.marks, items.map(marksOf)),
      shape: shape === 'fresh' ? known.shape : shape,
      hostedTools: besides.hostedTools,
      requestFp: requestFingerprint(besides.fields, cut(hashes)),
      contextFp: contextFingerprint(besides.fields),
      references: [...new Set([...known.references, ...referencesIn({ input: newItems })])],
      comparison: comparisonOf(body),
      names,
    };
  }

  /** Returns the number of values in a body, or more; null when it may exceed a bound. */
  #values(known: Flat, ...parts: string[]): number | null {
    let { values } = known;
    for (const part of parts) {
      // In the body the items are one level deeper.
      const counted = countValues(part, { levels: bounds.levels - 1, values: bounds.values });
      if (typeof counted === 'string') return null;
      values += counted;
    }
    return values > bounds.values ? null : values;
  }

  /**
   * Reads the members other than `input`. Lasting ones that were read before are not parsed, and are not in the result's
   * `body`. `learn` remembers those that were, and is to be called once the body is valid.
   *
   * @returns null if one of them names, or may name, an object at the provider
   */
  #besides(text: Text, members: readonly Member[], named: boolean) {
    const keys = new Map<string, string>();
    const known = new Map<string, Facts>();
    for (const { name, start, end } of members) {
      if (!LASTING.has(name) || end - start <= LONG || end - start > LONGEST_LASTING) continue;
      const key = `${named}:${name}:${text.slice(start, end)}`;
      const facts = this.#facts.get(key);
      if (facts) known.set(name, facts);
      else keys.set(name, key);
    }
    const leftOut = members.filter(({ name }) => name === 'input' || known.has(name));
    const shortened = withSpans(
      text,
      leftOut.map(({ start, end }) => ({ start, end, json: 'null' })),
    );
    const body = parseExact(shortened) as Record<string, unknown>;
    for (const { name } of leftOut) delete body[name];
    if (named) {
      const { owned, foreign } = namesIn(body);
      if (foreign !== null || owned.size > 0 || repeatedName(shortened) !== null) return null;
    }
    const hostedTools = known.get('tools')?.hostedTools ?? hasHostedTools(body);
    const fields = new Map<string, string>();
    for (const { name } of members) {
      const canonical = known.get(name)?.canonical ?? fieldText(name, body[name]);
      if (canonical !== null) fields.set(name, canonical);
    }
    const learn = () => {
      for (const [name, key] of keys) this.#learn(key, { canonical: fields.get(name) ?? null, hostedTools });
    };
    return { body, fields, hostedTools, learn };
  }

  #learn(key: string, facts: Facts): void {
    this.#facts.set(key, facts);
    if (this.#facts.size > MOST_FACTS) this.#facts.delete(this.#facts.keys().next().value!);
  }
}
