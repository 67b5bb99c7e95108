import { execFile } from 'node:child_process';
import { access, readFile } from 'node:fs/promises';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { parse } from 'yaml';
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
    const unknown = named.filter(
      (name) => !variables.includes(name.replace(/_FILE$/, '')) && !ofCompose.includes(name),
    );
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

it('A release publishes with provenance and an SBOM, and each job has only the permissions that it needs', async () => {
  const { on, permissions, jobs } = parse(await readFile('.github/workflows/release.yml', 'utf8'));
  expect(on).toEqual({ push: { tags: ['v*.*.*'] } });
  expect(permissions).toEqual({ contents: 'read' });
  const steps = (job: string) => jobs[job].steps as { run?: string; uses?: string; with?: Record<string, unknown> }[];
  const publish = steps('npm').findIndex(({ run }) => run === 'npm publish --provenance --access public');
  const sbom = steps('npm').findIndex(({ run }) => run?.startsWith('npm run -s sbom > '));
  expect(sbom).toBeGreaterThan(0);
  expect(publish).toBeGreaterThan(sbom);
  expect(jobs.npm.permissions).toEqual({ contents: 'read', 'id-token': 'write' });
  const build = steps('image').find(({ uses }) => uses?.startsWith('docker/build-push-action@'))!.with!;
  expect(build).toMatchObject({ file: 'deploy/docker/Dockerfile', sbom: true, provenance: 'mode=max' });
  expect(steps('image').at(-1)!.uses).toMatch(/^actions\/attest-build-provenance@/);
  for (const [name, job] of Object.entries<{ needs?: string; 'timeout-minutes': number }>(jobs)) {
    expect(job['timeout-minutes'], name).toBeGreaterThan(0);
    if (name !== 'check') expect(['check', 'image'], name).toContain(job.needs);
  }
});
