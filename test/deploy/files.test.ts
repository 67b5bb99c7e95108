import { execFile } from 'node:child_process';
import { access, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { variables } from './chart.ts';

/** Files that tell how to run Holdfast, and the one page about them. */
async function deployFiles(): Promise<string[]> {
  const { stdout } = await promisify(execFile)('git', [
    'ls-files',
    '--cached',
    '--others',
    '--exclude-standard',
    'deploy',
  ]);
  return [...stdout.trim().split('\n'), 'docs/deploy.md', '.github/workflows/release.yml', '.dockerignore'];
}

/** Names that look like settings, but belong to Docker Compose's own `.env`. */
const ofCompose = ['HOLDFAST_IMAGE', 'HOLDFAST_PORT'];

/** Paths of the repository in a text. Those of other projects and of installed files have another first part. */
const PATH = /(?<![\w/.@-])(?:deploy|docs|test|src|bin|\.github)\/[\w@./-]*[\w-]/g;

it('Every setting that a deployment file names exists', async () => {
  const files = await deployFiles();
  expect(files.length).toBeGreaterThan(20);
  for (const file of files) {
    // A trailing underscore is a prefix of names in prose, a star a pattern.
    const named = (await readFile(file, 'utf8')).match(/\bHOLDFAST_[A-Z_]*[A-Z]\b(?!\*)/g) ?? [];
    const unknown = named.filter((name) => !variables.includes(name) && !ofCompose.includes(name));
    expect(unknown, file).toEqual([]);
  }
});

it('Every path that a deployment file names exists', async () => {
  const missing: string[] = [];
  for (const file of await deployFiles()) {
    for (const [path] of (await readFile(file, 'utf8')).matchAll(PATH)) {
      // Inside the image, the package has the same layout as the repository, and secrets are made by the first start.
      if (path === 'deploy/compose/.env') continue;
      await access(path).catch(() => missing.push(`${file}: ${path}`));
    }
  }
  expect(missing).toEqual([]);
});
