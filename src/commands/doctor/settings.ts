import { access, constants, readFile, stat } from 'node:fs/promises';
import { allSettings, type Config, FILE_SUFFIX, isLoopback } from '../../config.ts';
import { proxyFor } from '../../upstream/proxies.ts';
import { version } from '../../version.ts';
import { type Finding, fault, type Machine, note, ok, warning } from './finding.ts';

/** The Node and the platform. */
export function checkRuntime(env: NodeJS.ProcessEnv): Finding[] {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const here = `Holdfast ${version} on Node ${process.versions.node}, ${process.platform} ${process.arch}`;
  const isOld = major < 22 || (major === 22 && minor < 19);
  const findings = [
    isOld ? fault('runtime', here, 'install Node 22.19 or newer; the newest LTS release is best') : ok('runtime', here),
  ];
  if (env.NODE_TLS_REJECT_UNAUTHORIZED === '0') {
    findings.push(
      fault(
        'tls',
        'NODE_TLS_REJECT_UNAUTHORIZED=0 accepts every certificate, so anybody on the way can read keys and answers',
        'remove it, and name the authority of a private certificate with NODE_EXTRA_CA_CERTS',
      ),
    );
  }
  return findings;
}

/** Fewest different characters of a random secret. */
const FEW_CHARACTERS = 8;
/** Shortest API key or admin token, in characters. */
const SHORT_KEY = 16;
/** Words that stand in examples, and that no random text of this length contains. */
const placeholder = /change|example|secret|password|placeholder|insecure|0123456789|123456|abcdef0|qwerty|admin/i;

/** Returns why a secret can be guessed; null when nothing shows that. */
function weaknessOf(secret: string): string | null {
  if (secret.length < SHORT_KEY) return `has ${secret.length} characters`;
  if (new Set(secret).size < FEW_CHARACTERS) return `has only ${new Set(secret).size} different characters`;
  for (let period = 1; period <= secret.length / 2; period += 1) {
    if (
      secret ===
      secret
        .slice(0, period)
        .repeat(Math.ceil(secret.length / period))
        .slice(0, secret.length)
    ) {
      return `repeats ${period} characters`;
    }
  }
  return placeholder.test(secret) ? 'looks like the placeholder of an example' : null;
}

const MAKE = 'make a random one with `openssl rand -hex 32`';

/** Secrets: whether they can be guessed, and whether one stands for another. */
export function checkSecrets({ security, upstream }: Config): Finding[] {
  const findings: Finding[] = [];
  const seen = new Map<string, string>();
  const look = (name: string, value: string, mend: string) => {
    const weak = weaknessOf(value);
    if (weak) findings.push(fault('secrets', `${name} ${weak}`, mend));
    const other = seen.get(value);
    if (other !== undefined && other !== name) {
      findings.push(fault('secrets', `${name} has the same value as ${other}`, `${MAKE} for one of them`));
    }
    seen.set(value, name);
  };
  for (const entry of (security.secrets ?? '').split(',').filter((each) => each.trim() !== '')) {
    const [kid, secret] = [entry.slice(0, entry.indexOf(':')).trim(), entry.slice(entry.indexOf(':') + 1).trim()];
    look(
      `secret "${kid}" of HOLDFAST_SECRETS`,
      secret,
      `${MAKE}, put it first, and remove this one when its tokens have expired`,
    );
  }
  for (const { tenant, key } of security.apiKeys) {
    look(`the API key of tenant "${tenant}"`, key, `${MAKE}, give it to that tenant, and replace this one`);
  }
  if (security.adminToken !== null) look('HOLDFAST_ADMIN_TOKEN', security.adminToken, MAKE);
  if (upstream.key !== null && seen.has(upstream.key)) {
    const mend = `${MAKE} for it: its holders could use the provider directly`;
    findings.push(fault('secrets', `${seen.get(upstream.key)} is the upstream key itself`, mend));
  }
  return findings.length > 0
    ? findings
    : [
        ok(
          'secrets',
          seen.size === 0
            ? 'no secret is set; what is needed is generated'
            : 'no secret can be guessed or has two uses',
        ),
      ];
}

const YEAR_MS = 365 * 86_400_000;

/** Files that hold secrets: who may read them, and how old they are. */
export async function checkSecretFiles(
  files: readonly { path: string; what: string }[],
  machine: Pick<Machine, 'wall'>,
): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const { path, what } of files) {
    const info = await stat(path).catch(() => null);
    if (!info) continue;
    // Mounted secrets belong to root and are read through a group; only everybody else is one too many.
    if (process.platform !== 'win32' && (info.mode & 0o007) !== 0) {
      findings.push(
        fault('secret files', `every user of this machine may read ${path} (${what})`, `run chmod 600 ${path}`),
      );
    }
    const age = machine.wall() - info.mtimeMs;
    if (age > YEAR_MS) {
      const mend = 'rotate it: docs/operations.md, Secrets';
      findings.push(warning('secret files', `${path} (${what}) is ${Math.floor(age / 86_400_000)} days old`, mend));
    }
  }
  return findings.length > 0 ? findings : [ok('secret files', 'no file with a secret is readable by others or old')];
}

/** Returns the files that settings name as the places of secrets. */
export const namedSecretFiles = (env: NodeJS.ProcessEnv): { path: string; what: string }[] =>
  allSettings.flatMap(({ variable, secret }) => {
    const path = secret && env[variable + FILE_SUFFIX]?.trim();
    return path ? [{ path, what: variable + FILE_SUFFIX }] : [];
  });

/** Who may reach the proxy, and whom it lets in. */
export function checkAccess({ server, security, upstream }: Config): Finding[] {
  const local = isLoopback(server.host);
  if (local && upstream.key !== null && security.apiKeys.length === 0) {
    return [
      note(
        'access',
        `every program of this machine may use the upstream key at ${server.host}:${server.port}`,
        'set HOLDFAST_API_KEYS where other users share this machine, or a proxy leads to this port',
      ),
    ];
  }
  if (!local && server.publicHosts.length === 0) {
    return [
      note(
        'access',
        `HOST=${server.host} is reachable by others, with API keys, under any name`,
        'list the names that clients use in HOLDFAST_PUBLIC_HOSTS',
      ),
    ];
  }
  return [
    ok(
      'access',
      local ? `only this machine reaches ${server.host}:${server.port}` : 'others need an API key and a listed name',
    ),
  ];
}

/** Outgoing proxies. */
export async function checkProxies({ upstream }: Config, env: NodeJS.ProcessEnv): Promise<Finding[]> {
  const findings: Finding[] = [];
  const way = proxyFor(upstream.proxies, upstream.url);
  const target = new URL(upstream.url).host;
  if (env.ALL_PROXY?.trim() || env.all_proxy?.trim()) {
    findings.push(
      warning(
        'proxy',
        'ALL_PROXY is set, and Holdfast does not read it',
        'set HTTPS_PROXY (or HTTP_PROXY for an http upstream) to an HTTP proxy',
      ),
    );
  }
  const { http, https } = upstream.proxies;
  const other = new URL(upstream.url).protocol === 'https:' ? http : https;
  if (way === null && other !== null && http?.href !== https?.href) {
    findings.push(
      note(
        'proxy',
        `a proxy is set for another scheme than that of the upstream, which is reached directly`,
        'set HTTPS_PROXY for an https upstream, HTTP_PROXY for an http one',
      ),
    );
  }
  const extra = env.NODE_EXTRA_CA_CERTS;
  if (
    extra &&
    !(await access(extra, constants.R_OK).then(
      () => true,
      () => false,
    ))
  ) {
    findings.push(
      warning(
        'tls',
        `NODE_EXTRA_CA_CERTS names ${extra}, which cannot be read, and Node ignores it`,
        'name a file with certificates in PEM format',
      ),
    );
  }
  findings.push(
    ok('proxy', way === null ? `${target} is reached directly` : `${target} is reached through ${way.host}`),
  );
  return findings;
}

/** File descriptors that one process may open. */
export async function checkDescriptors({ limits }: Config): Promise<Finding[]> {
  const text = await readFile('/proc/self/limits', 'utf8').catch(() => '');
  // Node raises its soft limit to the hard one.
  const limit = Number(/^Max open files\s+\S+\s+(\d+)/m.exec(text)?.[1]);
  if (!Number.isFinite(limit)) return [];
  const needed = limits.connections + limits.sockets;
  const says = `${limit} files and sockets may be open; connections and upstream sockets may need ${needed}`;
  return [
    limit < needed
      ? warning(
          'descriptors',
          says,
          'raise it (LimitNOFILE, ulimit -n), or lower HOLDFAST_MAX_CONNECTIONS and HOLDFAST_MAX_SOCKETS',
        )
      : ok('descriptors', `${limit} files and sockets may be open`),
  ];
}
