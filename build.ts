import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { parseSync } from 'oxc-parser';
import { type OutputOptions, rolldown } from 'rolldown';

/**
 * Builds the package in `dist`:
 *
 * - The code as few files: one for each entry point and one for each set of modules that several of them share. Names of
 *   functions and classes are kept, for stack traces, profiles and logs; local names are shortened.
 * - The pages of the explorer as a module each, and one that both share, beside their style sheets: compressed, as they
 *   are served.
 * - Of the compiler's declarations, in `dist/types`, those that an entry point of the package reaches. Declarations that
 *   an entry point exports keep their documentation, which editors show.
 */
const DIST = 'dist';
const TYPES = join(DIST, 'types');
/** Modules that users import, by the name of the built file. */
const published = { index: 'src/index.ts', machines: 'machines/index.ts', testing: 'src/testing/index.ts' };
/** Modules that Node loads by path. Each is found in the folder of the file that loads it. */
const started = { cli: 'src/cli.ts', thread: 'src/intake/thread.ts' };
const BROWSER = 'src/explorer/browser';

const names = { function: true, class: true };
const output: OutputOptions = {
  format: 'esm',
  chunkFileNames: '[name].js',
  comments: false,
  minify: {
    compress: { keepNames: names },
    mangle: { keepNames: names, toplevel: true },
    codegen: { removeWhitespace: true },
  },
};

/** Columns after which a line of built code ends. Node prints the whole line of an uncaught exception. */
const LINE = 160;

interface Syntax {
  type: string;
  start: number;
  end: number;
}

function parse(file: string, text: string) {
  const parsed = parseSync(file, text);
  if (parsed.errors.length > 0) throw new Error(`${file}: ${parsed.errors[0]!.message}`);
  return parsed;
}

/** Visits every list of syntax nodes: statements, members, elements, arguments. */
function eachList(value: unknown, visit: (list: readonly Syntax[]) => void): void {
  if (typeof value !== 'object' || value === null) return;
  if (Array.isArray(value) && typeof value[0]?.start === 'number') visit(value);
  for (const child of Object.values(value)) eachList(child, visit);
}

/** Breaks long lines before a later node of a list: a separator or a whole statement precedes it, so a line may end there. */
function withShortLines(file: string, text: string): string {
  const starts = new Set<number>();
  eachList(parse(file, text).program, (list) => {
    for (const { type, start } of list.slice(1)) if (type !== 'TemplateElement') starts.add(start);
  });
  let broken = '';
  let end = 0;
  let line = text.lastIndexOf('\n', 0) + 1;
  for (const start of [...starts].sort((a, b) => a - b)) {
    line = Math.max(line, text.lastIndexOf('\n', start - 1) + 1);
    if (start - line < LINE) continue;
    broken += `${text.slice(end, start)}\n`;
    end = line = start;
  }
  return broken + text.slice(end);
}

async function bundle(input: Record<string, string>, folder: string): Promise<void> {
  const build = await rolldown({
    input,
    platform: 'node',
    external: /^[^./]/,
    transform: { target: 'node22.19' },
    tsconfig: false,
  });
  for (const file of (await build.generate(output)).output) {
    if (file.type !== 'chunk') throw new Error(`${file.fileName} is no code`);
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, file.fileName), withShortLines(file.fileName, file.code));
  }
}

/**
 * Writes the row types out. The compiler declares them by what MikroORM infers from the entities, in 780 kB; a reader of
 * the package needs the names and types of the columns only.
 */
function expandRows(file: string): void {
  const names = ['WorkerColumns', 'SessionColumns', 'TurnColumns', 'WorkerRow', 'SessionRow', 'TurnRow'];
  const home = join(DIST, '.rows');
  mkdirSync(home, { recursive: true });
  // A spread has an inferred type, which the compiler writes out member by member.
  const spreads = names.map((name) => `export const ${name} = (row: rows.${name}) => ({ ...row });`);
  writeFileSync(
    join(home, 'rows.ts'),
    [`import type * as rows from '../../src/store/entities.ts';`, ...spreads].join('\n'),
  );
  const config = {
    extends: '../../tsconfig.build.json',
    compilerOptions: { rootDir: '../..', outDir: 'out' },
    include: ['rows.ts'],
  };
  writeFileSync(join(home, 'tsconfig.json'), JSON.stringify(config));
  execFileSync('tsc', ['-p', join(home, 'tsconfig.json')], { stdio: 'inherit' });
  const written = readFileSync(join(home, 'out', DIST, '.rows', 'rows.d.ts'), 'utf8');
  rmSync(home, { recursive: true });
  const text = readFileSync(file, 'utf8');
  const { program } = parse(file, text);
  let kept = '';
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration') continue;
    const source = text.slice(node.start, node.end);
    const declared = node.type === 'ExportNamedDeclaration' ? node.declaration : null;
    const name = declared && 'id' in declared && declared.id?.type === 'Identifier' ? declared.id.name : null;
    const members =
      name !== null && names.includes(name)
        ? new RegExp(`declare const ${name}: \\(row: rows\\.${name}\\) => (\\{[^]*?\\n\\});`).exec(written)?.[1]
        : undefined;
    const plain = members?.replaceAll('rows.', '').replaceAll('NonNullable<boolean | null | undefined>', 'boolean');
    if (plain !== undefined) kept += `export interface ${name} ${plain}\n`;
    else if (name !== null && names.includes(name)) throw new Error(`${name} was not written out`);
    else if (!/mikro-orm|InferKysely|InferEntity|Hidden<|PropertyNames|typeof (?:entities|BridgeSession)/.test(source))
      kept += `${source}\n`;
  }
  writeFileSync(file, kept);
}

/** Declaration file, as far as finding what is needed of it takes. */
interface Declarations {
  statements: { text: string; withoutComments: string; names: readonly string[]; words: ReadonlySet<string> }[];
  /** Imported names, by their names here. */
  imports: Map<string, Name>;
  /** Names exported from this file, or from the module that `from` names. */
  exports: Map<string, Name>;
  /** Files of which everything is exported. */
  stars: string[];
}

interface Name {
  name: string;
  /** Module that declares it; null: the file itself. */
  from: string | null;
  /** The specifier in its clause. */
  specifier: string;
}

function readDeclarations(file: string): Declarations {
  const text = readFileSync(file, 'utf8');
  const { program, comments, module } = parse(file, text);
  const read: Declarations = { statements: [], imports: new Map(), exports: new Map(), stars: [] };
  for (const { moduleRequest, entries } of module.staticImports) {
    for (const { importName, localName } of entries) {
      if (importName.kind === 'NamespaceObject') throw new Error(`${file}: an imported namespace is not followed`);
      const name = importName.name ?? 'default';
      const specifier = name === localName.value ? name : `${name} as ${localName.value}`;
      read.imports.set(localName.value, { name, from: moduleRequest.value, specifier });
    }
  }
  for (const { entries } of module.staticExports) {
    for (const { moduleRequest, importName, exportName, localName, isType } of entries) {
      const from = moduleRequest?.value ?? null;
      if (exportName.kind === 'None') read.stars.push(from!);
      else {
        const name = (from === null ? localName.name : importName.name)!;
        const specifier = `${isType ? 'type ' : ''}${name === exportName.name ? name : `${name} as ${exportName.name}`}`;
        read.exports.set(exportName.name!, { name, from, specifier });
      }
    }
  }
  for (const node of program.body) {
    if (node.type === 'ImportDeclaration' || node.type === 'ExportAllDeclaration') continue;
    const declared = node.type === 'ExportNamedDeclaration' ? node.declaration : node;
    if (declared === null) continue;
    const ids =
      'declarations' in declared ? declared.declarations.map(({ id }) => id) : 'id' in declared ? [declared.id] : [];
    const before = comments.findLast(({ end }) => end <= node.start && text.slice(end, node.start).trim() === '');
    let withoutComments = '';
    let end = node.start;
    for (const comment of comments.filter(({ start }) => start >= node.start && start < node.end)) {
      withoutComments += text.slice(end, comment.start);
      end = comment.end;
    }
    withoutComments += text.slice(end, node.end);
    if (/import\(["']\./.test(withoutComments)) throw new Error(`${file}: an import within a type is not followed`);
    read.statements.push({
      text: text.slice(before?.start ?? node.start, node.end),
      withoutComments,
      names: ids.flatMap((id) => (id?.type === 'Identifier' ? [id.name] : [])),
      words: new Set(withoutComments.match(/[\w$]+/g)),
    });
  }
  return read;
}

/** Reduces the compiler's declarations to what the entry points reach. A word counts as a use of the name that it spells. */
function pruneDeclarations(entries: readonly string[]): void {
  const files = new Map<string, Declarations & { needed: Set<string>; documented: Set<string> }>();
  const open = (file: string) => {
    let known = files.get(file);
    if (!known) files.set(file, (known = { ...readDeclarations(file), needed: new Set(), documented: new Set() }));
    return known;
  };
  const fileOf = (file: string, from: string) => join(dirname(file), from.replace(/\.[jt]s$/, '.d.ts'));

  /** Marks a name of the file's own scope, and whatever its declaration uses. */
  function need(file: string, name: string): void {
    const { statements, imports, needed } = open(file);
    if (needed.has(name)) return;
    const imported = imports.get(name);
    const declaring = statements.filter(({ names }) => names.includes(name));
    if (!imported && declaring.length === 0) return;
    needed.add(name);
    if (imported?.from?.startsWith('.')) needExport(fileOf(file, imported.from), imported.name, false);
    for (const { words } of declaring) for (const word of words) need(file, word);
  }

  function needExport(file: string, exported: string, documented: boolean): boolean {
    const { exports, stars, ...marks } = open(file);
    const found = exports.get(exported);
    if (!found) return stars.some((from) => needExport(fileOf(file, from), exported, documented));
    if (found.from !== null) {
      marks.needed.add(`export ${exported}`);
      return !found.from.startsWith('.') || needExport(fileOf(file, found.from), found.name, documented);
    }
    if (documented) marks.documented.add(found.name);
    need(file, found.name);
    return true;
  }

  function needAll(file: string): void {
    const { exports, stars } = open(file);
    for (const name of exports.keys()) needExport(file, name, true);
    for (const from of stars) needAll(fileOf(file, from));
  }

  for (const entry of entries) needAll(entry);
  for (const name of readdirSync(TYPES, { recursive: true, encoding: 'utf8' })) {
    const file = join(TYPES, name);
    const found = files.get(file);
    if (found) writeFileSync(file, neededText(found));
    else if (name.endsWith('.ts')) rmSync(file);
  }
}

function neededText(file: ReturnType<typeof readDeclarations> & Record<'needed' | 'documented', Set<string>>): string {
  const { statements, imports, exports, stars, needed, documented } = file;
  const clauses = (keyword: string, names: readonly Name[]) =>
    [...Map.groupBy(names, ({ from }) => from)].map(
      ([from, of]) => `${keyword} { ${of.map(({ specifier }) => specifier).join(', ')} } from '${from}';`,
    );
  return [
    ...clauses(
      'import type',
      [...imports].filter(([name]) => needed.has(name)).map(([, name]) => name),
    ),
    ...clauses(
      'export',
      [...exports].filter(([name]) => needed.has(`export ${name}`)).map(([, name]) => name),
    ),
    ...stars.map((from) => `export * from '${from}';`),
    ...statements
      .filter(({ names }) => names.some((name) => needed.has(name)))
      .map(({ text, withoutComments, names }) => (names.some((name) => documented.has(name)) ? text : withoutComments)),
    '',
  ].join('\n');
}

rmSync(DIST, { recursive: true, force: true });
execFileSync('tsc', ['-p', 'tsconfig.build.json'], { stdio: 'inherit' });
expandRows(join(TYPES, 'src/store/entities.d.ts'));
pruneDeclarations(Object.values(published).map((path) => join(TYPES, path.replace('.ts', '.d.ts'))));
// The compiler writes four spaces a level. Tabs are as readable, and smaller.
execFileSync('biome', ['format', '--write', '--vcs-enabled=false', '--indent-style=tab', '--log-level=warn', TYPES], {
  stdio: 'inherit',
});
await bundle({ ...published, ...started }, DIST);
cpSync(BROWSER, join(DIST, 'browser'), { recursive: true, filter: (path) => !path.endsWith('.js') });
await bundle({ main: join(BROWSER, 'main.js'), inspector: join(BROWSER, 'inspector.js') }, join(DIST, 'browser'));
for (const name of readdirSync(join(DIST, 'browser'))) {
  const file = join(DIST, 'browser', name);
  writeFileSync(`${file}.gz`, gzipSync(readFileSync(file), { level: 9 }));
  rmSync(file);
}
