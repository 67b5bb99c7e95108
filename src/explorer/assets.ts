import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync, gzipSync } from 'node:zlib';

export interface Asset {
  body: Buffer;
  /** The body compressed with gzip, for browsers that accept it: all do. */
  packed: Buffer;
  type: string;
}

/** Files of the page, served unchanged: its own files and the libraries it uses. */
export interface Assets {
  /** Hash over all files. It is part of every file's URL, so a change of any file changes all URLs. */
  readonly version: string;
  /** Returns a file by name, for example `main.js` or `vendor/preact.js`. */
  get(name: string): Asset | undefined;
  /** File names of the libraries, by the specifier with which modules import them. */
  readonly imports: Readonly<Record<string, string>>;
}

const types: Record<string, string> = {
  js: 'text/javascript; charset=utf-8',
  css: 'text/css; charset=utf-8',
  svg: 'image/svg+xml',
};

interface Library {
  name: string;
  url(): string;
  /** Text added to the file. */
  ending?: string;
}

/** Libraries, resolved as this package resolves its imports, independent of where they are installed. */
const libraries = {
  preact: { name: 'vendor/preact.js', url: () => import.meta.resolve('preact') },
  'preact/hooks': { name: 'vendor/hooks.js', url: () => import.meta.resolve('preact/hooks') },
  htm: { name: 'vendor/htm.js', url: () => import.meta.resolve('htm') },
  // The minified build of the library is a script that declares a variable; as a module it also exports it.
  uplot: {
    name: 'vendor/uplot.js',
    url: () => import.meta.resolve('uplot/dist/uPlot.iife.min.js'),
    ending: 'export default uPlot;\n',
  },
  '@dagrejs/dagre': { name: 'vendor/dagre.js', url: () => import.meta.resolve('@dagrejs/dagre') },
} satisfies Record<string, Library>;

/** Style sheets of libraries. */
const libraryStyles = [{ name: 'vendor/uplot.css', url: () => import.meta.resolve('uplot/dist/uPlot.min.css') }];

/** Removes the reference to the source map, which is not served. */
const withoutMap = (text: string) => text.replace(/\n?\/\/# sourceMappingURL=.*\s*$/, '\n');

/** Reads all files into memory; together they are small. Throws errors of the file system. */
export function readAssets(): Assets {
  const folder = join(import.meta.dirname, 'browser');
  const files = new Map<string, Buffer>();
  const packed = new Map<string, Buffer>();
  for (const file of readdirSync(folder).sort()) {
    const bytes = readFileSync(join(folder, file));
    // The build stores its own files compressed, in the form in which they are served.
    const name = file.replace(/\.gz$/, '');
    if (name !== file) packed.set(name, bytes);
    files.set(name, name === file ? bytes : gunzipSync(bytes));
  }
  for (const { name, url, ending = '' } of [...Object.values(libraries), ...libraryStyles] as Library[]) {
    files.set(name, Buffer.from(withoutMap(readFileSync(fileURLToPath(url()), 'utf8')) + ending));
  }
  const hash = createHash('sha256');
  for (const [name, body] of files) hash.update(`${name}\n${body.length}\n`).update(body);
  return {
    version: hash.digest('hex').slice(0, 12),
    get(name) {
      const body = files.get(name);
      const type = types[name.split('.').at(-1) ?? ''];
      if (!body || !type) return undefined;
      const small = packed.get(name) ?? gzipSync(body, { level: 9 });
      packed.set(name, small);
      return { body, packed: small, type };
    },
    imports: Object.fromEntries(Object.entries(libraries).map(([specifier, { name }]) => [specifier, name])),
  };
}
