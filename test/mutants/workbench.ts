import { createHash } from 'node:crypto';
import { cp, glob, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join, normalize } from 'node:path';
import { holdsSql, holdsTables, isMutated } from './areas.ts';
import { type Mutant, mutantsOf } from './generate.ts';

export const ROOT = join(import.meta.dirname, '..', '..');
const COPIED = [
  ...['bin', 'src', 'machines', 'test', 'docs', 'deploy', 'examples', 'bench'],
  ...[
    'package.json',
    'package-lock.json',
    'build.ts',
    'tsconfig.json',
    'tsconfig.build.json',
    'vitest.config.ts',
    'README.md',
    'CHANGELOG.md',
    '.dockerignore',
  ],
];
/** The numbers of one file's mutants begin at a multiple of this. */
const PER_FILE = 10_000;

/**
 * Source of the module `$mutant`: holds the active mutant, and writes the reached mutants to a file if one is named.
 */
const SWITCH = `import { appendFileSync } from 'node:fs';
const awake = Number(process.env.MUTANT_AWAKE ?? -1);
const reached = process.env.MUTANT_REACHED;
const known = new Set();
export const $mutant = reached
  ? (number) => {
      if (!known.has(number)) {
        known.add(number);
        appendFileSync(reached, number + '\\n');
      }
      return false;
    }
  : (number) => number === awake;
`;

/** All mutants, by the files that they change. */
export interface Catalogue {
  mutants: Mutant[];
  /** Returns the number of a mutant in the instrumented copy. */
  numberOf(mutant: Mutant): number;
  byNumber(number: number): Mutant | undefined;
  instrumented: ReadonlyMap<string, string>;
}

async function filesBelow(root: string, pattern: string): Promise<string[]> {
  const found: string[] = [];
  for await (const path of glob(pattern, { cwd: root })) found.push(path);
  return found.sort();
}

/** Reads the sources and generates every mutant. */
export async function catalogue(root = ROOT): Promise<Catalogue> {
  const files = (await filesBelow(root, '{src,machines}/**/*.ts')).filter(isMutated);
  // A database function that a later migration replaces is never called in its old form.
  const replacedBy = new Map<string, string>();
  for (const file of files.filter((each) => holdsSql.test(each)))
    for (const [, name] of (await readFile(join(root, file), 'utf8')).matchAll(
      /\b(?:drop|create or replace) function (\w+)/g,
    ))
      replacedBy.set(name!, file);
  const mutants: Mutant[] = [];
  const bases = new Map<string, number>();
  const numbered = new Map<number, Mutant>();
  const instrumented = new Map<string, string>();
  for (const [nth, file] of files.entries()) {
    const text = await readFile(join(root, file), 'utf8');
    const isCurrent = (sql: string) => {
      const by = replacedBy.get(/^\s*create function (\w+)/.exec(sql)?.[1] ?? '');
      return by === undefined || by === file;
    };
    const sql = holdsSql.test(file) ? isCurrent : null;
    const mutated = mutantsOf(file, text, { sql, tables: holdsTables.test(file) });
    if (mutated.mutants.length === 0) continue;
    const base = nth * PER_FILE;
    bases.set(file, base);
    for (const mutant of mutated.mutants) numbered.set(base + mutant.index, mutant);
    mutants.push(...mutated.mutants);
    const up = '../'.repeat(file.split('/').length - 1);
    const whole = `import { $mutant } from '${up || './'}mutant-switch.mjs'; ${mutated.instrumented(base)}`;
    // A text that does not parse would fail every test at once.
    mutantsOf(file, whole, { sql: null, tables: false });
    instrumented.set(file, whole);
  }
  return {
    mutants,
    numberOf: ({ file, index }) => bases.get(file)! + index,
    byNumber: (number) => numbered.get(number),
    instrumented,
  };
}

/** Creates a temporary copy of the project with all mutants inactive in it. */
export async function workbench({ instrumented }: Catalogue): Promise<AsyncDisposable & { home: string }> {
  const home = await mkdtemp(join(tmpdir(), 'mutants-'));
  for (const each of COPIED) await cp(join(ROOT, each), join(home, each), { recursive: true });
  await symlink(join(ROOT, 'node_modules'), join(home, 'node_modules'));
  await writeFile(join(home, 'mutant-switch.mjs'), SWITCH);
  for (const [file, text] of instrumented) await writeFile(join(home, file), text);
  return { home, [Symbol.asyncDispose]: () => rm(home, { recursive: true, force: true }) };
}

/** Returns all test files, relative to the project. */
export const testFiles = (root = ROOT): Promise<string[]> => filesBelow(root, 'test/**/*.test.ts');

/**
 * Returns the text of a test file and of everything it loads: its imports, and files that it names by path.
 *
 * @param known texts that were already read, shared between calls
 */
export async function closureOf(
  test: string,
  known: Map<string, Promise<string | null>>,
): Promise<ReadonlyMap<string, string>> {
  const read = (path: string) => {
    let text = known.get(path);
    if (!text) {
      text = readFile(join(ROOT, path), 'utf8').catch(() => null);
      known.set(path, text);
    }
    return text;
  };
  const seen = new Set<string>();
  const texts = new Map<string, string>();
  const left = [test, 'package.json', 'test/mutants/runner.ts', 'test/mutants/generate.ts', 'test/mutants/sql.ts'];
  for (let path = left.pop(); path !== undefined; path = left.pop()) {
    if (seen.has(path)) continue;
    seen.add(path);
    const text = await read(path);
    if (text === null) continue;
    texts.set(path, text);
    if (!path.endsWith('.ts')) continue;
    for (const [, named] of text.matchAll(/['"`]([\w./-]+\.ts)['"`]/g)) {
      left.push(normalize(join(dirname(path), named!)));
      if (/^(?:src|test|machines)\//.test(named!)) left.push(named!);
      else if (!named!.startsWith('.')) left.push(`src/${named}`);
    }
  }
  return texts;
}

/** Returns a hash over the files of a closure. */
export function hashOf(closure: ReadonlyMap<string, string>): string {
  const hash = createHash('sha256');
  for (const path of [...closure.keys()].sort()) hash.update(path).update('\0').update(closure.get(path)!).update('\0');
  return hash.digest('hex');
}

/** Returns the directory in which measurements are kept between runs. */
export async function cacheDirectory(): Promise<string> {
  const path = join(ROOT, 'node_modules', '.cache', 'mutants');
  await mkdir(path, { recursive: true });
  return path;
}
