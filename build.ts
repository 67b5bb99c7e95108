import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseSync } from 'oxc-parser';

/**
 * Reduces the compiler's output in `dist` to what the users of the package need:
 *
 * - The code keeps its files, names and layout, but not its comments, which are in the sources.
 * - Declarations are kept only where an entry point of the package reaches them. Those that an entry point exports keep
 *   their documentation, which editors show.
 */
const DIST = 'dist';
const ENTRIES = ['src/index.d.ts', 'machines/index.d.ts', 'src/testing/index.d.ts'].map((path) => join(DIST, path));

/** Returns the declaration files that the text of one refers to, or only those from which it exports. */
function referredBy(file: string, onlyExports: boolean): string[] {
  const pattern = onlyExports
    ? /\bexport\b[^;]*? from ["'](\.[^"']+)["']/g
    : /(?:\bfrom |\bimport\()["'](\.[^"']+)["']/g;
  return [...readFileSync(file, 'utf8').matchAll(pattern)].map(([, path]) =>
    join(dirname(file), path!.replace(/\.[jt]s$/, '.d.ts')),
  );
}

function reachable(onlyExports: boolean): ReadonlySet<string> {
  const found = new Set(ENTRIES);
  for (const file of found) for (const other of referredBy(file, onlyExports)) found.add(other);
  return found;
}

function removeComments(file: string): void {
  const text = readFileSync(file, 'utf8');
  const { comments, errors } = parseSync(file, text);
  if (errors.length > 0) throw new Error(`${file}: ${errors[0]!.message}`);
  let kept = '';
  let end = 0;
  for (const comment of comments) {
    kept += text.slice(end, comment.start);
    end = comment.end;
  }
  writeFileSync(file, kept + text.slice(end));
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
    compilerOptions: { rootDir: '../..', outDir: 'out', emitDeclarationOnly: true },
    include: ['rows.ts'],
  };
  writeFileSync(join(home, 'tsconfig.json'), JSON.stringify(config));
  execFileSync('tsc', ['-p', join(home, 'tsconfig.json')], { stdio: 'inherit' });
  const written = readFileSync(join(home, 'out', DIST, '.rows', 'rows.d.ts'), 'utf8');
  rmSync(home, { recursive: true });
  const text = readFileSync(file, 'utf8');
  const { program } = parseSync(file, text);
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

cpSync('src/explorer/browser', join(DIST, 'src/explorer/browser'), { recursive: true });
expandRows(join(DIST, 'src/store/entities.d.ts'));
const needed = reachable(false);
const exported = reachable(true);
for (const name of readdirSync(DIST, { recursive: true, encoding: 'utf8' })) {
  const file = join(DIST, name);
  if (file.endsWith('.d.ts') && !needed.has(file)) rmSync(file);
  else if (/\.[jt]s$/.test(file) && !exported.has(file)) removeComments(file);
}
// The compiler writes four spaces a level. Tabs are as readable, and smaller.
execFileSync('biome', ['format', '--write', '--vcs-enabled=false', '--indent-style=tab', '--log-level=warn', DIST], {
  stdio: 'inherit',
});
