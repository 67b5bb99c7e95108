import { existsSync } from 'node:fs';
import { expect, it } from 'vitest';
import { readSources } from '../support/sources.ts';

/** Paths from the root, as documents and comments write them. Declarations are of `dist`. */
const PATH =
  /(?<![\w/.@-])((?:src|machines|test|bench|docs|deploy|examples)\/[\w./-]*\.(?:ts|md|js|json|ya?ml|conf))(?![\w/])/g;

it('Every path that a document, a comment or a list names exists', () => {
  const places = [
    'src',
    'machines',
    'test',
    'bench',
    'docs',
    'deploy',
    'examples',
    '.github',
    'README.md',
    'SECURITY.md',
  ];
  const missing = readSources(places, /\.(?:ts|js|md|ya?ml|conf)$/).flatMap(({ path, text }) =>
    [...text.matchAll(PATH)]
      .map(([, named]) => named!)
      .filter((named) => !named.endsWith('.d.ts') && !existsSync(named))
      .map((named) => `${path} names ${named}`),
  );
  expect(missing).toEqual([]);
});
