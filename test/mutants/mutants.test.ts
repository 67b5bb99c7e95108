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

/** What a module's `out` is with each mutant awake in turn, by what it changes. */
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

describe('the mutants of a text', () => {
  it('change one thing each, and all sleep in one text that behaves as before', () => {
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
    ['texts are not subtracted', "f(a + 'x')", ["f(a + 'x') → "]],
    ['a negation', 'f(!a)', ['f(!a) → ', '!a → a']],
    ['a boolean', 'f(true)', ['f(true) → ', 'true → false']],
    ['an await', 'const f = async () => { await a(); }', ['await a(); → ', 'await a() → a()']],
    ['what is deleted is left alone', 'f(delete a?.b)', ['f(delete a?.b) → ']],
    ['a log line is no behaviour', "log.info('x'); options.logger.warn({}, 'y')", []],
    ['a type is no value', 'const a: true | "x" = f as unknown as (false)', []],
  ])('%s', (_, text, expected) => {
    expect(changes(text)).toEqual(expected);
  });

  it('take entries out of tables of the module, and of every object of a machine', () => {
    expect(changes("const table = { a: 'x' }")).toEqual(["a: 'x' → ", "'x' → ''"]);
    expect(changes('const f = () => ({ a: b })')).toEqual(['({ a: b }) → null']);
    expect(changes('const f = () => ({ a: b })', { tables: true })).toContain('a: b → ');
  });

  it('know their line', () => {
    expect(of('\n\nf(true);').mutants.map(({ line, operator }) => `${line} ${operator}`)).toEqual([
      '3 statement',
      '3 boolean',
    ]);
  });
});

describe('the mutants of SQL', () => {
  const mutated = (sql: string) =>
    sqlMutations(sql).map(({ start, end, replacement }) =>
      (sql.slice(0, start) + replacement + sql.slice(end)).replace(/\s+/g, ' ').trim(),
    );

  it('turn and take out conditions, and take out what is assigned', () => {
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

  it('reach locks, ifs and defaults', () => {
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

  it('are none of a text that is no SQL', () => {
    expect(sqlMutations('a = b and c')).toEqual([]);
  });
});

describe('the mutants of the project', () => {
  let all: Catalogue;
  beforeAll(async () => {
    all = await catalogue();
  });

  it('are many, in every area', () => {
    const reached = new Set(all.mutants.map((mutant) => areaOf(mutant)!.name));
    expect(areas.map(({ name }) => name).filter((name) => !reached.has(name))).toEqual([]);
    expect(all.mutants.length).toBeGreaterThan(5_000);
    expect(ROOT.length).toBeGreaterThan(0);
  });

  it('have a number of their own each', () => {
    expect(new Set(all.mutants.map((mutant) => all.numberOf(mutant))).size).toBe(all.mutants.length);
    const some = all.mutants[17]!;
    expect(all.byNumber(all.numberOf(some))).toBe(some);
  });

  it.each(equivalents)('hold the equivalent one in $file: $original', ({ file, original, mutant, reason }) => {
    const fits = (each: Mutant) => each.file === file && each.original === original && each.mutant === mutant;
    expect(all.mutants.filter(fits)).not.toEqual([]);
    expect(reason).toMatch(/\.$/);
  });
});
