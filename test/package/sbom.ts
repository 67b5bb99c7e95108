import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../deploy/tools.ts';

interface Locked {
  name?: string;
  version: string;
  dev?: boolean;
  devDependencies?: Record<string, string>;
}

export interface Sbom {
  bomFormat: string;
  specVersion: string;
  serialNumber: string;
  metadata: { component: { name: string; version: string; purl: string } };
  components: { 'bom-ref': string; purl: string; version: string; hashes?: { alg: string; content: string }[] }[];
  dependencies: { ref: string; dependsOn: string[] }[];
}

const ROOT = join(import.meta.dirname, '..', '..');

/** Returns the package URL of a version in the registry of npm. */
const purl = (name: string, version: string) => `pkg:npm/${name.replace(/^@/, '%40')}@${version}`;

/** Returns the packages that the lock file installs for users, and those that it installs for development alone. */
async function locked() {
  const lock = JSON.parse(await readFile(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>;
  };
  const urls = (dev: boolean) =>
    Object.entries(lock.packages)
      .filter(([path, each]) => path !== '' && (each.dev === true) === dev)
      .map(([path, { name, version }]) => purl(name ?? path.split('node_modules/').at(-1)!, version));
  const used = new Set(urls(false));
  return { lock, used, development: new Set(urls(true).filter((url) => !used.has(url))) };
}

/**
 * Makes the bill of materials of the package, as CycloneDX: everything that an installation may contain, on any platform.
 * npm reads a lock file without the development dependencies, because its own `--omit=dev` also omits what both need.
 *
 * @returns its text
 * @throws an error that names what is missing or superfluous
 */
export async function makeSbom(): Promise<string> {
  const { lock, used, development } = await locked();
  const scratch = await mkdtemp(join(tmpdir(), 'holdfast-sbom-'));
  // npm calls the package by its folder.
  const folder = join(scratch, 'holdfast');
  try {
    await mkdir(folder);
    const manifest = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'));
    manifest.devDependencies = undefined;
    const packages = Object.fromEntries(Object.entries(lock.packages).filter(([, { dev }]) => !dev));
    packages[''] = { ...packages['']!, devDependencies: undefined };
    await writeFile(join(folder, 'package.json'), JSON.stringify(manifest));
    await writeFile(join(folder, 'package-lock.json'), JSON.stringify({ ...lock, packages }));
    const args = ['sbom', '--package-lock-only', '--sbom-format', 'cyclonedx', '--sbom-type', 'library'];
    const { code, stdout, stderr } = await run('npm', args, '', { cwd: folder });
    if (code !== 0) throw new Error(`npm sbom: ${stderr}`);
    const problems = problemsOf(JSON.parse(stdout), used, development);
    if (problems.length > 0) throw new Error(problems.join('\n'));
    return stdout;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/**
 * Checks a bill of materials.
 *
 * @param used package URLs that it must name
 * @param development package URLs that it must not name
 * @returns a sentence for each fault
 */
export function problemsOf(sbom: Sbom, used: ReadonlySet<string>, development: ReadonlySet<string>): string[] {
  const problems: string[] = [];
  if (sbom.bomFormat !== 'CycloneDX' || !/^1\.[4-9]$/.test(sbom.specVersion)) problems.push('It is not CycloneDX.');
  if (!/^urn:uuid:[0-9a-f-]{36}$/.test(sbom.serialNumber)) problems.push('It has no serial number.');
  const { name, version, purl: subject } = sbom.metadata.component;
  if (subject !== purl(name, version)) problems.push(`It describes ${subject} under the name ${name}.`);
  const named = new Set(sbom.components.map((each) => each.purl));
  for (const url of used) if (!named.has(url)) problems.push(`${url} is missing.`);
  for (const url of named) {
    if (development.has(url)) problems.push(`${url} is a development dependency.`);
    else if (!used.has(url)) problems.push(`${url} is not in the lock file.`);
  }
  for (const each of sbom.components) {
    if (!each.hashes?.some(({ alg }) => alg === 'SHA-512')) problems.push(`${each.purl} has no hash.`);
  }
  const refs = new Set([subject.slice('pkg:npm/'.length), ...sbom.components.map((each) => each['bom-ref'])]);
  for (const { ref, dependsOn } of sbom.dependencies) {
    for (const each of [ref, ...dependsOn]) if (!refs.has(each)) problems.push(`The reference ${each} leads nowhere.`);
  }
  return problems;
}

if (process.argv[1] === import.meta.filename) process.stdout.write(await makeSbom());
