import { beforeAll, describe, expect, it } from 'vitest';
import { areaOf, areas } from './areas.ts';
import { equivalents } from './equivalent.ts';
import { type Mutant, mutantsOf } from './generate.ts';
import { sqlMutations } from './sql.ts';
import { type Catalogue, catalogue, ROOT } from './workbench.ts';

const of = (text: string, options: { tables?: boolean; sql?: boolean } = {}) => {
  const { tables = false, sql = false } = options;
  return mutantsOf('a.ts', text, { tables, sql: sql ? () => true : null });
};
const changes = (text: string, options = {}) =>
  of(text, options).mutants.map(({ original, mutant }) => `${original} → ${mutant}`);

/** Returns the value of a module's `out` with each mutant active in turn, by the change of the mutant. */
function outcomes(text: string): Record<string, unknown> {
  const { mutants, instrumented } = of(text);
  const body = instrumented(0).replace('export const out', 'const out');
  const run = (awake: number) => {
    try {
      return new Function('$mutant', `${body}; return out;`)((number: number) => number === awake);
    } catch (error) {
      return (error as Error).name;
    }
  };
  expect(run(-1)).toEqual(new Function(`${text.replace('export const out', 'const out')}; return out;`)());
  return Object.fromEntries(mutants.map(({ index, original, mutant }) => [`${original} → ${mutant}`, run(index)]));
}

describe('mutants of a text', () => {
  it('Each mutant changes one thing, and a text with all mutants inactive behaves as before', () => {
    expect(
      outcomes(`
        const a = 2;
        const list = ['x', 'y'];
        const half = (n) => { if (n === 0) return []; list.push('z'); return n > 1 && list; };
        export const out = [half(a), half(0)];`),
    ).toEqual({
      "'x' → ": [['y', 'z'], []],
      "'y' → ": [['x', 'z'], []],
      'n === 0 → true': [[], []],
      'n === 0 → false': [['x', 'y', 'z', 'z'], false],
      "list.push('z'); → ": [['x', 'y'], []],
      'n > 1 && list → n > 1': [true, []],
      'n > 1 && list → list': [['x', 'y', 'z'], []],
      'n > 1 && list → true': [true, []],
      'n > 1 && list → false': [false, []],
      'n > 1 → n >= 1': [['x', 'y', 'z'], []],
      'n > 1 → n <= 1': [false, []],
      'half(a) → ': [[]],
      'half(0) → ': [['x', 'y', 'z']],
    });
  });

  it.each<[string, string, string[]]>([
    ['a default', 'f(a ?? b)', ['f(a ?? b) → ', 'a ?? b → a', 'a ?? b → b']],
    ['a default of nothing', 'f(a ?? null)', ['f(a ?? null) → ', 'a ?? null → null']],
    ['optional chaining', 'f(a?.b?.(c))', ['f(a?.b?.(c)) → ', 'a?.b?.(c) → a.b?.(c)']],
    ['a choice', 'f(a ? b : c)', ['f(a ? b : c) → ', 'a → true', 'a → false']],
    ['a sum', 'f(a + 1)', ['f(a + 1) → ', 'a + 1 → a - 1']],
    ['a sum of texts (no subtraction)', "f(a + 'x')", ["f(a + 'x') → "]],
    ['a negation', 'f(!a)', ['f(!a) → ', '!a → a']],
    ['a boolean', 'f(true)', ['f(true) → ', 'true → false']],
    ['an await', 'const f = async () => { await a(); }', ['await a(); → ', 'await a() → a()']],
    ['a delete (not mutated)', 'f(delete a?.b)', ['f(delete a?.b) → ']],
    ['a log line (not mutated)', "log.info('x'); options.logger.warn({}, 'y')", []],
    ['a type (not mutated)', 'const a: true | "x" = f as unknown as (false)', []],
  ])('The generator gives the expected mutants: %s', (_, text, expected) => {
    expect(changes(text)).toEqual(expected);
  });

  it('Mutants remove entries from tables of the module, and from every object of a machine', () => {
    expect(changes("const table = { a: 'x' }")).toEqual(["a: 'x' → ", "'x' → ''"]);
    expect(changes('const f = () => ({ a: b })')).toEqual(['({ a: b }) → null']);
    expect(changes('const f = () => ({ a: b })', { tables: true })).toContain('a: b → ');
  });

  it('A mutant has the line number of its change', () => {
    expect(of('\n\nf(true);').mutants.map(({ line, operator }) => `${line} ${operator}`)).toEqual([
      '3 statement',
      '3 boolean',
    ]);
  });
});

describe('mutants of SQL', () => {
  const mutated = (sql: string) =>
    sqlMutations(sql).map(({ start, end, replacement }) =>
      (sql.slice(0, start) + replacement + sql.slice(end)).replace(/\s+/g, ' ').trim(),
    );

  it('SQL mutants negate and remove conditions, and remove assignments', () => {
    expect(mutated("update t\n set a = 1,\n b = s.b + 1\n where id = p and x <> 'or'").sort()).toEqual(
      [
        "update t set b = s.b + 1 where id = p and x <> 'or'",
        "update t set a = 1 where id = p and x <> 'or'",
        "update t set a = 1, b = s.b where id = p and x <> 'or'",
        "update t set a = 1, b = s.b - 1 where id = p and x <> 'or'",
        "update t set a = 1, b = s.b + 1 where true and x <> 'or'",
        "update t set a = 1, b = s.b + 1 where id <> p and x <> 'or'",
        'update t set a = 1, b = s.b + 1 where id = p',
        "update t set a = 1, b = s.b + 1 where id = p and x = 'or'",
        "update t set a = 1, b = s.b + 1 where id = p and x <> 'mutant'",
      ].sort(),
    );
  });

  it('SQL mutants cover locks, ifs and defaults', () => {
    expect(mutated('select * from t where id = p for update;')).toContain('select * from t where id = p ;');
    expect(mutated('select 1; if s.a is null then x; end if;')).toEqual(
      expect.arrayContaining([
        'select 1; if false then x; end if;',
        'select 1; if true then x; end if;',
        'select 1; if s.a is not null then x; end if;',
      ]),
    );
    expect(mutated('select coalesce(a, b)').sort()).toEqual(['select ( b)', 'select (a)', 'select coalesce(b, a)']);
  });

  it('A text that is no SQL has no SQL mutants', () => {
    expect(sqlMutations('a = b and c')).toEqual([]);
  });
});

describe('mutants of the project', () => {
  let all: Catalogue;
  beforeAll(async () => {
    all = await catalogue();
  });

  it('The project has many mutants in every area', () => {
    const reached = new Set(all.mutants.map((mutant) => areaOf(mutant)!.name));
    expect(areas.map(({ name }) => name).filter((name) => !reached.has(name))).toEqual([]);
    expect(all.mutants.length).toBeGreaterThan(5_000);
    expect(ROOT.length).toBeGreaterThan(0);
  });

  it('Every function that an area names has mutants of that area', () => {
    const named = areas.flatMap((area) => (area.functions ?? []).map((name) => ({ area, name })));
    const isOf = ({ area, name }: (typeof named)[number]) =>
      all.mutants.some((mutant) => areaOf(mutant) === area && mutant.within.includes(name));
    expect(named.filter((each) => !isOf(each)).map(({ name }) => name)).toEqual([]);
  });

  it('Every mutant has a unique number', () => {
    expect(new Set(all.mutants.map((mutant) => all.numberOf(mutant))).size).toBe(all.mutants.length);
    const some = all.mutants[17]!;
    expect(all.byNumber(all.numberOf(some))).toBe(some);
  });

  it.each(equivalents)(
    'The equivalent mutant in $file still exists: $original',
    ({ file, original, mutant, reason }) => {
      const fits = (each: Mutant) => each.file === file && each.original === original && each.mutant === mutant;
      expect(all.mutants.filter(fits)).not.toEqual([]);
      expect(reason).toMatch(/\.$/);
    },
  );
});
