import { createHash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export interface Asset {
  body: Buffer;
  type: string;
}

/** Files of the page, as they are: its own, and the three libraries it stands on. */
export interface Assets {
  /** Changes whenever a file does; part of every file's address. */
  readonly version: string;
  /** By name, e.g. `main.js` or `vendor/preact.js`. */
  get(name: string): Asset | undefined;
  /** Names of the libraries by what modules import them as. */
  readonly imports: Readonly<Record<string, string>>;
}

const types: Record<string, string> = {
  js: 'text/javascript; charset=utf-8',
  css: 'text/css; charset=utf-8',
  svg: 'image/svg+xml',
};

/** Resolved as this package resolves them, wherever they were installed. */
const libraries = {
  preact: { name: 'vendor/preact.js', url: () => import.meta.resolve('preact') },
  'preact/hooks': { name: 'vendor/hooks.js', url: () => import.meta.resolve('preact/hooks') },
  htm: { name: 'vendor/htm.js', url: () => import.meta.resolve('htm') },
  '@dagrejs/dagre': { name: 'vendor/dagre.js', url: () => import.meta.resolve('@dagrejs/dagre') },
} as const;

/** Their source maps are not served. */
const withoutMap = (text: string) => text.replace(/\n?\/\/# sourceMappingURL=.*\s*$/, '\n');

/** Reads every file, once: together they are small. Throws what the file system throws. */
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
