import type * as ESTree from 'oxc-parser';
import { parseSync, visitorKeys } from 'oxc-parser';
import { sqlMutations } from './sql.ts';

/** One small change of a source file. */
export interface Mutant {
  /** Index among the mutants of its file, in text order. */
  index: number;
  file: string;
  line: number;
  operator: string;
  /** Names of the enclosing functions, outermost first. */
  within: readonly string[];
  /** Original text, on one line. */
  original: string;
  /** Text of the mutant, on one line. */
  mutant: string;
}

type Node = ESTree.Node;
/** Syntax with which the original text is combined with the mutants that replace it. */
type Wrap = 'expression' | 'statement' | 'element' | 'property';

interface Change {
  operator: string;
  /** The whole text of the place under the mutant; unused where the place is removed. */
  text: string;
  /** Texts to show, when the place is larger than the change. */
  shown?: { original: string; mutant: string };
  /** Offset into the file, when it differs from that of the place. */
  at?: number;
}

interface Place {
  start: number;
  end: number;
  wrap: Wrap;
  within: readonly string[];
  changes: Change[];
}

const opposites = new Map([
  ['<', ['<=', '>=']],
  ['<=', ['<', '>']],
  ['>', ['>=', '<=']],
  ['>=', ['>', '<']],
  ['===', ['!==']],
  ['!==', ['===']],
  ['==', ['!=']],
  ['!=', ['==']],
]);
const arithmetic = new Map([
  ['+', '-'],
  ['-', '+'],
  ['*', '/'],
  ['/', '*'],
  ['%', '*'],
]);
const assignments = new Map([
  ['+=', '-='],
  ['-=', '+='],
  ['??=', '='],
  ['||=', '='],
]);

const oneLine = (text: string) => text.replace(/\s+/g, ' ').trim();
const isNode = (value: unknown): value is Node => typeof (value as Node | null)?.type === 'string';
const isText = (node: Node) =>
  node.type === 'TemplateLiteral' || (node.type === 'Literal' && typeof node.value === 'string');
const isBoolean = (node: Node) => node.type === 'Literal' && typeof node.value === 'boolean';

/** Unwraps parentheses and type annotations, which have no effect at run time. */
function bare(node: Node): Node {
  let at = node;
  for (;;) {
    const inner: boolean =
      at.type === 'ParenthesizedExpression' ||
      at.type === 'TSAsExpression' ||
      at.type === 'TSSatisfiesExpression' ||
      at.type === 'TSNonNullExpression';
    if (!inner) return at;
    at = (at as ESTree.ParenthesizedExpression).expression;
  }
}

/** Returns true for calls whose only effect is a log line: no test of behaviour detects their removal. */
function isLogging(node: Node, text: string): boolean {
  const inner = bare(node);
  return inner.type === 'CallExpression' && /^(?:[\w.]+\.)?(?:log|logger)\??\.\w+\(/.test(text.slice(inner.start));
}

/** Returns the name that a node gives to the function that it is or holds. */
function nameOf(node: Node): string | null {
  if (node.type === 'FunctionDeclaration') return node.id?.name ?? null;
  if (node.type === 'VariableDeclarator')
    return node.id.type === 'Identifier' && /^Array|^Arrow/.test(node.init?.type ?? '') ? node.id.name : null;
  if (node.type === 'MethodDefinition')
    return node.key.type === 'Identifier' || node.key.type === 'PrivateIdentifier' ? node.key.name : null;
  return null;
}

interface Options {
  /** Selects the texts to mutate as SQL, among those that look like SQL. */
  sql: ((text: string) => boolean) | null;
  /** True if every object literal is a table, not only those at module level. */
  tables: boolean;
}

class Reader {
  readonly places: Place[] = [];
  readonly #text: string;
  readonly #sql: Options['sql'];
  readonly #tables: boolean;
  #within: readonly string[] = [];

  constructor(text: string, { sql, tables }: Options) {
    this.#text = text;
    this.#sql = sql;
    this.#tables = tables;
  }

  #of(node: Node): string {
    return this.#text.slice(node.start, node.end);
  }

  #put(node: Node, wrap: Wrap, changes: Change[]): void {
    const known = this.places.find(
      (place) => place.start === node.start && place.end === node.end && place.wrap === wrap,
    );
    if (known) known.changes.push(...changes.filter(({ text }) => !known.changes.some((other) => other.text === text)));
    else if (changes.length > 0)
      this.places.push({ start: node.start, end: node.end, wrap, within: this.#within, changes });
  }

  #swap(node: Node, operator: string, ...texts: string[]): void {
    this.#put(
      node,
      'expression',
      texts.map((text) => ({ operator, text })),
    );
  }

  /** Adds mutants that make a condition always and never true. */
  #condition(test: Node, operator: string, values: readonly string[]): void {
    if (!isBoolean(bare(test))) this.#swap(test, operator, ...values);
  }

  /** Adds a mutant that returns the empty value of the same kind. */
  #result(value: Node): void {
    const inner = bare(value);
    if (isBoolean(inner) || (inner.type === 'Literal' && inner.value === null)) return;
    if (inner.type === 'ConditionalExpression') return;
    const decides =
      inner.type === 'BinaryExpression' ||
      inner.type === 'LogicalExpression' ||
      (inner.type === 'UnaryExpression' && inner.operator === '!');
    if (decides && !(inner.type === 'BinaryExpression' && arithmetic.has(inner.operator))) {
      if (inner.type !== 'LogicalExpression' || inner.operator !== '??') {
        this.#swap(value, 'returned value', 'true', 'false');
        return;
      }
    }
    if (inner.type === 'ArrayExpression') {
      if (inner.elements.length > 0) this.#swap(value, 'returned value', '[]');
      return;
    }
    if (inner.type === 'Identifier' && inner.name === 'undefined') return;
    this.#swap(value, 'returned value', 'null');
  }

  visit(node: Node, parent: Node | null, topLevel: boolean): void {
    if (node.type.startsWith('TS') && bare(node) === node) return;
    if (node.type === 'ImportDeclaration' || node.type === 'ExportAllDeclaration') return;
    const decides =
      parent !== null &&
      (parent.type === 'IfStatement' || parent.type === 'ConditionalExpression' || parent.type === 'WhileStatement') &&
      parent.test === node;
    switch (node.type) {
      case 'IfStatement':
        this.#condition(node.test, 'condition', ['true', 'false']);
        break;
      case 'ConditionalExpression':
        this.#condition(node.test, 'choice', ['true', 'false']);
        break;
      case 'WhileStatement':
      case 'DoWhileStatement':
        this.#condition(node.test, 'loop', ['false']);
        break;
      case 'ForStatement':
        if (node.test) this.#condition(node.test, 'loop', ['false']);
        break;
      case 'LogicalExpression': {
        const [left, right] = [this.#of(node.left), this.#of(node.right)];
        const isNothing = bare(node.right).type === 'Literal' && right === 'null';
        if (node.operator === '??')
          this.#swap(node, 'default', ...(isNothing || right === 'undefined' ? [] : [left]), right);
        else this.#swap(node, 'operand', left, right);
        break;
      }
      case 'BinaryExpression': {
        const [left, right] = [this.#of(node.left), this.#of(node.right)];
        const all = opposites.get(node.operator) ?? [];
        const chosen = decides && all.length > 1 ? all.slice(0, 1) : decides ? [] : all;
        this.#swap(node, 'comparison', ...chosen.map((operator) => `${left} ${operator} ${right}`));
        const other = arithmetic.get(node.operator);
        if (other && !isText(bare(node.left)) && !isText(bare(node.right)))
          this.#swap(node, 'arithmetic', `${left} ${other} ${right}`);
        break;
      }
      case 'UnaryExpression':
        if (node.operator === '!' && !decides) this.#swap(node, 'negation', this.#of(node.argument));
        break;
      case 'UpdateExpression': {
        const other = node.operator === '++' ? '--' : '++';
        this.#swap(node, 'arithmetic', this.#of(node).replace(node.operator, other));
        break;
      }
      case 'AssignmentExpression': {
        const other = assignments.get(node.operator);
        if (other && !isText(bare(node.right)))
          this.#swap(node, 'assignment', `${this.#of(node.left)} ${other} ${this.#of(node.right)}`);
        break;
      }
      case 'Literal':
        if (typeof node.value === 'boolean') this.#swap(node, 'boolean', String(!node.value));
        else if (typeof node.value === 'string') {
          if (this.#sql) this.#putSql(node);
          else if (topLevel && parent?.type === 'Property' && parent.value === node && node.value !== '')
            this.#swap(node, 'text of a table', "''");
        }
        break;
      case 'TemplateLiteral':
        if (this.#sql) this.#putSql(node);
        break;
      case 'ChainExpression':
        this.#chain(node, parent);
        break;
      case 'AwaitExpression':
        this.#swap(node, 'await', this.#of(node.argument));
        break;
      case 'ExpressionStatement': {
        const inner = bare(node.expression);
        const called = inner.type === 'AwaitExpression' ? bare(inner.argument) : inner;
        const isSuper = called.type === 'CallExpression' && called.callee.type === 'Super';
        if (isLogging(called, this.#text) || isSuper || node.directive) break;
        this.#put(node, 'statement', [{ operator: 'statement', text: '' }]);
        break;
      }
      case 'ReturnStatement':
        if (node.argument) this.#result(node.argument);
        break;
      case 'ArrowFunctionExpression':
        if (node.body.type !== 'BlockStatement' && !isLogging(node.body, this.#text)) this.#result(node.body);
        break;
      case 'ArrayExpression':
        if (parent?.type === 'ArrayExpression') break;
        for (const element of node.elements)
          if (element && element.type !== 'SpreadElement')
            this.#put(element, 'element', [{ operator: 'element', text: '' }]);
        break;
      case 'ObjectExpression':
        if (!(topLevel || this.#tables)) break;
        for (const property of node.properties)
          if (property.type === 'Property' && property.kind === 'init')
            this.#put(property, 'property', [{ operator: 'entry of a table', text: '' }]);
        break;
    }
    const isFunction = /Function|Method|ClassBody/.test(node.type);
    const outside = this.#within;
    const name = nameOf(node);
    if (name !== null) this.#within = [...outside, name];
    for (const key of visitorKeys[node.type] ?? []) {
      const keyed = node as unknown as { computed?: boolean };
      if ((key === 'key' || key === 'property') && !keyed.computed) continue;
      const value: unknown = (node as unknown as Record<string, unknown>)[key];
      for (const child of Array.isArray(value) ? value : [value])
        if (isNode(child)) this.visit(child, node, topLevel && !isFunction);
    }
    this.#within = outside;
  }

  /** Adds a mutant that removes the first `?.` of a chain. */
  #chain(node: ESTree.ChainExpression, parent: Node | null): void {
    if (parent?.type === 'UnaryExpression' && parent.operator === 'delete') return;
    let first: { end: number } | null = null;
    for (let at: Node | null = node.expression; at; ) {
      if ((at.type === 'MemberExpression' || at.type === 'CallExpression') && at.optional)
        first = at.type === 'MemberExpression' ? at.object : at.callee;
      if (at.type === 'MemberExpression') at = at.object;
      else if (at.type === 'CallExpression') at = at.callee;
      else if (at.type === 'TSNonNullExpression') at = at.expression;
      else at = null;
    }
    if (!first) return;
    const behind = this.#text.indexOf('?.', first.end);
    const kept = /[[(]/.test(this.#text[behind + 2] ?? '') ? '' : '.';
    const text = this.#text.slice(node.start, behind) + kept + this.#text.slice(behind + 2, node.end);
    this.#swap(node, 'optional chaining', text);
  }

  #putSql(node: Node): void {
    const isTemplate = node.type === 'TemplateLiteral';
    const text = isTemplate ? this.#of(node).slice(1, -1) : String((node as ESTree.StringLiteral).value);
    if (!this.#sql?.(text)) return;
    const literal = (sql: string) => (isTemplate ? `\`${sql}\`` : JSON.stringify(sql));
    const changes = sqlMutations(text).map(({ start, end, replacement, operator }) => ({
      operator,
      text: literal(text.slice(0, start) + replacement + text.slice(end)),
      shown: {
        original: oneLine(text.slice(Math.max(0, start - 24), end + 24)),
        mutant: oneLine(text.slice(Math.max(0, start - 24), start) + replacement + text.slice(end, end + 24)),
      },
      at: node.start + 1 + start,
    }));
    this.#put(node, 'expression', changes);
  }
}

/** A file with all its mutants. */
export interface Mutated {
  mutants: Mutant[];
  /**
   * Returns the text with every mutant in it, each inactive until `$mutant` selects it.
   *
   * @param base number of the file's first mutant
   */
  instrumented(base: number): string;
}

/**
 * Returns every mutant of a file.
 *
 * @param file its path, relative to the project
 * @throws Error when the file does not parse
 */
export function mutantsOf(file: string, text: string, options: Options): Mutated {
  const { program, errors } = parseSync(file, text);
  if (errors.length > 0) throw new Error(`${file} does not parse: ${errors[0]!.message}`);
  const reader = new Reader(text, options);
  reader.visit(program as unknown as Node, null, true);
  // Outer places first; of two at the same place, the one that removes the other.
  const rank: Record<Wrap, number> = { statement: 0, element: 1, property: 1, expression: 2 };
  const places = reader.places.sort((a, b) => a.start - b.start || b.end - a.end || rank[a.wrap] - rank[b.wrap]);

  const lineStarts = [0];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lineStarts.push(at + 1);
  const lineOf = (offset: number) => lineStarts.findLastIndex((start) => start <= offset) + 1;

  const mutants: Mutant[] = [];
  const numbered: (Place & { first: number })[] = [];
  for (const place of places) {
    numbered.push({ ...place, first: mutants.length });
    const own = oneLine(text.slice(place.start, place.end));
    for (const { operator, at, text: changed, shown } of place.changes) {
      const { original, mutant } = shown ?? { original: own, mutant: oneLine(changed) };
      const line = lineOf(at ?? place.start);
      mutants.push({ index: mutants.length, file, line, operator, within: place.within, original, mutant });
    }
  }

  function compose(from: number, to: number, inside: typeof numbered, base: number): string {
    let out = '';
    let at = from;
    for (let i = 0; i < inside.length; ) {
      const place = inside[i]!;
      let next = i + 1;
      while (next < inside.length && inside[next]!.start < place.end) next += 1;
      const inner = compose(place.start, place.end, inside.slice(i + 1, next), base);
      const number = (nth: number) => `$mutant(${base + place.first + nth})`;
      out += text.slice(at, place.start);
      if (place.wrap === 'statement') out += `{if(!${number(0)}){${inner}}}`;
      else if (place.wrap === 'element') out += `...(${number(0)}?[]:[${inner}])`;
      else if (place.wrap === 'property') out += `...(${number(0)}?{}:{${inner}})`;
      else out += `(${place.changes.map((change, nth) => `${number(nth)}?(${change.text}):`).join('')}${inner})`;
      at = place.end;
      i = next;
    }
    return out + text.slice(at, to);
  }
  return { mutants, instrumented: (base) => compose(0, text.length, numbered, base) };
}
