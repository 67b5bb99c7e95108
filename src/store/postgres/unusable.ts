import { connect } from 'node:net';
import pg from 'pg';
import { sqlState } from './outcome.ts';

/** The database cannot be used as it is. The message is one line: host, port, database, cause and remedy. */
export class DatabaseUnusable extends Error {
  override readonly name = 'DatabaseUnusable';
  /** The cause may pass without any intervention. */
  readonly passing: boolean;

  constructor(message: string, passing: boolean, cause?: unknown) {
    super(message, { cause });
    this.passing = passing;
  }
}

/** Destination of a connection URL, parsed by the driver's rules. Never includes the password. */
export interface Place {
  host: string;
  port: number;
  user: string;
  database: string;
  /** TLS starts without negotiation: nothing else may be sent first. */
  directTls: boolean;
  /** Host, port and database, for messages. */
  text: string;
}

/** Timeout of the probe for a PostgreSQL server at an address, in milliseconds. */
const PROBE_MS = 2_000;

const SCHEMES = /^(?:postgres|postgresql|socket):$/;

/**
 * Parses a connection URL.
 *
 * @throws `DatabaseUnusable` when it is not the address of a PostgreSQL
 */
export function placeOf(url: string): Place {
  const isPath = url.startsWith('/');
  const scheme = isPath ? null : URL.parse(url.replace('@/', '@localhost/'))?.protocol;
  if (!isPath && (scheme == null || !SCHEMES.test(scheme))) {
    throw new DatabaseUnusable(
      scheme == null
        ? 'DATABASE_URL is no address: expected postgres://user:password@host:5432/database, with every special character of the password percent-encoded (@ as %40, / as %2F, # as %23)'
        : `DATABASE_URL begins with "${scheme.slice(0, 40)}": expected postgres://user:password@host:5432/database`,
      false,
    );
  }
  try {
    const { host, port, user = '', database = '' } = new pg.Client({ connectionString: url });
    const at = host.startsWith('/') ? `socket ${host}` : `${host.includes(':') ? `[${host}]` : host}:${port}`;
    const directTls = /[?&]sslnegotiation=direct(?:&|$)/.test(url);
    return { host, port, user, database, directTls, text: `PostgreSQL at ${at}, database "${database}"` };
  } catch (cause) {
    // Do not show the driver's own message: it may quote the address with the password.
    throw new DatabaseUnusable('DATABASE_URL cannot be read: one of its parameters is malformed', false, cause);
  }
}

type Cause = [cause: string, passing: boolean];

const codeOf = (error: unknown): string => {
  const { code } = error as { code?: unknown };
  return typeof code === 'string' ? code : '';
};

/** Returns the cause of an error below the server: names, addresses, sockets, TLS. Null for other errors. */
function networkCause(error: unknown, { host, port }: Place): Cause | null {
  const code = codeOf(error);
  const message = error instanceof Error ? error.message : '';
  switch (code) {
    case 'ENOTFOUND':
      return [`no address is known for the host name "${host}" (ENOTFOUND): check the host in DATABASE_URL`, true];
    case 'EAI_AGAIN':
      return [`the name service did not answer for the host name "${host}" (EAI_AGAIN)`, true];
    case 'ECONNREFUSED':
      return [`the connection was refused (ECONNREFUSED): nothing listens on port ${port} there`, true];
    case 'ENOENT':
      return ['there is no such socket (ENOENT): is the server running on this machine?', true];
    case 'EACCES':
      return ['the socket may not be opened by this user (EACCES)', false];
    case 'ETIMEDOUT':
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'EHOSTDOWN':
      return [`the host cannot be reached (${code}): check address, routes and firewalls`, true];
    case 'ECONNRESET':
    case 'EPIPE':
      return [`the connection was cut (${code})`, true];
  }
  if (
    /^(?:timeout exp|timeout exceeded|connection terminated due to connection timeout|no answer within)/i.test(message)
  ) {
    return ['there was no answer in time: check address, routes and firewalls', true];
  }
  if (/^connection terminated/i.test(message)) {
    const cause =
      'the connection was closed without an answer: no PostgreSQL there, or a proxy or pooler without a server behind it';
    return [cause, true];
  }
  if (/does not support SSL/.test(message)) {
    return ['the server does not speak TLS: take sslmode or ssl out of DATABASE_URL, or switch TLS on there', false];
  }
  if (/^(?:CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/.test(code)) {
    return [
      `the server's certificate was not accepted (${code}): name its authority with sslrootcert, or NODE_EXTRA_CA_CERTS`,
      false,
    ];
  }
  if (/client password must be a (?:non-empty )?string/.test(message)) {
    return ['the server asks for a password, and DATABASE_URL has none', false];
  }
  return null;
}

/** Returns the cause of an error reported by the server, or by a pooler in its place. Null for other errors. */
function serverCause(error: unknown, { user, database }: Place): Cause | null {
  const state = sqlState(error);
  if (state === null) return null;
  const said = (error as Error).message;
  if (state === '28P01' || /authentication failed|auth failed|password/i.test(said)) {
    return [`the server refused the password of user "${user}" (${state})`, false];
  }
  if (state === '3D000' || /no such database/i.test(said)) {
    return [`there is no database "${database}" (${state}): create it, or name another one in DATABASE_URL`, false];
  }
  if (state.startsWith('28') || /no such user/i.test(said)) {
    return [`the server does not let user "${user}" in (${state}): ${said}`, false];
  }
  if (state === '42501') return [`user "${user}" lacks a right that is needed (${state}): ${said}`, false];
  if (state === '25006') return [READ_ONLY, true];
  if (state === '57P03') return [`the server is not ready (${state}): ${said}`, true];
  if (state.startsWith('53')) return [`the server has no room for another connection (${state}): ${said}`, true];
  if (state.startsWith('57') || state.startsWith('08')) return [`${said} (${state})`, true];
  if (state === '55P03') return ['another process has been migrating for too long, or holds a lock on a table', true];
  return [`${said} (${state})`, false];
}

const READ_ONLY =
  'it only follows another server, or is read-only: DATABASE_URL must lead to the primary, also after a failover';

/**
 * Checks that a PostgreSQL answers at an address: its answer to a TLS request is one letter. With any other service the
 * driver would wait for the end of what looks like a long message.
 *
 * @throws `DatabaseUnusable` when something else answers; no answer proves nothing
 */
export async function assertPostgres({ host, port, directTls, text }: Place): Promise<void> {
  if (host.startsWith('/') || directTls) return;
  const answer = await new Promise<string | null>((resolve) => {
    const socket = connect({ host, port });
    const settle = (said: string | null) => {
      socket.destroy();
      resolve(said);
    };
    socket.setTimeout(PROBE_MS, () => settle(null));
    socket.once('connect', () => socket.write(Uint8Array.of(0, 0, 0, 8, 4, 210, 22, 47)));
    socket.once('data', (bytes) => settle(bytes.toString('latin1')));
    for (const event of ['error', 'close']) socket.once(event, () => settle(null));
  });
  if (answer === null || /^[SN]$|^E/.test(answer)) return;
  throw new DatabaseUnusable(
    `${text}: what answers there is no PostgreSQL: check host and port in DATABASE_URL`,
    false,
  );
}

/** Returns a readable cause for the loss of a database that answered before. */
export function causeOf(error: unknown, place: Place): string {
  const [cause] = serverCause(error, place) ?? networkCause(error, place) ?? [];
  return cause ?? (error instanceof Error && error.message !== '' ? error.message : 'the connection was lost');
}

/** Converts an error at the opening of a database. */
export function unusable(error: unknown, place: Place): DatabaseUnusable {
  if (error instanceof DatabaseUnusable) return error;
  const [cause, passing] = serverCause(error, place) ??
    networkCause(error, place) ?? [error instanceof Error ? error.message : String(error), false];
  return new DatabaseUnusable(`${place.text}: ${cause}`, passing, error);
}

/**
 * Checks the server's version and role.
 *
 * @throws `DatabaseUnusable` for a server that is too old, or a standby
 */
export function assertServer(
  { versionNum, version, standby }: { versionNum: number; version: string; standby: boolean },
  place: Place,
): void {
  if (versionNum < MINIMUM_SERVER_VERSION) {
    throw new DatabaseUnusable(
      `${place.text}: Holdfast needs PostgreSQL 15 or newer; this server is ${version}`,
      false,
    );
  }
  if (standby) throw new DatabaseUnusable(`${place.text}: ${READ_ONLY}`, true);
}

/** Minimum version in PostgreSQL's own numbering: 150000 is 15.0. */
const MINIMUM_SERVER_VERSION = 150_000;
