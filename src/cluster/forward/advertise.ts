import { networkInterfaces } from 'node:os';
import { request } from 'undici';
import { z } from 'zod';
import { type Config, ConfigError, isLoopback } from '../../config.ts';
import type { Clock } from '../../system.ts';
import { WORKER_PATH } from './protocol.ts';

interface AdvertiseOptions {
  /** HOLDFAST_ADVERTISE_URL, an origin; null derives one. */
  advertiseUrl: string | null;
  /** Host to which the internal listener is bound. */
  host: string;
  /** Port on which the internal listener listens. */
  port: number;
  /** PostgreSQL URL; null for the embedded database, which is always on this machine. */
  databaseUrl: string | null;
  /** Addresses of this machine. Default: those of its network interfaces. */
  addresses?: readonly MachineAddress[];
}

export interface MachineAddress {
  address: string;
  family: 'IPv4' | 'IPv6';
  internal: boolean;
}

const bare = (host: string) => host.replace(/^\[|\]$/g, '').toLowerCase();
const isUnspecified = (host: string) => ['0.0.0.0', '::', ''].includes(host);
const shown = (host: string) => (host.includes(':') ? `[${host}]` : host);

const machineAddresses = () => Object.values(networkInterfaces()).flatMap((each) => each ?? []);

/**
 * Returns whether an address is private: RFC 1918, the shared range of RFC 6598, or RFC 4193. No public network routes
 * these.
 */
function isPrivate(address: string): boolean {
  if (/^f[cd][\da-f]{2}:/i.test(address)) return true;
  const [a = 0, b = 0, ...rest] = address.split('.').map(Number);
  if (rest.length !== 2) return false;
  return a === 10 || (a === 172 && b >= 16 && b < 32) || (a === 192 && b === 168) || (a === 100 && b >= 64 && b < 128);
}

/**
 * Returns the host to which the internal listener binds, the first of:
 *
 * - HOLDFAST_INTERNAL_HOST;
 * - the host of HOLDFAST_ADVERTISE_URL, if it is a private address of this machine;
 * - loopback, while the database, and therefore every peer, is on this machine;
 * - HOST, if it is a private address;
 * - the machine's only private IPv4 address.
 *
 * It never selects a public address by itself: messages between peers are signed, but not encrypted.
 *
 * @throws ConfigError if no such address can be determined
 */
export function internalHost(
  config: Pick<Config, 'databaseUrl' | 'internal'> & { server: Pick<Config['server'], 'host'> },
  addresses: readonly MachineAddress[] = machineAddresses(),
): string {
  const { host, advertiseUrl } = config.internal;
  if (host !== null) return host;
  const own = new Set(addresses.map(({ address }) => address));
  const advertised = advertiseUrl === null ? '' : bare(new URL(advertiseUrl).hostname);
  if (isPrivate(advertised) && own.has(advertised)) return advertised;
  if (isHere(config.databaseUrl, addresses)) return '127.0.0.1';
  if (isPrivate(config.server.host)) return config.server.host;
  const found = addresses.filter(
    ({ address, family, internal }) => family === 'IPv4' && !internal && isPrivate(address),
  );
  if (found.length === 1) return found[0]!.address;
  throw new ConfigError(
    `The database is on another machine, and so may be other workers, but this machine has ${found.length} private ` +
      'addresses on which they could reach this one. Set HOLDFAST_INTERNAL_HOST to the address that they can reach, a ' +
      'public one only where a firewall lets nothing but workers through, or HOLDFAST_INSTANCE_POLICY=reject to run ' +
      'without forwarding.',
  );
}

/**
 * Returns the URL under which peers reach this worker. A wildcard address is never advertised, and a loopback address
 * only while the database, and therefore every peer, is on this machine. An unspecified internal host is replaced by
 * the machine's own address, if it has exactly one.
 *
 * @throws ConfigError whose message names the setting to change
 */
export function advertisedUrl(options: AdvertiseOptions): string {
  const addresses = options.addresses ?? machineAddresses();
  const databaseHere = isHere(options.databaseUrl, addresses);
  const url = options.advertiseUrl ?? derived(options, addresses, databaseHere);
  const host = bare(new URL(url).hostname);
  const named = options.advertiseUrl === null ? `The internal address ${url}` : `HOLDFAST_ADVERTISE_URL=${url}`;
  if (isUnspecified(host)) {
    throw new ConfigError(`${named} is no address a peer could connect to: name one of this machine's own.`);
  }
  if (isLoopback(host) && !databaseHere) {
    throw new ConfigError(
      `${named} means "this machine" to every reader, but the database is on another machine and so may be other ` +
        'workers. Set HOLDFAST_INTERNAL_HOST or HOLDFAST_ADVERTISE_URL to an address they can reach, or ' +
        'HOLDFAST_INSTANCE_POLICY=reject to run without forwarding.',
    );
  }
  return url;
}

function derived(options: AdvertiseOptions, addresses: readonly MachineAddress[], databaseHere: boolean): string {
  const host = bare(options.host);
  if (!isUnspecified(host)) return `http://${shown(host)}:${options.port}`;
  if (databaseHere) return `http://127.0.0.1:${options.port}`;
  const own = addresses.filter(({ family, internal }) => family === 'IPv4' && !internal);
  if (own.length === 1) return `http://${own[0]!.address}:${options.port}`;
  throw new ConfigError(
    `HOLDFAST_INTERNAL_HOST=${options.host} leaves open where peers find this worker, and the machine has ` +
      `${own.length} addresses of its own: set HOLDFAST_ADVERTISE_URL to http://address:port.`,
  );
}

/** Returns whether a database is on this machine: embedded, a Unix socket, loopback, or one of the machine's addresses. */
function isHere(databaseUrl: string | null, addresses: readonly MachineAddress[]): boolean {
  if (databaseUrl === null) return true;
  const url = URL.parse(databaseUrl);
  if (!url) return true;
  const host = bare(decodeURIComponent(url.hostname || url.searchParams.get('host') || ''));
  return host === '' || host.startsWith('/') || isLoopback(host) || addresses.some(({ address }) => address === host);
}

interface CheckOptions {
  url: string;
  workerId: string;
  clock: Clock;
  /** Time within which the URL must answer, in milliseconds (HOLDFAST_ADVERTISE_MS). DNS may need a moment. */
  timeoutMs: number;
}

const PAUSE_MS = 200;
const answerSchema = z.object({ id: z.string() });

/**
 * Checks, before the worker registers, that the advertised URL leads to this worker, not to a load balancer or to
 * another host with the same name. Retries while there is no answer.
 *
 * @throws ConfigError if another worker answers, or no worker does in time
 */
export async function checkAdvertised({ url, workerId, clock, timeoutMs }: CheckOptions): Promise<void> {
  const until = clock.now() + timeoutMs;
  for (;;) {
    const found = await ask(url, Math.max(1, until - clock.now()), clock);
    if (found.id === workerId) return;
    if (found.id !== null) {
      throw new ConfigError(
        `Other workers would not reach this one at ${url}: another worker answers there. ` +
          'HOLDFAST_ADVERTISE_URL must name this worker alone, not a balancer or an address several hosts share.',
      );
    }
    if (clock.now() + PAUSE_MS >= until) {
      throw new ConfigError(
        `Other workers would not reach this one at ${url}: ${found.reason}. Check HOLDFAST_ADVERTISE_URL, ` +
          `HOLDFAST_INTERNAL_HOST and HOLDFAST_INTERNAL_PORT. It was asked for ${timeoutMs} ms (HOLDFAST_ADVERTISE_MS).`,
      );
    }
    await new Promise<void>((done) => clock.after(PAUSE_MS, done));
  }
}

async function ask(url: string, ms: number, clock: Clock): Promise<{ id: string } | { id: null; reason: string }> {
  const given = new AbortController();
  const stop = clock.after(ms, () => given.abort());
  try {
    const answer = await request(new URL(WORKER_PATH, url), { signal: given.signal, reset: true });
    const text = await answer.body.text();
    const parsed = answer.statusCode === 200 ? answerSchema.safeParse(safeJson(text)) : null;
    return parsed?.success
      ? parsed.data
      : { id: null, reason: `what answers there (${answer.statusCode}) is no worker` };
  } catch (error) {
    const { code, name } = error as { code?: string; name: string };
    return { id: null, reason: given.signal.aborted ? 'nothing answers there in time' : `${code ?? name}` };
  } finally {
    stop();
  }
}

function safeJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
