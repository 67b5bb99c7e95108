import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';

/**
 * Tables that are plain objects, with the reason why no text from outside is ever used as their key. All other tables
 * must be a Map: a plain object answers to `constructor` and `__proto__`.
 */
const allowed = new Map([
  ['src/admin/api.ts actions', 'keys are its own, one route for each'],
  ['src/explorer/assets.ts types', 'endings of files of this package'],
  ['src/runtime/program.ts refused', 'types of actions that a machine’s author wrote'],
  ['src/errors.ts catalogue', 'keys are the type BridgeCode'],
  ['src/session/turn.ts endEvent', 'keys are the type TurnEnd'],
  ['src/commands/inspect.ts openers', 'keyed by process.platform'],
  ['src/command-line.ts declared', 'keys are the names of declared options'],
  ['src/commands/doctor/finding.ts marks', 'keys are the type Level'],
  ['src/commands/overview.ts spans', 'keys are the type ActivityWindow'],
  ['src/commands/overview.ts written', 'keys are the names of its parts'],
  ['src/commands/doctor/network.ts mends', 'keys are the type FailureKind'],
  ['src/config.ts values', 'keys are the names of the knobs'],
  ['src/config.ts limitKnobs', 'keys are three literals'],
  ['src/session/quota.ts busyWith', 'keys are the type BusyLimit'],
  ['src/session/quota.ts total', 'keys are three literals'],
  ['src/http/server.ts listeners', 'keys are two literals'],
  ['src/observe/metrics/index.ts gaugeOf', 'keys are those of the type Readings'],
  ['src/observe/metrics/wrappers.ts results', 'keys are the kinds of a dial’s result'],
  ['src/observe/explain.ts session', 'keys are types of the machine’s events, guarded by Object.hasOwn'],
  ['src/observe/explain.ts turn', 'keys are types of the machine’s events, guarded by Object.hasOwn'],
  ['src/observe/trace.ts picked', 'keys are those of the list of checks'],
  ['src/testing/memory-store/database.ts row', 'keys are the columns of an entity'],
  ['src/testing/memory-store/admin.ts takers', 'keys are the kinds of rows that a sweep takes'],
  ['src/transcript/read.ts kept', 'keys are those of lists in the file'],
  ['src/store/items.ts places', 'keys are numbers'],
  ['src/store/postgres/executor.ts row', 'keys are the columns of a statement of its own'],
  ['src/store/postgres/session-repository.ts call', 'keys are columns of an entity'],
]);

const files = (folder: string): string[] =>
  readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return /(?:^|\/)(?:simulator|browser)$/.test(path) ? [] : files(path);
    return path.endsWith('.ts') ? [path] : [];
  });

/** Returns source text without comments. Template literals and strings stay, because they index nothing. */
const bare = (text: string) => text.replace(/\/\*[\s\S]*?\*\//g, '').replace(/^\s*\/\/.*$/gm, '');

/** Returns the names of tables written as object literals, and of records that start empty. */
const tables = (text: string) =>
  [...bare(text).matchAll(/\b(?:const|let) (\w+)(?:: (?:=>|[^=;])+)? = \{(?!\s*\.\.\.)/g)].map(([, name]) => name!);

/** Returns those tables that are read or written at a computed key. */
const indexed = (text: string) =>
  [...new Set(tables(text))].filter((name) => {
    const use = new RegExp(String.raw`(?<![\w.])${name}\[(?!['"\d])`);
    return use.test(bare(text));
  });

it('No plain-object table in the sources is indexed by a key that may come from outside', () => {
  const found = ['src', 'machines']
    .flatMap(files)
    .flatMap((path) => indexed(readFileSync(path, 'utf8')).map((name) => `${path} ${name}`));
  expect(found.filter((each) => !allowed.has(each))).toEqual([]);
  for (const each of allowed.keys()) expect(found, `${each} is allowed, and is no longer there`).toContain(each);
});

it('The check detects a planted table in each form', () => {
  const planted = [
    'const table: Record<string, () => void> = {\n  a: one,\n};\ntable[name]?.();',
    'const table = { a: 1 };\nreturn table[headers.type as never];',
    'let table: Partial<Record<string, number>> = {};\ntable[key] = 1;',
  ];
  for (const text of planted) expect(indexed(text)).toEqual(['table']);
  const innocent = [
    "const table = { a: 1 };\nreturn table['a'];",
    'const table = new Map([["a", 1]]);\nreturn table.get(name);',
    'const table = { a: 1 };\n// table[name]',
  ];
  for (const text of innocent) expect(indexed(text)).toEqual([]);
});
