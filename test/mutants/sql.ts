/** A change within SQL text. */
export interface SqlMutation {
  start: number;
  end: number;
  replacement: string;
  operator: string;
}

const LOOKS_LIKE_SQL =
  /\b(?:select|insert into|update|delete from|create (?:unique )?(?:function|table|index)|where)\b/;

/**
 * Masks `''` strings, comments and `${}` with text of the same length, so that offsets stay valid and nothing inside is
 * mutated.
 */
function masked(text: string): string {
  let out = '';
  for (let at = 0; at < text.length; ) {
    const rest = text.slice(at);
    const hidden = /^(?:--[^\n]*|'(?:[^'\\]|\\.|'')*')/.exec(rest)?.[0];
    if (hidden) {
      out += '\u0001'.repeat(hidden.length);
      at += hidden.length;
    } else if (rest.startsWith('${')) {
      let depth = 0;
      let end = at + 1;
      do {
        if (text[end] === '{') depth += 1;
        if (text[end] === '}') depth -= 1;
        end += 1;
      } while (depth > 0 && end < text.length);
      out += '\u0001'.repeat(end - at);
      at = end;
    } else {
      out += text[at];
      at += 1;
    }
  }
  return out;
}

/**
 * Returns the end of a condition that begins at `from`: its closing parenthesis, or the next keyword that can follow
 * it.
 */
function conditionEnd(text: string, from: number): number {
  const stop = /^(?:and|or|then|order|group|limit|returning|for|on|union|when|else|where|do|left|join|cross|loop)\b/;
  let depth = 0;
  let cases = 0;
  for (let at = from; at < text.length; at += 1) {
    const char = text[at]!;
    if (char === '(') depth += 1;
    else if (char === ')') {
      if (depth === 0) return at;
      depth -= 1;
    } else if (depth === 0) {
      if (char === ';' || char === ',') return at;
      if (/\w/.test(char) && !/\w/.test(text[at - 1] ?? ' ')) {
        const rest = text.slice(at);
        if (/^case\b/.test(rest)) cases += 1;
        else if (/^end\b/.test(rest)) {
          if (cases === 0) return at;
          cases -= 1;
        } else if (cases === 0 && stop.test(rest)) return at;
      }
    }
  }
  return text.length;
}

/** Returns the arguments of a call, split at its top-level commas. */
function argumentsAt(text: string, open: number): { start: number; end: number }[] {
  const found: { start: number; end: number }[] = [];
  let depth = 0;
  let start = open + 1;
  for (let at = open; at < text.length; at += 1) {
    if (text[at] === '(') depth += 1;
    if (text[at] === ')') depth -= 1;
    if ((text[at] === ',' && depth === 1) || depth === 0) {
      found.push({ start, end: at });
      start = at + 1;
    }
    if (depth === 0) break;
  }
  return found;
}

/** Words and operators with their replacements; the first match at a place applies. */
const replacements: readonly [RegExp, string, string[]][] = [
  [/\bis not distinct from\b/g, 'sql comparison', ['is distinct from']],
  [/\bis distinct from\b/g, 'sql comparison', ['is not distinct from']],
  [/\bis not null\b/g, 'sql comparison', ['is null']],
  [/\bis null\b/g, 'sql comparison', ['is not null']],
  [/\bis not true\b/g, 'sql comparison', ['is true']],
  [/\bnot exists\b/g, 'sql comparison', ['exists']],
  [/(?<!not )\bexists\b(?= *\()/g, 'sql comparison', ['not exists']],
  [/\bif not found\b/g, 'sql condition', ['if false', 'if true']],
  [/(?<=\s)<>(?=\s)/g, 'sql comparison', ['=']],
  [/(?<=\s)<(?=\s)/g, 'sql comparison', ['<=', '>']],
  [/(?<=\s)<=(?=\s)/g, 'sql comparison', ['<', '>']],
  [/(?<=\s)>(?=\s)/g, 'sql comparison', ['>=', '<']],
  [/(?<=\s)>=(?=\s)/g, 'sql comparison', ['>', '<']],
  [/(?<=\w) \+ 1\b/g, 'sql arithmetic', ['', ' - 1']],
  [/(?<=\) )\+(?= )/g, 'sql arithmetic', ['-']],
  [/(?<=\) )-(?= )/g, 'sql arithmetic', ['+']],
  [/\bor\b(?! replace)/g, 'sql operand', ['and']],
  [/\bskip locked\b/g, 'sql lock', ['']],
  [/\bfor update(?: of \w+)?(?! of)(?! skip)/g, 'sql lock', ['']],
  [/\bon conflict\b[^)]*\) do nothing/g, 'sql conflict', ['']],
  [/(?<= )desc\b/g, 'sql order', ['asc']],
  [/\bunion all\b/g, 'sql union', ['union']],
  [/\bunion\b(?! all)/g, 'sql union', ['union all']],
  [/\bleft join\b/g, 'sql join', ['join']],
  [/\bdistinct (?=\w+\.)/g, 'sql distinct', ['']],
  [/\b(?:clock_timestamp|now)\(\) (?:\+|-) /g, 'sql time', ['now() + 2 * ']],
  [/\btrue\b/g, 'sql boolean', ['false']],
  [/\bfalse\b/g, 'sql boolean', ['true']],
  [/\bmin\(/g, 'sql aggregate', ['max(']],
  [/\bgreatest\(/g, 'sql aggregate', ['least(']],
  [/\bleast\(/g, 'sql aggregate', ['greatest(']],
];

/**
 * Returns the mutants of SQL text as it stands between the quotes of the source; none for a text that is no SQL.
 *
 * @returns changes with offsets into the text
 */
export function sqlMutations(literal: string): SqlMutation[] {
  if (!LOOKS_LIKE_SQL.test(literal)) return [];
  const text = masked(literal);
  const found: SqlMutation[] = [];
  const add = (start: number, end: number, replacement: string, operator: string) => {
    if (literal.slice(start, end) !== replacement) found.push({ start, end, replacement, operator });
  };
  const each = (pattern: RegExp, use: (match: RegExpExecArray) => void) => {
    for (const match of text.matchAll(pattern)) use(match);
  };

  const taken: [number, number][] = [];
  for (const [pattern, operator, texts] of replacements) {
    each(pattern, ({ index, 0: matched }) => {
      const end = index + matched.length;
      if (taken.some(([from, to]) => index < to && from < end)) return;
      taken.push([index, end]);
      for (const replacement of texts) add(index, end, replacement, operator);
    });
  }
  each(/(?<![:<>!]) = /g, ({ index }) => {
    // An assignment stands at the start of its line, after `set`, or after a comma.
    if (!/(?:\n[ \t]*|\bset |, )\w+$/.test(text.slice(0, index))) add(index, index + 3, ' <> ', 'sql comparison');
  });
  each(/\b(and|or) (?!replace)/g, ({ index, 0: word }) => {
    const end = conditionEnd(text, index + word.length);
    const kept = text.slice(0, end).trimEnd().length;
    if (!/^between\b/.test(text.slice(0, index).trimEnd().split(/\s/).at(-2) ?? ''))
      add(index, kept, '', 'sql removed condition');
  });
  each(/\b(where|on|when) (?!conflict|delete)/g, ({ index, 0: word }) => {
    const start = index + word.length;
    const kept = text.slice(0, conditionEnd(text, start)).trimEnd().length;
    if (/^\w*violation/.test(text.slice(start))) return;
    add(start, kept, 'true', 'sql removed condition');
  });
  each(/\b(?:els)?if (?!not found\b)/g, ({ index, 0: word }) => {
    const start = index + word.length;
    const end = text.indexOf(' then', start);
    if (end < 0 || text.slice(start, end).includes(';')) return;
    add(start, end, 'false', 'sql condition');
    add(start, end, 'true', 'sql condition');
  });
  each(/\bcase when /g, ({ index, 0: word }) => {
    const start = index + word.length;
    const end = text.indexOf(' then', start);
    if (end > 0) add(start, end, 'false', 'sql condition');
  });
  each(/\bcoalesce\(/g, ({ index, 0: word }) => {
    const parts = argumentsAt(text, index + word.length - 1);
    if (parts.length !== 2) return;
    const [first, second] = parts as [{ start: number; end: number }, { start: number; end: number }];
    const end = second.end + 1;
    add(index, end, `(${literal.slice(first.start, first.end)})`, 'sql coalesce');
    add(index, end, `(${literal.slice(second.start, second.end)})`, 'sql coalesce');
    const [a, b] = [literal.slice(first.start, first.end).trim(), literal.slice(second.start, second.end).trim()];
    if (!/^(?:''|'\[\]'|'\{\}'|0|false|true)/.test(b)) add(index, end, `coalesce(${b}, ${a})`, 'sql coalesce');
  });
  // Lists of assignments and of fields are written one per line.
  each(/(?<=\n[ \t]*(?:set )?)(\w+) = [^\n]*,(?=\n)/g, ({ index, 0: matched }) => {
    add(index, index + matched.length, '', 'sql assignment');
  });
  each(/,\n[ \t]*(\w+) = [^\n,]*(?=\n[ \t]*(?:where|returning)\b)/g, ({ index, 0: matched }) => {
    add(index, index + matched.length, '', 'sql assignment');
  });
  each(/\n[ \t]*((?:update|delete from|insert into|perform)\b[^;]*;)/g, ({ index, 0: matched }) => {
    const start = index + matched.search(/\S/);
    add(start, index + matched.length, 'null;', 'sql statement');
  });
  // String literals that are states, verdicts or kinds.
  for (const match of literal.matchAll(/'(\w[\w ]*)'/g))
    if (text[match.index] === '\u0001') {
      const before = text.slice(0, match.index).trimEnd();
      if (/(?:=|<>|\bin \(|,|then|else|set state =)$/.test(before) && !/json_build_object\($/.test(before))
        add(match.index, match.index + match[0].length, "'mutant'", 'sql text');
    }
  return found.sort((a, b) => a.start - b.start || a.end - b.end);
}
