import pg, { type PoolClient, type QueryResult } from 'pg';
import type { Clock } from '../../system.ts';
import type { OutageLog } from './outage.ts';
import { isOwnLimit, isTransient, NoAnswer, sqlState } from './outcome.ts';

/** Statement to send: text, values, and the name under which a connection keeps it prepared. */
export interface Sent {
  name: string;
  text: string;
  values: readonly unknown[];
}

/** Settings of one transaction, independent of the earlier use of its connection. */
export interface TransactionSettings {
  /** Value of `search_path`. */
  searchPath: string;
  /** Milliseconds after which the server cancels the statement. */
  limitMs: number;
}

export interface ExchangeResult<Row> {
  rows: Row[];
  /** The server is a standby: its data may be stale, and it accepts no writes. */
  standby: boolean;
}

/** Properties of a connection, learned by using it. */
interface Knowledge {
  /** The connection always reaches the same server process, so prepared statements stay available. */
  direct: boolean;
  /** Names of the statements prepared on it. */
  prepared: Set<string>;
}

/** Parts of `pg`'s connection and query that its type declarations omit. `pg-cursor` is built on the same parts. */
interface Wire {
  parsedStatements: Record<string, string>;
  parse(message: { name: string; text: string; types: string[] }): void;
  bind(message: { portal: string; statement: string; values: string[] }): void;
  execute(message: { portal: string; rows: number }): void;
  close(message: { type: 'S'; name: string }): void;
}
interface RawQuery {
  callback: (error: Error | null, result: QueryResult) => void;
  prepare(connection: Wire): void;
  handleDataRow(message: { fields: (string | null)[] }): void;
  handleCommandComplete(message: object, connection: Wire): void;
  handleError(error: Error, connection: Wire): void;
}
const RawQuery = pg.Query as unknown as new (config: {
  name: string;
  text: string;
  values: unknown[];
  queryMode: 'extended';
  types: pg.CustomTypesConfig;
}) => RawQuery;

/**
 * Times as text, as MikroORM expects them, and 64-bit integers as numbers: revisions and counts stay below 2^53. They are
 * named for each query, because the pool may be an application's.
 */
const types = new pg.TypeOverrides();
const { INT8, TIMESTAMP, TIMESTAMPTZ } = pg.types.builtins;
for (const oid of [TIMESTAMP, TIMESTAMPTZ]) types.setTypeParser(oid, String);
types.setTypeParser(INT8, Number);

const SETTINGS = {
  name: 'holdfast_settings',
  text: `select set_config('search_path', $1, true), set_config('statement_timeout', $2, true), pg_backend_pid()::text,
                pg_is_in_recovery()::text`,
};

const known = new WeakMap<PoolClient, Knowledge>();

/**
 * Sends two statements in one round trip and one transaction: the settings, then the statement itself. No setting outlives
 * the transaction, and no prepared statement is named on a connection that may reach another server process next time. So
 * the same traffic works through a pooler in session mode and in transaction mode.
 *
 * A pooler makes up process ids for its clients, which differ from those of the server. That is how a direct connection,
 * where statements are parsed once, is recognised.
 *
 * The time limit applies to the second statement only because the server restarts the timeout with each `Parse`, and stops
 * it before the commit. A commit that waits for a synchronous replica is therefore never cut short; otherwise the call
 * would report a write as durable that a failover loses. For the same reason a call that timed out here is not cancelled at
 * the server.
 */
class Exchange extends RawQuery {
  standby = false;
  readonly #client: PoolClient;
  readonly #knowledge: Knowledge;
  readonly #name: string;
  readonly #settings: readonly string[];
  #inSettings = true;

  constructor(client: PoolClient, knowledge: Knowledge, { name, text, values }: Sent, settings: TransactionSettings) {
    super({ name: knowledge.direct ? name : '', text, values: [...values], queryMode: 'extended', types });
    this.#client = client;
    this.#knowledge = knowledge;
    this.#name = knowledge.direct ? name : '';
    this.#settings = [settings.searchPath, String(settings.limitMs)];
  }

  override prepare(connection: Wire): void {
    const { direct, prepared } = this.#knowledge;
    const name = direct ? SETTINGS.name : '';
    // The statement may already be prepared if an earlier exchange failed. Closing an unknown name is not an error.
    const forget = (each: string) => {
      delete connection.parsedStatements[each];
      connection.close({ type: 'S', name: each });
    };
    if (!prepared.has(name)) {
      if (direct) forget(name);
      connection.parse({ name, text: SETTINGS.text, types: [] });
    }
    connection.bind({ portal: '', statement: name, values: [...this.#settings] });
    connection.execute({ portal: '', rows: 0 });
    if (direct && !prepared.has(this.#name)) forget(this.#name);
    super.prepare(connection);
  }

  override handleDataRow(message: { fields: (string | null)[] }): void {
    if (!this.#inSettings) return super.handleDataRow(message);
    const [, , pid, standby] = message.fields;
    this.standby = standby === 'true';
    this.#knowledge.direct = pid === String((this.#client as { processID?: number }).processID);
  }

  override handleCommandComplete(message: object, connection: Wire): void {
    if (this.#inSettings) this.#inSettings = false;
    else super.handleCommandComplete(message, connection);
  }

  /** Marks the statements as prepared. Call it only after success. */
  remember(): void {
    if (this.#name !== '') this.#knowledge.prepared.add(SETTINGS.name).add(this.#name);
  }
}

/**
 * Executes one statement under its own settings.
 *
 * @throws PostgreSQL's error, or that of the connection
 */
export function exchange<Row>(client: PoolClient, sent: Sent, settings: TransactionSettings) {
  const knowledge = known.get(client) ?? { direct: false, prepared: new Set() };
  known.set(client, knowledge);
  return new Promise<ExchangeResult<Row>>((resolve, reject) => {
    const query = new Exchange(client, knowledge, sent, settings);
    query.callback = (error, result) => {
      if (error) return reject(error);
      query.remember();
      resolve({ rows: result.rows as Row[], standby: query.standby });
    };
    client.query(query as unknown as pg.Submittable);
  });
}

/**
 * Returns whether the statement failed because the connection goes through a pooler that passes the server's process ids on
 * but switched to another server process. The connection then counts as pooled.
 *
 * @param state SQLSTATE of the error: unknown prepared statement, or one that exists already
 */
export function wasPooled(client: PoolClient, state: string | null): boolean {
  const knowledge = known.get(client);
  if (!knowledge?.direct || (state !== '26000' && state !== '42P05')) return false;
  knowledge.direct = false;
  return true;
}

/** Statement, prepared once per direct connection. The name also labels its count. */
export interface Statement {
  name: string;
  text: string;
  /** Milliseconds for this statement instead of the executor's timeout; for background work. */
  timeoutMs?: number;
  /** Goes before calls without it that wait for a connection: a turn that runs ends before another one begins. */
  first?: boolean;
}

/** Source of connections: a pool, or one connection of it. */
export interface Connections {
  connect(): Promise<PoolClient>;
}

export interface ExecutorOptions {
  pool: Connections;
  /** The schema that holds the tables and functions. */
  schema: string;
  /** Number of connections that `pool` gives at the same time. Default: no limit. */
  size?: number;
  /**
   * Milliseconds from the call to its answer. While all connections are in use, a call waits for one, and this time begins
   * with the last answer to an earlier call: as long as those are answered, the database is not silent.
   */
  timeoutMs: number;
  clock: Clock;
  outages?: OutageLog;
  onStatement?: (name: string) => void;
}

export interface Executor {
  /**
   * Executes one statement in one round trip, with autocommit.
   *
   * @throws `NoAnswer` when it is unknown whether the statement took effect, else PostgreSQL's error
   */
  run<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]>;
  /** Fails every call in flight with `NoAnswer`, and rejects later ones. */
  stop(): void;
}

/** Quotes a name for SQL text. */
export const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;

/**
 * Returns the `search_path` value. Temporary tables of other users of a pooled connection come last; by default they come
 * first.
 */
export const searchPathOf = (schema: string) => `${quoted(schema)}, pg_temp`;

/**
 * Share of a call's remaining time that the server gets as its limit. So the server gives up first: its answer leaves the
 * connection usable, and no server process continues an abandoned call.
 */
const SERVER_SHARE = 0.9;

/**
 * Creates an executor that applies the deadline on both sides: at the server, which stops abandoned statements, and here,
 * because a half-open connection never reports anything. The connection of a call abandoned here is destroyed with it: its
 * answer must not be taken for that of a later call.
 */
export function createExecutor(options: ExecutorOptions): Executor {
  const { pool, schema, timeoutMs, clock, outages, onStatement, size = Infinity } = options;
  const inFlight = new Set<(reason: string) => void>();
  const searchPath = searchPathOf(schema);
  let stopped = false;
  let inUse = 0;
  let answeredAt = Number.NEGATIVE_INFINITY;
  /** Calls that wait for a connection, in order: first those that go before the others. */
  const waiting = [new Set<() => boolean>(), new Set<() => boolean>()] as const;

  /** Passes a connection on to the next call whose time is not over. */
  function passOn(): void {
    for (const calls of waiting) {
      for (const begin of calls) {
        calls.delete(begin);
        if (begin()) return;
      }
    }
    inUse -= 1;
  }

  function run<Row>(statement: Statement, values: readonly unknown[]): Promise<Row[]> {
    if (stopped) return Promise.reject(new NoAnswer('the store is shut down'));
    onStatement?.(statement.name || statement.text);
    return new Promise((resolve, reject) => {
      const withinMs = statement.timeoutMs ?? timeoutMs;
      const line = waiting[statement.first ? 0 : 1];
      let startedAt = clock.now();
      let begun = false;
      let client: PoolClient | null = null;
      let over = false;

      const finish = (destroy: boolean) => {
        over = true;
        disarm();
        inFlight.delete(giveUp);
        client?.release(destroy);
        if (begun) passOn();
        else line.delete(begin);
      };
      const giveUp = (reason: string, keep = false) => {
        finish(!keep);
        reject(new NoAnswer(reason));
      };
      const failed = (error: unknown) => {
        if (over) return;
        const isLimit = isOwnLimit(error);
        if (!isTransient(error) || isLimit) answeredAt = clock.now();
        if (!isTransient(error)) {
          finish(false);
          reject(error);
        } else {
          if (!isLimit) outages?.failed(error, startedAt);
          giveUp(error instanceof Error && error.message !== '' ? error.message : String(error), isLimit);
        }
      };
      const silent = () => {
        const silentMs = clock.now() - Math.max(startedAt, answeredAt);
        if (!begun && silentMs < withinMs) {
          disarm = clock.after(withinMs - silentMs, silent);
          return;
        }
        const error = new Error(`no answer within ${withinMs} ms`);
        outages?.failed(error, startedAt);
        giveUp(error.message);
      };
      let disarm = clock.after(withinMs, silent);
      inFlight.add(giveUp);

      const ask = async (connected: PoolClient) => {
        const { name, text } = statement;
        const left = withinMs - (clock.now() - startedAt);
        const settings = { searchPath, limitMs: Math.max(1, Math.floor(left * SERVER_SHARE)) };
        try {
          const result = await exchange<Row>(connected, { name, text, values }, settings);
          if (over) return;
          if (result.standby) return failed(new Error('the server only follows another one'));
          outages?.answered();
          answeredAt = clock.now();
          finish(false);
          resolve(result.rows);
        } catch (error) {
          // Neither statement was executed: a prepared statement was missing, or its name was taken.
          if (!over && wasPooled(connected, sqlState(error))) return void ask(connected);
          failed(error);
        }
      };
      const connect = () => {
        begun = true;
        pool.connect().then((connected) => {
          if (over) return connected.release();
          client = connected;
          void ask(connected);
        }, failed);
      };
      const begin = () => {
        // After an answer, a call has its whole time; while the database is silent, only the rest of it.
        startedAt = Math.max(startedAt, answeredAt);
        disarm();
        const leftMs = startedAt + withinMs - clock.now();
        if (leftMs > 0) {
          disarm = clock.after(leftMs, silent);
          connect();
        } else silent();
        return leftMs > 0;
      };
      if (inUse >= size) return void line.add(begin);
      inUse += 1;
      connect();
    });
  }

  return {
    run,
    stop() {
      stopped = true;
      for (const giveUp of [...inFlight]) giveUp('the store is shut down');
    },
  };
}
