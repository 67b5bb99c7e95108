import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  elementsOf,
  elementTexts,
  membersOf,
  memberText,
  nestsDeeperThan,
  PartedText,
  parseExact,
  rawNumber,
  textOf,
  withMembers,
  withSpans,
} from '../src/json.ts';

/** Strings that are difficult for scanners. */
const tricky = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom('"', '\\', '\\"', '}', ']', '{"a":1}', ',', ':', '10', '2', '__proto__', '\u2028', '\ud800', ''),
);
// Some V8 versions confuse names that are a single escape, as in `[{"\"":0,"\\":1},{"a":0,"\n":1}]`. Where a slice is
// compared with JSON.parse, inner names therefore have no escapes.
const plainName = tricky.filter((name) => JSON.stringify(name).length === name.length + 2);
const { json } = fc.letrec<{ json: unknown }>((tie) => ({
  json: fc.oneof(
    { maxDepth: 4 },
    tricky,
    fc.double({ noNaN: true, noDefaultInfinity: true }),
    fc.constantFrom(null, true, false),
    fc.array(tie('json'), { maxLength: 4 }),
    fc.dictionary(plainName, tie('json'), { maxKeys: 4, noNullPrototype: true }),
  ),
}));
const record = fc.dictionary(tricky, json, { noNullPrototype: true });
const spacing = fc.constantFrom(undefined, 1, '\t', '\r\n ');
/** Returns the text with spacing that `JSON.stringify` does not produce. */
const spaced = (value: unknown, space: string | number | undefined, around: string) =>
  around + JSON.stringify(value, null, space) + around;
const around = fc.constantFrom('', ' ', '\n\t');
/** Returns the value that a JSON text represents, with -0 turned into 0 as JSON.stringify writes it. */
const said = (value: unknown) => JSON.parse(JSON.stringify(value)) as unknown;

describe('a text in parts', () => {
  it('A text that was continued in any way has the slices of the same string', () => {
    const step = fc.record({ kept: fc.nat(), added: fc.string({ maxLength: 40 }) });
    fc.assert(
      fc.property(fc.string(), fc.array(step, { maxLength: 30 }), fc.nat(), fc.nat(), (start, steps, one, other) => {
        let text: string | PartedText = start;
        let plain = start;
        for (const { kept, added } of steps) {
          const length = kept % (plain.length + 1);
          text = PartedText.continuing(text, length, added);
          plain = plain.slice(0, length) + added;
          expect(text.length).toBe(plain.length);
        }
        expect(String(text)).toBe(plain);
        const [from, to] = [one % (plain.length + 2), other % (plain.length + 2)];
        expect(text.slice(from, to)).toBe(plain.slice(from, to));
        expect(text.slice(from)).toBe(plain.slice(from));
        expect(PartedText.of(text, from).join('')).toBe(plain.slice(0, from));
      }),
    );
  });

  it('A text that grows in many steps has few parts', () => {
    let text = PartedText.continuing('x'.repeat(100_000), 100_000, '');
    for (let step = 0; step < 2_000; step += 1) text = PartedText.continuing(text, text.length, 'y'.repeat(step % 60));
    expect(PartedText.of(text, text.length).length).toBeLessThan(20);
  });
});

describe('slices of a JSON text', () => {
  it('The slices of an object are its members', () => {
    fc.assert(
      fc.property(record, spacing, around, (value, space, edge) => {
        const text = spaced(value, space, edge);
        const members = membersOf(text);
        expect(new Set(members.keys())).toEqual(new Set(Object.keys(value)));
        for (const [name, span] of members) {
          const slice = textOf(text, span)!;
          expect(slice).toBe(slice.trim());
          expect(JSON.parse(slice)).toEqual(said(Object.getOwnPropertyDescriptor(value, name)!.value));
        }
      }),
    );
  });

  it('The slices of an array are its elements, in order', () => {
    fc.assert(
      fc.property(fc.array(json), spacing, around, (value, space, edge) => {
        const texts = elementTexts(spaced(value, space, edge));
        expect(texts.map((text) => JSON.parse(text) as unknown)).toEqual(said(value));
        expect(texts.every((text) => text === text.trim())).toBe(true);
      }),
    );
  });

  it('Slices keep the written order of integer-like names, which a parsed object does not', () => {
    const text = '{"b":1,"10":2,"9":3,"a":4}';
    expect([...membersOf(text).keys()]).toEqual(['b', '10', '9', 'a']);
    expect(Object.keys(JSON.parse(text))).toEqual(['9', '10', 'b', 'a']);
  });

  it('The last slice of repeated names is used, however the names are escaped', () => {
    expect(memberText(String.raw`{"a":1,"\u0061":2,"b":3}`, 'a')).toBe('2');
    expect(memberText(String.raw`{"a\"":1,"a\\":{"}":2}}`, 'a"')).toBe('1');
    expect(memberText(String.raw`{"a\"":1,"a\\":{"}":2}}`, 'a\\')).toBe('{"}":2}');
  });

  it('Slices work at any depth', () => {
    const deep = '['.repeat(100_000) + ']'.repeat(100_000);
    expect(elementTexts(`[1,${deep},2]`)).toEqual(['1', deep, '2']);
    expect(memberText(`{"a":${deep}}`, 'a')).toBe(deep);
    expect(nestsDeeperThan(deep, 99_999)).toBe(true);
    expect(nestsDeeperThan(deep, 100_000)).toBe(false);
    expect(nestsDeeperThan(`"${'['.repeat(100)}"`, 1)).toBe(false);
  });

  it('Slices of broken text end without an error', () => {
    fc.assert(
      fc.property(record, fc.array(fc.nat(), { maxLength: 4 }), tricky, (value, places, noise) => {
        let text = JSON.stringify([value, value]);
        for (const place of places) {
          const at = place % (text.length + 1);
          text = text.slice(0, at) + noise + text.slice(at + 1);
        }
        for (const broken of [text, text.slice(1), text.slice(0, -2), text.slice(1, text.length / 2)]) {
          for (const { start, end } of [...elementsOf(broken), ...membersOf(broken).values()]) {
            expect(start).toBeLessThanOrEqual(end);
            expect(end).toBeLessThanOrEqual(broken.length);
          }
          withMembers(broken, new Map([['a', '1']]));
          nestsDeeperThan(broken, 10);
        }
      }),
    );
    expect(membersOf(String.raw`{"\u00":1}`).size).toBe(1);
    expect(elementsOf('[,]')).toEqual([]);
    expect(elementsOf('[1')).toEqual([{ start: 1, end: 2 }]);
    expect(elementsOf('{}')).toEqual([]);
    expect(membersOf('[]').size).toBe(0);
    expect(membersOf('').size).toBe(0);
  });

  it('Slicing takes time linear in the length of the text', () => {
    const quotes = JSON.stringify({ a: '\\"'.repeat(500_000), b: '\\'.repeat(1_000_000) });
    expect(membersOf(quotes).size).toBe(2);
    expect(rawNumber(parseExact(`1${'0'.repeat(500_000)}1`))).toHaveLength(500_002);
  });
});

describe('changed members', () => {
  it('A changed member changes no other', () => {
    const changes = fc.dictionary(tricky, fc.option(json, { nil: null }), { noNullPrototype: true });
    fc.assert(
      fc.property(record, changes, spacing, around, (object, given, space, edge) => {
        const wanted = new Map(Object.entries(object).map(([name, value]) => [name, said(value)]));
        const texts = new Map<string, string | null>();
        for (const [name, change] of Object.entries(given)) {
          texts.set(name, change === null ? null : JSON.stringify(change));
          if (change === null) wanted.delete(name);
          else wanted.set(name, said(change));
        }
        const changed = withMembers(spaced(object, space, edge), texts);
        expect(() => JSON.parse(changed)).not.toThrow();
        const members = [...membersOf(changed)].map(
          ([name, span]) => [name, JSON.parse(textOf(changed, span)!)] as const,
        );
        expect(new Map(members)).toEqual(wanted);
      }),
    );
  });

  it('A change leaves the rest of the text as it was written', () => {
    const text = String.raw` { "\u0061" : 1.0 ,
  "10":-0, "b":[ 1E400 ], "c":"\/" } `;
    expect(withMembers(text, new Map())).toBe(text);
    expect(withMembers(text, new Map([['b', null]]))).toBe(text.replace(`, "b":[ 1E400 ]`, ''));
    expect(withMembers(text, new Map([['a', '2']]))).toBe(text.replace('1.0', '2'));
    expect(withMembers(text, new Map([['a', null]]))).toBe(text.replace(/"\\u0061"[^"]*/, ''));
    expect(withMembers(text, new Map([['d', '3']]))).toBe(text.replace(String.raw`"\/" }`, String.raw`"\/","d":3 }`));
  });

  it('A member can be added to an empty object and to a text that is no object', () => {
    expect(withMembers('{ }', new Map([['a', '1']]))).toBe('{"a":1}');
    expect(withMembers('null', new Map([['a', '1']]))).toBe('{"a":1}');
    expect(withMembers('{"a":1}', new Map([['a', null]]))).toBe('{}');
  });

  it('A change leaves one of repeated names', () => {
    expect(withMembers('{"a":1,"b":2,"a":3}', new Map([['b', '4']]))).toBe('{"b":4,"a":3}');
    expect(withMembers('{"a":1,"b":2,"a":3}', new Map([['a', null]]))).toBe('{"b":2}');
  });
});

it('Spans are replaced in place', () => {
  const text = '[1, {"a":2} ,3]';
  const [one, , three] = elementsOf(text);
  expect(
    withSpans(text, [
      { ...one!, json: '"x"' },
      { ...three!, json: '' },
    ]),
  ).toBe('["x", {"a":2} ,]');
});

describe('exact numbers', () => {
  it.each([
    '9223372036854775807',
    '-9007199254740993',
    '1E400',
    '1e-400',
    '12345678901234.1235',
    '0.1234567890123456789',
  ])('A number that no double represents keeps its digits: %s', (digits) => {
    for (const text of [digits, `[${digits}]`, `{"a": ${digits}}`, `[0,\n${digits}]`]) {
      expect(JSON.stringify(parseExact(text))).toBe(text.replace(/\s/g, ''));
    }
    expect(rawNumber((parseExact(`[${digits}]`) as unknown[])[0])).toBe(digits);
  });

  it.each([
    ['1.0', 1],
    ['-0', -0],
    ['1e-05', 0.00001],
    ['-1.50E+2', -150],
    ['0.00000000000000010', 1e-16],
    ['1000000000000000000000', 1e21],
    ['9007199254740992', 2 ** 53],
    ['0e999', 0],
    ['0e-9999999', 0],
    ['1e0000001', 10],
  ])('A number that a double represents becomes one, whatever its notation: %s', (digits, value) => {
    expect(parseExact(digits)).toBe(value);
    expect(parseExact(`{"a":[${digits}]}`)).toEqual({ a: [value] });
    expect(rawNumber(parseExact(digits))).toBeNull();
  });

  it('The text of any double is read as that double', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        const same = value || 0;
        expect(parseExact(`[${value.toExponential()},${JSON.stringify(value)}]`)).toEqual([same, same]);
      }),
    );
  });
});

it('Other values, and errors, are those of JSON.parse', () => {
  fc.assert(
    fc.property(json, (value) => {
      const text = JSON.stringify([1e21, value]);
      expect(parseExact(text)).toEqual(JSON.parse(text));
    }),
  );
  expect(() => parseExact('{"a":1e5')).toThrow(SyntaxError);
  const deep = `${'['.repeat(100_000)}1e400${']'.repeat(100_000)}`;
  expect(Array.isArray(parseExact(deep))).toBe(true);
});
