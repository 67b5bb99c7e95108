import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Asset {
  body: Buffer;
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

/** Libraries, resolved as this package resolves its imports, independent of where they are installed. */
const libraries = {
  preact: { name: 'vendor/preact.js', url: () => import.meta.resolve('preact') },
  'preact/hooks': { name: 'vendor/hooks.js', url: () => import.meta.resolve('preact/hooks') },
  htm: { name: 'vendor/htm.js', url: () => import.meta.resolve('htm') },
  '@dagrejs/dagre': { name: 'vendor/dagre.js', url: () => import.meta.resolve('@dagrejs/dagre') },
} as const;

/** Removes the reference to the source map, which is not served. */
const withoutMap = (text: string) => text.replace(/\n?\/\/# sourceMappingURL=.*\s*$/, '\n');

/** Reads all files into memory; together they are small. Throws errors of the file system. */
export function readAssets(): Assets {
  const folder = join(import.meta.dirname, 'browser');
  const files = new Map<string, Buffer>();
  for (const name of readdirSync(folder).sort()) files.set(name, readFileSync(join(folder, name)));
  for (const { name, url } of Object.values(libraries)) {
    files.set(name, Buffer.from(withoutMap(readFileSync(fileURLToPath(url()), 'utf8'))));
  }
  const hash = createHash('sha256');
  for (const [name, body] of files) hash.update(`${name}\n${body.length}\n`).update(body);
  return {
    version: hash.digest('hex').slice(0, 12),
    get(name) {
      const body = files.get(name);
      const type = types[name.split('.').at(-1) ?? ''];
      return body && type ? { body, type } : undefined;
    },
    imports: Object.fromEntries(Object.entries(libraries).map(([specifier, { name }]) => [specifier, name])),
  };
}
