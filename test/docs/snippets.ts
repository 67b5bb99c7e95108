import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const ROOT = new URL('../../', import.meta.url);
/** Inside the project, so that snippets resolve its packages; outside the folders that are linted and collected. */
const PLACE = fileURLToPath(new URL('.extracted/', import.meta.url));

/** Source files of the package's entry points, since the package is not built. */
const SOURCES: Record<string, string> = {
  holdfast: 'src/index.ts',
  'holdfast/machines': 'machines/index.ts',
  'holdfast/testing': 'src/testing/index.ts',
};

/**
 * Returns the fenced block that follows this text, also one in an item of a list.
 * @throws Error when the document has no such block
 */
export async function snippetAfter(document: string, marker: string): Promise<string> {
  const text = await readFile(new URL(document, ROOT), 'utf8');
  const [, after] = text.split(marker);
  const code = after && /^ *```\w+\n([\s\S]*?)^ *```$/m.exec(after)?.[1];
  if (!code) throw new Error(`${document} has no code after ${marker}`);
  return code;
}

/** Address at which the pages' programs expect the bridge. */
export const BASE_URL = 'http://127.0.0.1:8787';

/** Returns all programs in TypeScript of a document, in their order. */
export async function snippetsOf(document: string): Promise<string[]> {
  const text = await readFile(new URL(document, ROOT), 'utf8');
  return [...text.matchAll(/^```ts\n([\s\S]*?)^```$/gm)].map(([, code]) => code!);
}

/** Replaces a text that must occur exactly once. */
export function replaceOnce(code: string, what: string, by: string): string {
  const parts = code.split(what);
  if (parts.length !== 2) throw new Error(`${what} stands ${parts.length - 1} times in:\n${code}`);
  return parts.join(by);
}

/** Writes code to a file that can be imported or run, with its imports of this package resolved to the sources. */
export async function writeSnippet(name: string, code: string): Promise<{ file: string; remove(): Promise<void> }> {
  const led = code.replace(
    /from '(holdfast(?:\/\w+)?)'/g,
    (_, entry: string) => `from '${new URL(SOURCES[entry]!, ROOT)}'`,
  );
  await mkdir(PLACE, { recursive: true });
  const file = join(PLACE, `${name}-${process.pid}.ts`);
  await writeFile(file, led);
  return { file, remove: () => rm(file) };
}

/** Turns an example, named in a comment above it in a document, into a module. */
export async function extractExample(document: string, name: string, change: (code: string) => string = String) {
  const code = change(await snippetAfter(document, `<!-- example: ${name} -->`));
  const { file, remove } = await writeSnippet(name, code);
  return { code, file: pathToFileURL(file).href, remove };
}
