import type { Random } from './random.ts';

/**
 * JSON text as a tree, so that it can be mutated and shrunk. Text that `JSON.stringify` cannot write, or that is too
 * long to store in a finding, is an object with the single key `$` and its arguments:
 *
 * - `raw`: text inserted unchanged, such as `1E400`
 * - `deep`: `n` levels of `[` or `{"a":`
 * - `long`: a string of `n` times `text`
 * - `many`: an array of `n` times `of`; `keys`: an object of `n` members
 * - `pairs`: an object by its members, so that a name may occur twice
 */
export type Tree = null | boolean | number | string | Tree[] | { [key: string]: Tree };

const isSpecial = (tree: Tree): tree is { [key: string]: Tree } & { $: string } =>
  typeof tree === 'object' && tree !== null && !Array.isArray(tree) && typeof tree.$ === 'string';

/** Maximum length of a text, in characters. */
const LONGEST = 48_000_000;
const times = (n: Tree | undefined, length: number) =>
  Math.max(0, Math.min(Number(n) || 0, Math.floor(LONGEST / Math.max(1, length))));

/** Returns the JSON text of a tree; not always valid JSON. */
export function render(tree: Tree): string {
  if (typeof tree !== 'object' || tree === null) return JSON.stringify(tree);
  if (Array.isArray(tree)) return `[${tree.map(render).join(',')}]`;
  if (!isSpecial(tree)) return members(Object.entries(tree));
  switch (tree.$) {
    case 'raw':
      return String(tree.text ?? '');
    case 'deep': {
      const [open, close] = tree.of === '{' ? ['{"a":', '}'] : ['[', ']'];
      const n = times(tree.n, 6);
      return `${open.repeat(n)}${tree.of === '{' ? '1' : ''}${close.repeat(n)}`;
    }
    case 'long': {
      const text = JSON.stringify(String(tree.text ?? 'a')).slice(1, -1);
      return `"${text.repeat(times(tree.n, text.length))}"`;
    }
    case 'many': {
      const one = render(tree.of ?? null);
      return `[${Array.from({ length: times(tree.n, one.length) }, () => one).join(',')}]`;
    }
    case 'keys': {
      const one = render(tree.of ?? null);
      return `{${Array.from({ length: times(tree.n, one.length + 10) }, (_, n) => `"k${n}":${one}`).join(',')}}`;
    }
    case 'pairs':
      return members(Array.isArray(tree.pairs) ? (tree.pairs as [string, Tree][]) : []);
    default:
      return 'null';
  }
}

const members = (pairs: readonly (readonly [string, Tree])[]) =>
  `{${pairs.map(([key, value]) => `${JSON.stringify(String(key))}:${render(value ?? null)}`).join(',')}}`;

const oddKeys = [
  '__proto__',
  'constructor',
  'prototype',
  'toString',
  'hasOwnProperty',
  'then',
  'toJSON',
  'valueOf',
  '',
  ' ',
  '\0',
  'length',
  '\ud800',
  'type',
  'id',
];
const oddStrings = [
  '',
  ' ',
  '\0',
  'a\0b',
  '\ud800',
  '\udc00x',
  '\u2028\u2029',
  '\ufeff',
  '__proto__',
  'constructor',
  'toString',
  'null',
  'undefined',
  '\r\n\r\n',
  'event: x\ndata: y\n\n',
  '%00%ff',
  '../../etc/passwd',
  '{{7*7}}',
  "' or 1=1 --",
  'response.completed',
  'item_reference',
  'compaction',
  'function_call',
  'error',
];
const oddNumbers = ['1E400', '-1E400', '-0', '18446744073709551616', '9007199254740993', '1e-400', '0.1e1', '1.0'];
const notJson = [
  'NaN',
  'Infinity',
  'undefined',
  '',
  '01',
  '+1',
  "'a'",
  '"\\ud800"',
  '"\\u0000"',
  '"\\x"',
  '/**/1',
  '"a',
];

/** Returns a value that a reader may not expect. */
export function odd(r: Random): Tree {
  return r.weighted<() => Tree>([
    [3, () => null],
    [2, () => r.pick([true, false])],
    [3, () => r.pick([0, -1, 1, 1.5, 1e21, 2 ** 31, -(2 ** 53)])],
    [4, () => r.pick(oddStrings)],
    [2, () => ({ $: 'raw', text: r.pick(oddNumbers) })],
    [1, () => ({ $: 'raw', text: r.pick(notJson) })],
    [2, () => []],
    [2, () => ({})],
    [2, () => [null]],
    [1, () => [[]]],
    [2, () => ({ type: r.pick([...oddKeys, ...oddStrings]) })],
    [2, () => ({ $: 'pairs', pairs: [[r.pick(oddKeys), r.pick<Tree>([null, {}, 'x', { a: 1 }])]] })],
    [
      1,
      () => ({
        $: 'pairs',
        pairs: [
          [r.pick(['type', 'id', 'role']), 'message'],
          [r.pick(['type', 'id']), null],
        ],
      }),
    ],
    [1, () => ({ $: 'deep', n: r.pick([20, 200, 1200, 9000, 60_000]), of: r.pick(['[', '{']) })],
    [0.5, () => ({ $: 'long', n: r.pick([300, 5000, 70_000, 600_000]), text: r.pick(['a', '\u20ac', '\\', '"']) })],
    [0.3, () => ({ $: 'many', n: r.pick([50, 1000, 20_000]), of: r.pick<Tree>([null, [], {}, 'a', { type: 'x' }]) })],
    [0.3, () => ({ $: 'keys', n: r.pick([50, 1000, 20_000]), of: r.pick<Tree>([null, 1, 'a', {}]) })],
  ])();
}

interface Place {
  parent: Tree[] | { [key: string]: Tree };
  key: string | number;
}

/** Returns at most `most` places of a tree, none of them inside a special object. */
function placesOf(root: Tree, most = 600): Place[] {
  const places: Place[] = [];
  const open: Tree[] = [root];
  while (open.length > 0 && places.length < most) {
    const tree = open.shift()!;
    if (typeof tree !== 'object' || tree === null || isSpecial(tree)) continue;
    const keys: (string | number)[] = Array.isArray(tree) ? [...tree.keys()] : Object.keys(tree);
    for (const key of keys) {
      places.push({ parent: tree, key });
      open.push((tree as { [key: string]: Tree })[key]!);
    }
  }
  return places;
}

/** Names of fields that this project reads, where a wrong value has the most effect. */
const readFields = new Set([
  'type',
  'id',
  'role',
  'content',
  'output',
  'item',
  'items',
  'input',
  'response',
  'error',
  'code',
  'message',
  'status',
  'call_id',
  'usage',
  'headers',
  'model',
  'metadata',
  'client_metadata',
  'tools',
  'previous_response_id',
  'sequence_number',
  'output_index',
  'encrypted_content',
]);

/** Changes one part of a tree in place. */
function mutateOnce(r: Random, root: Tree): void {
  const places = placesOf(root);
  if (places.length === 0) return;
  const read = places.filter(({ key }) => readFields.has(String(key)));
  const { parent, key } = read.length > 0 && r.chance(0.6) ? r.pick(read) : r.pick(places);
  const list = Array.isArray(parent) ? parent : null;
  const fields = parent as { [key: string]: Tree };
  switch (r.int(9)) {
    case 0:
    case 1:
    case 2:
      fields[key] = odd(r);
      return;
    case 3:
      if (list) list.splice(Number(key), 1);
      else delete fields[key];
      return;
    case 4:
      if (list) list.splice(r.int(list.length + 1), 0, structuredClone(list[Number(key)]!));
      else fields[r.pick(['type', 'id', 'item', 'response', 'extra'])] = structuredClone(fields[key]!);
      return;
    case 5:
      if (list) list.splice(r.int(list.length + 1), 0, odd(r));
      else {
        const pairs = Object.entries(fields);
        pairs.splice(r.int(pairs.length + 1), 0, [r.pick(oddKeys), odd(r)]);
        for (const name of Object.keys(fields)) delete fields[name];
        Object.assign(fields, { $: 'pairs', pairs });
      }
      return;
    case 6:
      fields[key] = r.pick<(value: Tree) => Tree>([
        (value) => [value],
        (value) => ({ item: value }),
        (value) => [value, value],
      ])(fields[key]!);
      return;
    case 7: {
      const other = r.pick(places);
      const held = structuredClone(fields[key]!);
      fields[key] = structuredClone((other.parent as { [key: string]: Tree })[other.key] ?? null);
      if (r.chance(0.5)) (other.parent as { [key: string]: Tree })[other.key] = held;
      return;
    }
    default: {
      const value = fields[key];
      if (typeof value === 'string')
        fields[key] = r.pick([value.slice(0, r.int(value.length + 1)), value + r.pick(oddStrings)]);
      else if (typeof value === 'number') fields[key] = r.pick([-value, value + 1, value * 1e9]);
      else fields[key] = odd(r);
    }
  }
}

/** Replaces one item of a list, or adds one: lists of items are the most widely read part of a request. */
export function spoilItems(r: Random, tree: Tree): Tree {
  const holder: Tree[] = [structuredClone(tree)];
  const places = placesOf(holder).filter(
    ({ key }) => key === 'item' || key === 'output' || key === 'input' || key === 'content',
  );
  const place = places.length > 0 ? r.pick(places) : null;
  if (!place) return holder[0]!;
  const fields = place.parent as { [key: string]: Tree };
  const there = fields[place.key];
  if (Array.isArray(there)) there.splice(r.int(there.length + 1), r.int(2), odd(r));
  else fields[place.key] = odd(r);
  return holder[0]!;
}

/** Returns a changed copy of a tree. */
export function mutate(r: Random, tree: Tree, changes: number): Tree {
  const holder: Tree[] = [structuredClone(tree)];
  for (let n = 0; n < changes; n += 1)
    mutateOnce(r, holder[0] !== null && typeof holder[0] === 'object' ? holder[0]! : holder);
  return holder[0] ?? null;
}

/** A change of bytes; its place is a fraction of the whole length. */
export interface Edit {
  [key: string]: Tree;
  at: number;
  do: 'flip' | 'insert' | 'delete' | 'repeat' | 'cut';
  /** Bytes in latin1. */
  text: string;
  n: number;
}

const oddBytes = [
  '\0',
  '\xff',
  '\xc0\x80',
  '\xed\xa0\x80',
  '\xef\xbb\xbf',
  '\x80',
  '"',
  '{',
  '}',
  '[',
  ']',
  ',',
  ':',
  '\\',
  '\r\n',
  '\n\n',
];

export function editOf(r: Random): Edit {
  return {
    at: Math.round(r.next() * 1e4) / 1e4,
    do: r.pick(['flip', 'flip', 'insert', 'insert', 'delete', 'repeat', 'cut']),
    text: r.pick(oddBytes),
    n: 1 + r.int(r.pick([1, 4, 40])),
  };
}

/** Applies edits in order. */
export function edited(bytes: Buffer, edits: readonly Partial<Edit>[]): Buffer {
  let now = bytes;
  for (const { at = 0, do: how, text = '', n = 1 } of edits) {
    const place = Math.floor(Number(at) * now.length);
    const [before, after] = [now.subarray(0, place), now.subarray(place)];
    const put = Buffer.from(String(text), 'latin1');
    if (how === 'flip' && place < now.length) {
      now = Buffer.from(now);
      now[place]! ^= 1 << (Number(n) % 8);
    } else if (how === 'insert') now = Buffer.concat([before, put, after]);
    else if (how === 'delete') now = Buffer.concat([before, after.subarray(Number(n))]);
    else if (how === 'repeat') now = Buffer.concat([before, after.subarray(0, Number(n)), after]);
    else if (how === 'cut') now = before;
  }
  return now;
}

/** Returns the stored size of a tree, for shrinking. */
export const sizeOf = (tree: Tree): number => JSON.stringify(tree).length;

/** Yields smaller trees that a tree may be shrunk to, the largest reduction first. */
export function* smaller(tree: Tree): Generator<Tree> {
  if (Array.isArray(tree)) {
    for (let part = tree.length; part >= 1; part = Math.floor(part / 2)) {
      for (let at = 0; at < tree.length; at += part) {
        if (part < tree.length || tree.length === 1) yield [...tree.slice(0, at), ...tree.slice(at + part)];
      }
    }
    for (const [at, value] of tree.entries()) {
      for (const less of smaller(value)) yield tree.with(at, less);
    }
  } else if (typeof tree === 'object' && tree !== null) {
    const special = isSpecial(tree);
    for (const key of Object.keys(tree)) {
      if (special && key === '$') continue;
      const { [key]: _left, ...rest } = tree;
      yield rest;
    }
    if (!special) for (const value of Object.values(tree)) if (typeof value === 'object') yield value;
    for (const [key, value] of Object.entries(tree)) {
      if (special && key === '$') continue;
      for (const less of smaller(value)) yield { ...tree, [key]: less };
    }
  } else if (typeof tree === 'string' && tree.length > 1) {
    for (let part = Math.ceil(tree.length / 2); part >= 1; part = part === 1 ? 0 : Math.ceil(part / 2)) {
      for (let at = 0; at < tree.length; at += part) yield tree.slice(0, at) + tree.slice(at + part);
      if (tree.length / part > 64) break;
    }
  } else if (typeof tree === 'number' && tree > 1) {
    yield Math.floor(tree / 2);
    yield Math.floor(tree * 0.9);
  }
}
