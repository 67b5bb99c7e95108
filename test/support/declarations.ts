import { readFileSync } from 'node:fs';

/** A type as a declaration file writes it, limited to members and literals. */
export type Declared =
  | { kind: 'literal'; value: string | number | boolean | null }
  | { kind: 'list'; of: Declared }
  | { kind: 'union'; of: readonly Declared[] }
  | { kind: 'object'; members: readonly Member[] }
  | { kind: 'name'; name: string; within: string }
  /** `string`, `number`, `unknown` and similar types. */
  | { kind: 'plain'; name: string };

export interface Member {
  name: string;
  optional: boolean;
  type: Declared;
}

/** Declarations of one file by their qualified names, such as `Tool.Mcp`. */
export interface Declarations {
  /** Returns the type of a name as seen from within another declaration; null if the file does not declare it. */
  resolve(name: string, within?: string): Declared | null;
}

const plain = new Set(['string', 'number', 'boolean', 'unknown', 'any', 'void', 'undefined', 'never', 'object']);

/**
 * Reads the interfaces, type aliases and namespaces of a declaration file. Supports the part of the language that
 * generated SDK types use.
 *
 * @throws Error on any other syntax
 */
export function readDeclarations(file: string): Declarations {
  const text = readFileSync(file, 'utf8')
    .replace(/\/\*[\s\S]*?\*\//g, '')
    .replace(/\/\/.*$/gm, '');
  const tokens =
    text.match(/'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[A-Za-z_$][\w$]*(?:\.[A-Za-z_$][\w$]*)*|-?\d+(?:\.\d+)?|=>|\S/g) ??
    [];
  const found = new Map<string, Declared>();
  const parents = new Map<string, readonly Declared[]>();
  let at = 0;
  const next = () => tokens[at++]!;
  const is = (token: string) => tokens[at] === token;
  const take = (token: string) => is(token) && ++at > 0;
  const expectToken = (token: string) => {
    if (!take(token)) throw new Error(`${file}: expected ${token}, found ${tokens.slice(at - 3, at + 4).join(' ')}`);
  };
  const skipTo = (...ends: string[]) => {
    for (let depth = 0; at < tokens.length; at += 1) {
      const token = tokens[at]!;
      if (depth === 0 && ends.includes(token)) return;
      if ('{([<'.includes(token)) depth += 1;
      else if ('})]>'.includes(token)) depth -= 1;
    }
  };

  function union(within: string): Declared {
    take('|');
    const of = [postfix(within)];
    while (take('|')) of.push(postfix(within));
    return of.length === 1 ? of[0]! : { kind: 'union', of };
  }
  function postfix(within: string): Declared {
    let type = single(within);
    for (;;) {
      // `string & {}` only keeps editor completion working.
      if (take('&')) {
        const other = single(within);
        if (type.kind === 'object' && other.kind === 'object')
          type = { kind: 'object', members: [...type.members, ...other.members] };
      } else if (is('[') && tokens[at + 1] === ']') {
        at += 2;
        type = { kind: 'list', of: type };
      } else return type;
    }
  }
  function single(within: string): Declared {
    const token = next();
    if (token === '{') return { kind: 'object', members: members(within) };
    if (token === '(') {
      const type = union(within);
      expectToken(')');
      return type;
    }
    if (/^['"]/.test(token)) return { kind: 'literal', value: token.slice(1, -1) };
    if (/^-?\d/.test(token)) return { kind: 'literal', value: Number(token) };
    if (token === 'true' || token === 'false') return { kind: 'literal', value: token === 'true' };
    if (token === 'null') return { kind: 'literal', value: null };
    if (plain.has(token)) return { kind: 'plain', name: token };
    if (!/^[A-Za-z_$]/.test(token)) throw new Error(`${file}: no type: ${tokens.slice(at - 4, at + 4).join(' ')}`);
    if (!is('<')) return { kind: 'name', name: token, within };
    next();
    const given = [union(within)];
    while (take(',')) given.push(union(within));
    expectToken('>');
    if (token === 'Array' || token === 'ReadonlyArray') return { kind: 'list', of: given[0]! };
    if (token === 'Record') return { kind: 'object', members: [{ name: '*', optional: true, type: given[1]! }] };
    return { kind: 'plain', name: token };
  }
  function members(within: string): Member[] {
    const list: Member[] = [];
    while (!take('}')) {
      if (take(';')) continue;
      take('readonly');
      if (take('[')) {
        skipTo(']');
        next();
        expectToken(':');
        list.push({ name: '*', optional: true, type: union(within) });
        continue;
      }
      const name = next().replace(/^['"]|['"]$/g, '');
      const optional = take('?');
      if (is('(')) {
        skipTo(';');
        continue;
      }
      expectToken(':');
      list.push({ name, optional, type: union(within) });
    }
    return list;
  }
  function declarations(prefix: string): void {
    while (at < tokens.length && !take('}')) {
      const token = next();
      const full = (name: string) => (prefix === '' ? name : `${prefix}.${name}`);
      if (token === 'interface') {
        const name = full(next());
        if (is('<')) skipTo('extends', '{');
        const bases: Declared[] = [];
        if (take('extends')) {
          do bases.push(single(prefix));
          while (take(','));
        }
        expectToken('{');
        parents.set(name, bases);
        found.set(name, { kind: 'object', members: members(name) });
      } else if (token === 'type' && /^\w+$/.test(tokens[at]!) && tokens[at + 1] === '=') {
        const name = full(next());
        next();
        found.set(name, union(name));
      } else if (token === 'namespace') {
        const name = full(next());
        expectToken('{');
        declarations(name);
      } else if (token === 'class') {
        skipTo('{');
        next();
        skipTo('}');
        next();
      } else if (token === 'import' || token === 'const' || token === 'function') skipTo(';');
      else if (token === '{') {
        skipTo('}');
        next();
      }
    }
  }
  declarations('');

  return {
    resolve(given, within = '') {
      const name = given.replace(/^ResponsesAPI\./, '');
      for (let scope = within; ; scope = scope.slice(0, Math.max(0, scope.lastIndexOf('.')))) {
        const full = scope === '' ? name : `${scope}.${name}`;
        const type = found.get(full);
        if (type) {
          if (type.kind !== 'object') return type;
          const inherited = (parents.get(full) ?? []).flatMap((base) => {
            const resolved = base.kind === 'name' ? this.resolve(base.name, base.within) : base;
            return resolved?.kind === 'object' ? resolved.members : [];
          });
          const own = new Set(type.members.map((member) => member.name));
          return { kind: 'object', members: [...inherited.filter((member) => !own.has(member.name)), ...type.members] };
        }
        if (scope === '') return null;
      }
    },
  };
}

/** Returns the declarations of the Responses API in the installed `openai` package. */
export const responsesApi = (): Declarations =>
  readDeclarations(new URL('../../node_modules/openai/resources/responses/responses.d.ts', import.meta.url).pathname);
