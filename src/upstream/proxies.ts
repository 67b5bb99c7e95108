import { BlockList, isIP } from 'node:net';

/** Outgoing proxies of this process, by the scheme of the target. */
export interface ProxySettings {
  readonly http: URL | null;
  readonly https: URL | null;
  /** `NO_PROXY`: hosts, domains, `host:port`, addresses, address ranges or `*`, separated by commas or blanks. */
  readonly none: string;
}

export const noProxies: ProxySettings = { http: null, https: null, none: '' };

/**
 * Reads `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` in either spelling. Lower case wins, as in other programs. An unusable
 * value is a problem, never a direct connection.
 *
 * @param problems receives one sentence per problem, with the variable's name but not its value, which may hold a password
 */
export function readProxies(env: NodeJS.ProcessEnv, problems: string[]): ProxySettings {
  const read = (name: string, lower: string | undefined, upper: string | undefined): URL | null => {
    const value = lower?.trim() || upper?.trim();
    if (!value) return null;
    const url = URL.parse(/^[a-z][a-z0-9+.-]*:\/\//i.test(value) ? value : `http://${value}`);
    if (url !== null && /^https?:$/.test(url.protocol) && url.hostname !== '') return url;
    problems.push(`${name} must be the address of an HTTP proxy, http://host:port`);
    return null;
  };
  return {
    http: read('HTTP_PROXY', env.http_proxy, env.HTTP_PROXY),
    https: read('HTTPS_PROXY', env.https_proxy, env.HTTPS_PROXY),
    none: env.no_proxy?.trim() || env.NO_PROXY?.trim() || '',
  };
}

const bare = (host: string) =>
  host
    .replace(/^\[(.*)\]$/, '$1')
    .replace(/\.$/, '')
    .toLowerCase();

function inRange(host: string, range: string): boolean {
  const [network = '', bits = ''] = range.split('/');
  const family = isIP(network);
  if (family === 0 || isIP(host) !== family || !/^\d{1,3}$/.test(bits)) return false;
  if (Number(bits) > (family === 4 ? 32 : 128)) return false;
  const list = new BlockList();
  const name = family === 4 ? 'ipv4' : 'ipv6';
  list.addSubnet(network, Number(bits), name);
  return list.check(host, name);
}

function isExcepted(target: URL, none: string): boolean {
  const host = bare(target.hostname);
  const port = target.port || (target.protocol === 'https:' ? '443' : '80');
  return none.split(/[\s,]+/).some((entry) => {
    if (entry === '') return false;
    if (entry === '*') return true;
    if (entry.includes('/')) return inRange(host, entry);
    // An IPv6 address has a port only after brackets.
    const split = isIP(entry) === 6 ? null : /^(.*?):(\d+)$/.exec(entry);
    if (split && split[2] !== port) return false;
    const name = bare(split?.[1] ?? entry).replace(/^\*?\./, '');
    return name !== '' && (host === name || host.endsWith(`.${name}`));
  });
}

/**
 * Selects the proxy for a target.
 *
 * @param baseUrl `http` or `https` address of the target
 * @returns null for a direct connection
 */
export function proxyFor(settings: ProxySettings, baseUrl: string): URL | null {
  const target = URL.parse(baseUrl);
  if (target === null) return null;
  const proxy = target.protocol === 'https:' ? settings.https : settings.http;
  return proxy !== null && !isExcepted(target, settings.none) ? proxy : null;
}
