type Value = string | Value[] | { [key: string]: Value };

interface Line {
  indent: number;
  text: string;
}

const scalar = (text: string): string =>
  /^'(.*)'$/.exec(text)?.[1]?.replaceAll("''", "'") ?? /^"(.*)"$/.exec(text)?.[1] ?? text;

/**
 * Parses the block style of YAML that the rule files use: nested maps and lists with scalars on one line.
 *
 * @throws Error on any other syntax, so that no file is misread
 */
export function readBlockYaml(source: string): Value {
  const lines: Line[] = source
    .split('\n')
    .filter((line) => line.trim() !== '' && !line.trim().startsWith('#'))
    .map((line) => ({ indent: line.length - line.trimStart().length, text: line.trim() }));
  let at = 0;

  function block(indent: number): Value {
    const first = lines[at]!;
    return first.text.startsWith('- ') ? list(indent) : map(indent);
  }
  function list(indent: number): Value[] {
    const items: Value[] = [];
    while (lines[at]?.indent === indent && lines[at]!.text.startsWith('- ')) {
      // The item is a map whose first key follows the dash.
      lines[at] = { indent: indent + 2, text: lines[at]!.text.slice(2) };
      items.push(map(indent + 2));
    }
    return items;
  }
  function map(indent: number): { [key: string]: Value } {
    const entries: { [key: string]: Value } = {};
    while (lines[at]?.indent === indent && !lines[at]!.text.startsWith('- ')) {
      const match = /^([\w-]+):(?: (.+))?$/.exec(lines[at]!.text);
      if (!match || /^[|>[{&*]/.test(match[2] ?? '')) throw new Error(`not plain block style: ${lines[at]!.text}`);
      if (match[1]! in entries) throw new Error(`twice: ${match[1]}`);
      at += 1;
      const next = lines[at];
      if (match[2] !== undefined) entries[match[1]!] = scalar(match[2]);
      else if (next && next.indent > indent) entries[match[1]!] = block(next.indent);
      else throw new Error(`without a value: ${match[1]}`);
    }
    return entries;
  }
  const value = block(0);
  if (at < lines.length) throw new Error(`not understood: ${lines[at]!.text}`);
  return value;
}
