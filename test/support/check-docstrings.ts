import { join } from 'node:path';
import { parseSync } from 'oxc-parser';
import { lineAt, readSources, report } from './sources.ts';

/**
 * `node test/support/check-docstrings.ts`: fails when something that the package publishes has no docstring, or when the
 * docstring of a function with parameters or a result leaves one of them out. Published are the exports of the entries and
 * the exported types that their signatures name. A namespace (`export * as`) counts as one export.
 */
const ENTRIES = ['src/index.ts', 'machines/index.ts', 'src/testing/index.ts'];

interface Node {
  type: string;
  start: number;
  end: number;
  [key: string]: unknown;
}

interface Declaration {
  path: string;
  name: string;
  /** The declaration itself, without `export`. */
  node: Node;
  /** Text of the JSDoc comment directly before it; null without one. */
  doc: string | null;
}

interface Module {
  text: string;
  declared: Map<string, Declaration>;
  /** Imported and re-exported names: where they come from. `*` as `name` stands for the whole module. */
  imported: Map<string, { from: string; name: string }>;
  exported: Map<string, { from: string; name: string }>;
  /** Modules all of whose exports are exported. */
  all: string[];
}

const texts = new Map(readSources(['src', 'machines'], /\.ts$/).map(({ path, text }) => [path, text]));
const modules = new Map<string, Module>();
const problems = new Set<string>();

const nameOf = (node: unknown) => String((node as { name?: unknown; value?: unknown }).name ?? (node as Node).value);

function read(path: string): Module | null {
  const known = modules.get(path);
  const text = texts.get(path);
  if (known || text === undefined) return known ?? null;
  const { program, comments } = parseSync(path, text);
  const module: Module = { text, declared: new Map(), imported: new Map(), exported: new Map(), all: [] };
  modules.set(path, module);
  const resolve = (source: unknown) => join(path, '..', (source as Node).value as string);
  const docs = new Map(
    comments
      .filter(({ type, value }) => type === 'Block' && value.startsWith('*'))
      .map(({ value, end }) => [end, value] as const),
  );
  const docBefore = (start: number) => docs.get(text.slice(0, start).trimEnd().length) ?? null;
  const declare = (node: Node, start: number, isExported: boolean) => {
    const doc = docBefore(start);
    const each = node.type === 'VariableDeclaration' ? (node.declarations as Node[]) : [node];
    for (const one of each) {
      const name = nameOf(one.id);
      // Overloads: the first one has the docstring.
      if (!module.declared.has(name)) module.declared.set(name, { path, name, node: one, doc });
      if (isExported) module.exported.set(name, { from: path, name });
    }
  };
  for (const node of program.body as unknown as Node[]) {
    if (node.type === 'ImportDeclaration') {
      for (const one of node.specifiers as Node[]) {
        const name = one.type === 'ImportSpecifier' ? nameOf(one.imported) : '*';
        module.imported.set(nameOf(one.local), { from: resolve(node.source), name });
      }
    } else if (node.type === 'ExportAllDeclaration') {
      if (node.exported) module.exported.set(nameOf(node.exported), { from: resolve(node.source), name: '*' });
      else module.all.push(resolve(node.source));
    } else if (node.type === 'ExportNamedDeclaration' && node.declaration) {
      declare(node.declaration as Node, node.start, true);
    } else if (node.type === 'ExportNamedDeclaration') {
      for (const one of node.specifiers as Node[]) {
        const from = node.source ? resolve(node.source) : path;
        module.exported.set(nameOf(one.exported), { from, name: nameOf(one.local) });
      }
    } else if (/Declaration$/.test(node.type)) declare(node, node.start, false);
  }
  return module;
}

/** Returns the names that a module exports. */
function exportsOf(path: string): string[] {
  const module = read(path);
  return module ? [...module.exported.keys(), ...module.all.flatMap(exportsOf)] : [];
}

const seen = new Set<string>();

/** Checks an export of a module, and everything its type names. */
function checkExport(path: string, name: string): void {
  const module = read(path);
  if (!module) return;
  const exported = module.exported.get(name);
  if (exported && exported.from !== path) return checkExport(exported.from, exported.name);
  if (module.declared.has(exported?.name ?? name)) return checkLocal(path, exported?.name ?? name);
  const imported = module.imported.get(exported?.name ?? name);
  if (imported) return checkExport(imported.from, imported.name);
  for (const from of module.all) if (exportsOf(from).includes(name)) return checkExport(from, name);
}

function checkLocal(path: string, name: string): void {
  const declaration = read(path)?.declared.get(name);
  if (!declaration || seen.has(`${path} ${name}`)) return;
  seen.add(`${path} ${name}`);
  if ([...read(path)!.exported.values()].some((one) => one.from === path && one.name === name)) checkDoc(declaration);
  for (const used of typesOf(declaration.node)) {
    const imported = read(path)!.imported.get(used);
    if (imported) checkExport(imported.from, imported.name);
    else if (used !== name) checkLocal(path, used);
  }
}

/** Returns the names of the types in a declaration, without those inside function bodies and initial values. */
function typesOf(declaration: Node): Set<string> {
  const found = new Set<string>();
  const walk = (node: unknown, isType: boolean): void => {
    if (Array.isArray(node)) return node.forEach((each) => void walk(each, isType));
    if (typeof node !== 'object' || node === null) return;
    const { type, typeName, body, ...rest } = node as Node;
    if (type === 'BlockStatement') return;
    if (type === 'TSTypeReference' && (typeName as Node).type === 'Identifier') found.add(nameOf(typeName));
    if (type === 'TSInterfaceHeritage') found.add(nameOf((node as Node).expression));
    if (/^(?:CallExpression|ObjectExpression|NewExpression|TSAsExpression|TSSatisfiesExpression)$/.test(type)) return;
    for (const child of Object.values({ ...rest, body })) walk(child, isType);
  };
  walk(declaration, false);
  return found;
}

/** The function that a declaration is or holds; null for any other. */
function functionOf(node: Node): Node | null {
  if (node.type === 'FunctionDeclaration') return node;
  const value = node.type === 'VariableDeclarator' ? (node.init as Node | null) : null;
  return value?.type === 'ArrowFunctionExpression' || value?.type === 'FunctionExpression' ? value : null;
}

function checkDoc({ path, name, node, doc }: Declaration): void {
  const at = `${path}:${lineAt(texts.get(path)!, node.start)} ${name}`;
  if (doc === null) return void problems.add(`${at} has no docstring`);
  const made = functionOf(node);
  if (!made) return;
  const parameters = (made.params as Node[]).flatMap((one) => {
    const target = one.type === 'AssignmentPattern' ? (one.left as Node) : one;
    return target.type === 'Identifier' ? [nameOf(target)] : [];
  });
  for (const parameter of parameters) {
    if (!new RegExp(`@param (?:\\{[^}]*\\} )?${parameter.replace('$', '\\$')}\\b`).test(doc))
      problems.add(`${at}: no @param ${parameter}`);
  }
  const result = texts.get(path)!.slice(...rangeOf(made.returnType as Node | null));
  if (!/^: (?:void|Promise<void>|never)$/.test(result) && result !== '' && !/@returns?\b|[Rr]eturns/.test(doc))
    problems.add(`${at}: no @returns`);
}

const rangeOf = (node: Node | null): [number, number] => (node ? [node.start, node.end] : [0, 0]);

for (const entry of ENTRIES) for (const name of exportsOf(entry)) checkExport(entry, name);
report(
  'check:docstrings',
  [...problems].sort(),
  'Every published name has a docstring; functions name what they take.',
);
