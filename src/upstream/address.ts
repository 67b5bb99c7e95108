/**
 * Returns the HTTP address of `path` (which may have a query) below a provider's base URL. A query of the base URL itself,
 * such as an API version, is kept.
 *
 * @throws `TypeError` for a base that is no http(s) URL, and for a path that leaves it: dot segments could otherwise reach
 *   addresses that the credential is not meant for
 */
export function httpAddress(baseUrl: string, path: string): URL {
  const base = new URL(baseUrl);
  if (base.protocol !== 'http:' && base.protocol !== 'https:') throw new TypeError('the upstream URL is not http(s)');
  const prefix = base.pathname.replace(/\/+$/, '');
  const [pathname = '', query = ''] = path.split(/\?(.*)/s);
  const address = new URL(base);
  address.hash = '';
  address.pathname = prefix + pathname;
  if (!pathname.startsWith('/') || address.pathname !== prefix + pathname || /%2e/i.test(pathname)) {
    throw new TypeError('the path does not stay below the upstream URL');
  }
  for (const [name, value] of new URLSearchParams(query)) address.searchParams.append(name, value);
  return address;
}

/**
 * Returns the WebSocket address of the same place: `https` becomes `wss`, `http` becomes `ws`.
 *
 * @throws `TypeError` as `httpAddress` does
 */
export function webSocketAddress(baseUrl: string, path: string): URL {
  const address = httpAddress(baseUrl, path);
  address.protocol = address.protocol === 'https:' ? 'wss:' : 'ws:';
  return address;
}
