import pg, { type PoolClient } from 'pg';
import type { Clock } from '../../system.ts';
import type { OutageLog } from './outage.ts';
import { isOwnLimit, isTransient, NoAnswer, sqlState } from './outcome.ts';

/** Statement to send, with its values. */
interface Sent extends Pick<Statement, 'name' | 'text' | 'writes'> {
  values: readonly unknown[];
}

/** Settings under which a statement is executed, independent of the earlier use of its connection. */
export interface Settings {
  /** Value of `search_path`. */
  searchPath: string;
  /** Milliseconds after which the server cancels the statement. */
  limitMs: number;
  /** Every other statement on the connection has the same settings, or others for its own transaction only. */
  standing: boolean;
}

interface ExchangeResult<Row> {
  rows: Row[];
  /** The server is a standby: its data may be stale, and it accepts no writes. */
  standby: boolean;
}

interface Column {
  name: string;
  parse(text: string): unknown;
}

/** Properties of a connection, learned by using it. */
interface Knowledge {
  /** The connection always reaches the same server process, so what is prepared and set there stays. */
  direct: boolean;
  /** The standing settings are set. */
  settled: boolean;
  /** It was taken for a direct one, and is not. */
  pooled: boolean;
  /** Columns of the statements prepared on it, by name. */
  prepared: Map<string, readonly Column[]>;
}

const nothingKnown = (pooled: boolean): Knowledge => ({ direct: false, settled: false, pooled, prepared: new Map() });

/** Parts of `pg` that its type declarations omit. `pg-cursor` is built on the same parts. */
interface Wire {
  parse(message: { name: string; text: string; types: string[] }): void;
  bind(message: { portal: string; statement: string; values: (string | Buffer | null)[] }): void;
  describe(message: { type: 'P'; name: string }): void;
  execute(message: { portal: string; rows: number }): void;
  close(message: { type: 'S'; name: string }): void;
  sync(): void;
}
interface RawQuery {
  queryMode: 'extended';
  callback: (error: unknown, rows: object[]) => void;
  prepare(connection: Wire): void;
  handleRowDescription(message: { fields: { name: string; dataTypeID: number }[] }): void;
  handleDataRow(message: { fields: (string | null)[] }): void;
  handleCommandComplete(message: object): void;
  handleReadyForQuery(): void;
}
const RawQuery = pg.Query as unknown as new (text: string) => RawQuery;
const { prepareValue } = (pg as unknown as { utils: { prepareValue(value: unknown): string | Buffer | null } }).utils;

/**
 * Times as text, as MikroORM expects them, and 64-bit integers as numbers: revisions and counts stay below 2^53. They are
 * named for each query, because the pool may be an application's.
 */
const types = new pg.TypeOverrides();
const { INT8, TIMESTAMP, TIMESTAMPTZ } = pg.types.builtins;
for (const oid of [TIMESTAMP, TIMESTAMPTZ]) types.setTypeParser(oid, String);
types.setTypeParser(INT8, Number);
const parserOf = (oid: number) => types.getTypeParser(oid, 'text') as unknown as Column['parse'];

/** `$3`: process id of the server process on which the settings may stay; on any other they end with the transaction. */
const SETTINGS = {
  name: 'holdfast_settings',
  text: `select set_config('search_path', $1, pg_backend_pid()::text <> $3),
                set_config('statement_timeout', $2, pg_backend_pid()::text <> $3),
                pg_backend_pid()::text, pg_is_in_recovery()::text`,
};

const known = new WeakMap<PoolClient, Knowledge>();

/**
 * Sends the settings and then the statement itself, in one round trip and one transaction. No setting outlives the
 * transaction, and no prepared statement is named, on a connection that may reach another server process next time. So the
 * same traffic works through a pooler in session mode and in transaction mode.
 *
 * A pooler makes up process ids for its clients, which differ from those of the server. That is how a direct connection is
 * recognised. There, statements are parsed once, and standing settings stay: a statement that writes is then sent alone, since a
 * standby would refuse it. Reads still ask whether the server is one.
 *
 * The time limit applies to the statement only: the server starts the timeout with its first message, and stops it before
 * the commit. A commit that waits for a synchronous replica is therefore never cut short; otherwise the call would report a
 * write as durable that a failover loses. For the same reason a call that timed out here is not cancelled at the server.
 */
class Exchange extends RawQuery {
  standby = false;
  readonly #client: PoolClient;
  readonly #knowledge: Knowledge;
  readonly #sent: Sent;
  readonly #values: (string | Buffer | null)[];
  readonly #settings: Settings;
  /** The statements are sent under their names. */
  readonly #named: boolean;
  readonly #rows: Record<string, unknown>[] = [];
  readonly #settingsSent: boolean;
  #inSettings: boolean;
  #columns: readonly Column[] | null = null;
  #fault: unknown = null;

  constructor(client: PoolClient, knowledge: Knowledge, sent: Sent, settings: Settings) {
    super(sent.text);
    this.queryMode = 'extended';
    this.#client = client;
    this.#knowledge = knowledge;
    this.#sent = sent;
    this.#values = sent.values.map((value) => prepareValue(value));
    this.#settings = settings;
    this.#named = knowledge.direct;
    // A statement that is not prepared yet would not show that the connection has moved to another server process.
    const alone = sent.writes && settings.standing && knowledge.settled && knowledge.prepared.has(sent.name);
    this.#settingsSent = !alone;
    this.#inSettings = this.#settingsSent;
  }

  get #processId(): string {
    return String((this.#client as { processID?: number }).processID);
  }

  override prepare(connection: Wire): void {
    if (this.#inSettings) {
      const { searchPath, limitMs, standing } = this.#settings;
      const stays = standing && !this.#knowledge.pooled;
      this.#bind(connection, SETTINGS, [searchPath, String(limitMs), stays ? this.#processId : '']);
      connection.execute({ portal: '', rows: 0 });
    }
    this.#columns = this.#bind(connection, this.#sent, this.#values);
    if (this.#columns === null) connection.describe({ type: 'P', name: '' });
    connection.execute({ portal: '', rows: 0 });
    connection.sync();
  }

  /** @returns the columns of the statement; null when it was not prepared before */
  #bind(connection: Wire, { name: own, text }: { name: string; text: string }, values: (string | Buffer | null)[]) {
    const name = this.#named ? own : '';
    const columns = this.#knowledge.prepared.get(name) ?? null;
    if (columns === null) {
      // It may be prepared already if an earlier exchange failed. Closing an unknown name is not an error.
      if (name !== '') connection.close({ type: 'S', name });
      connection.parse({ name, text, types: [] });
    }
    connection.bind({ portal: '', statement: name, values });
    return columns;
  }

  override handleRowDescription({ fields }: { fields: { name: string; dataTypeID: number }[] }): void {
    this.#columns = fields.map(({ name, dataTypeID }) => ({ name, parse: parserOf(dataTypeID) }));
  }

  override handleDataRow({ fields }: { fields: (string | null)[] }): void {
    if (this.#inSettings) {
      const [, , pid, standby] = fields;
      this.standby = standby === 'true';
      this.#knowledge.direct = !this.#knowledge.pooled && pid === this.#processId;
      return;
    }
    try {
      const row: Record<string, unknown> = {};
      for (const [index, { name, parse }] of this.#columns!.entries()) {
        const text = fields[index]!;
        row[name] = text === null ? null : parse(text);
      }
      this.#rows.push(row);
    } catch (error) {
      this.#fault ??= error;
    }
  }

  override handleCommandComplete(): void {
    this.#inSettings = false;
  }

  override handleReadyForQuery(): void {
    if (this.#fault === null) this.#remember();
    this.callback(this.#fault, this.#rows);
  }

  /** Notes what the connection has from now on. Call it only after success. */
  #remember(): void {
    const { direct, prepared } = this.#knowledge;
    if (direct && this.#settings.standing) this.#knowledge.settled = true;
    if (!this.#named) return;
    if (this.#settingsSent) prepared.set(SETTINGS.name, []);
    if (this.#sent.name !== '') prepared.set(this.#sent.name, this.#columns ?? []);
  }
}

/**
 * Executes one statement under its own settings.
 *
 * @throws PostgreSQL's error, or that of the connection
 */
function exchange<Row>(client: PoolClient, sent: Sent, settings: Settings) {
  let knowledge = known.get(client);
  if (!knowledge) known.set(client, (knowledge = nothingKnown(false)));
  const query = new Exchange(client, knowledge, sent, settings);
  return new Promise<ExchangeResult<Row>>((resolve, reject) => {
    query.callback = (error, rows) => {
      if (error) reject(error);
      else resolve({ rows: rows as Row[], standby: query.standby });
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
function wasPooled(client: PoolClient, state: string | null): boolean {
  const knowledge = known.get(client);
  if (!knowledge?.direct || (state !== '26000' && state !== '42P05')) return false;
  known.set(client, nothingKnown(true));
  return true;
}

/** Statement, prepared once per direct connection. The name also labels its count. */
export interface Statement {
  name: string;
  text: string;
  /** Milliseconds for this statement instead of the executor's timeout; for background work. */
  timeoutMs?: number;
  /**
   * It writes in any case, so that a standby refuses it. Goes before reads that wait for a connection: a turn that runs ends
   * before another one begins.
   */
  writes?: boolean;
}

/** Source of connections: a pool, or one connection of it. */
export interface Connections {
  connect(): Promise<PoolClient>;
}

export interface ExecutorOptions {
  pool: Connections;
  /** Only this executor uses the connections of `pool`: it keeps them between calls, and its settings on them. */
  own?: boolean;
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
/** Share of the timeout that a call must have left for the standing limit of the server, which ends before that. */
const NEARLY_WHOLE = 0.95;

/** Milliseconds after which an unused connection of an executor goes back to its pool, which closes it later. */
const KEPT_MS = 1_000;

/**
 * Creates an executor that applies the deadline on both sides: at the server, which stops abandoned statements, and here,
 * because a half-open connection never reports anything. The connection of a call abandoned here is destroyed with it: its
 * answer must not be taken for that of a later call.
 */
export function createExecutor(options: ExecutorOptions): Executor {
  const { pool, own = false, schema, timeoutMs, clock, outages, onStatement, size = Infinity } = options;
  const inFlight = new Set<(reason: string) => void>();
  const searchPath = searchPathOf(schema);
  const standing: Settings = { searchPath, limitMs: Math.max(1, Math.floor(timeoutMs * SERVER_SHARE)), standing: own };
  /** Connections without a call, the one used last at the end. */
  const kept: { client: PoolClient; since: number }[] = [];
  const watched = new WeakSet<PoolClient>();
  let tidying = false;
  /** Number of calls to which the pool has not given a connection yet. */
  let connecting = 0;
  let stopped = false;
  let inUse = 0;
  let answeredAt = Number.NEGATIVE_INFINITY;
  /** Calls that wait for a connection, in order: first those that go before the others. */
  const waiting = [new Set<() => boolean>(), new Set<() => boolean>()] as const;

  /** Watches a connection of its own: a pool does not notice that one which it has given away breaks. */
  function watch(client: PoolClient): void {
    if (!own || watched.has(client)) return;
    watched.add(client);
    client.on('error', () => {
      const at = kept.findIndex((each) => each.client === client);
      if (at >= 0) kept.splice(at, 1)[0]!.client.release(true);
    });
  }

  function giveBack(client: PoolClient, destroy: boolean): void {
    // A call may wait at the pool for just this connection.
    if (!own || destroy || stopped || connecting > 0) return client.release(destroy);
    kept.push({ client, since: clock.now() });
    tidy();
  }

  function tidy(): void {
    if (tidying || kept.length === 0) return;
    tidying = true;
    clock.after(KEPT_MS, () => {
      tidying = false;
      const before = clock.now() - KEPT_MS;
      while (kept.length > 0 && kept[0]!.since <= before) kept.shift()!.client.release();
      tidy();
    });
  }

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
      const line = waiting[statement.writes ? 0 : 1];
      let startedAt = clock.now();
      let begun = false;
      let client: PoolClient | null = null;
      let over = false;

      const finish = (destroy: boolean) => {
        over = true;
        disarm();
        inFlight.delete(giveUp);
        if (client) giveBack(client, destroy);
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
        const { name, text, writes } = statement;
        const left = withinMs - (clock.now() - startedAt);
        const nearlyWhole = statement.timeoutMs === undefined && left >= timeoutMs * NEARLY_WHOLE;
        const limitMs = Math.max(1, Math.floor(left * SERVER_SHARE));
        const settings = nearlyWhole ? standing : { searchPath, limitMs, standing: false };
        try {
          const result = await exchange<Row>(connected, { name, text, writes, values }, settings);
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
        const free = kept.pop();
        if (free) {
          client = free.client;
          return void ask(client);
        }
        connecting += 1;
        pool.connect().then(
          (connected) => {
            connecting -= 1;
            watch(connected);
            if (over) return giveBack(connected, false);
            client = connected;
            void ask(connected);
          },
          (error: unknown) => {
            connecting -= 1;
            failed(error);
          },
        );
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
      for (const { client } of kept.splice(0)) client.release();
    },
  };
}
