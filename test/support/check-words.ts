import { parseSync } from 'oxc-parser';
import { lineAt, readSources, report, type Source } from './sources.ts';

/**
 * `node test/support/check-words.ts`: fails when a comment, message, test name or document uses a word that a colleague
 * would not say in a review. Identifiers and one-word values are not checked: they are API, or private to a file.
 */
const WORDS = /(?<![\w."'$-])(?:nobody|whoever|somebody|anew|for ever|shall|told|said)\b/gi;

/** Returns the offsets and texts that are written for readers: comments, and strings of more than one word. */
function proseOf({ path, text }: Source): { start: number; value: string }[] {
  if (path.endsWith('.md')) {
    // Keep the length of code, so that offsets stay right.
    const prose = text.replace(/^```[\s\S]*?^```|`[^`\n]*`/gm, (code) => code.replace(/[^\n]/g, ' '));
    return [{ start: 0, value: prose }];
  }
  const { program, comments } = parseSync(path, text);
  const found = comments.map(({ start, value }) => ({ start: start + 2, value }));
  const walk = (node: unknown): void => {
    if (Array.isArray(node)) return node.forEach(walk);
    if (typeof node !== 'object' || node === null) return;
    const { type, start, value } = node as { type?: string; start: number; value?: unknown };
    if (type === 'Literal' && typeof value === 'string' && /\s/.test(value)) found.push({ start: start + 1, value });
    if (type === 'TemplateElement') found.push({ start, value: (value as { raw: string }).raw });
    for (const child of Object.values(node)) walk(child);
  };
  walk(program);
  return found;
}

const problems = readSources(
  ['src', 'machines', 'test', 'bench', 'docs', '.github', 'README.md', 'SECURITY.md'],
  /\.(?:ts|js|md)$/,
)
  .filter(({ path, text }) => text.search(WORDS) >= 0 && !path.endsWith('test/support/check-words.ts'))
  .flatMap((source) =>
    proseOf(source).flatMap(({ start, value }) =>
      [...value.matchAll(WORDS)].map((match) => {
        const line = lineAt(source.text, start + match.index);
        const around = value.slice(Math.max(0, match.index - 30), match.index + 30).replaceAll(/\s+/g, ' ');
        return `${source.path}:${line} "${match[0]}" in: ${around}`;
      }),
    ),
  );
report('check:words', problems, 'Write plain English: CONTRIBUTING, Rules.');
