import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { makeSbom, problemsOf, type Sbom } from './sbom.ts';

it('The bill of materials names every dependency of the package, and no development dependency', async () => {
  const sbom = JSON.parse(await makeSbom()) as Sbom;
  const { version, dependencies, optionalDependencies, devDependencies } = JSON.parse(
    await readFile('package.json', 'utf8'),
  );
  expect(sbom.metadata.component).toMatchObject({ name: 'holdfast', version });
  const named = sbom.components.map(({ purl }) => purl);
  for (const [name, wanted] of Object.entries({ ...dependencies, ...optionalDependencies })) {
    expect(named).toContain(`pkg:npm/${name.replace('@', '%40')}@${wanted}`);
  }
  for (const name of ['vitest', 'typescript', 'node', '@biomejs/biome']) {
    expect(devDependencies).toHaveProperty([name]);
    expect(named.filter((url) => url.startsWith(`pkg:npm/${name.replace('@', '%40')}@`))).toEqual([]);
  }

  const [first, ...rest] = sbom.components;
  const used = new Set(named);
  expect(problemsOf(sbom, used, new Set())).toEqual([]);
  expect(problemsOf({ ...sbom, components: rest }, used, new Set())).toContain(`${first!.purl} is missing.`);
  expect(problemsOf(sbom, used, new Set([first!.purl]))).toEqual([`${first!.purl} is a development dependency.`]);
}, 180_000);
