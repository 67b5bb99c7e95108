import pg, { type PoolClient, type QueryResult } from 'pg';

/** A statement as it is sent: text, values and the name under which a connection keeps it parsed. */
export interface Sent {
  name: string;
  text: string;
  values: readonly unknown[];
}

/** What holds for one transaction, whatever its connection was used for before. */
export interface TransactionSettings {
  /** Value of `search_path`. */
  searchPath: string;
  /** Milliseconds after which the server gives the statement up. */
  limitMs: number;
}

export interface ExchangeResult<Row> {
  rows: Row[];
  /** The server only follows another one: what it read may be old, and it writes nothing. */
  standby: boolean;
}

/** What was learnt of a connection by using it. */
interface Knowledge {
  /** It leads to one and the same server process, so that what is prepared on it stays. */
  direct: boolean;
  /** Statements that are prepared on it. */
  prepared: Set<string>;
}

/** Parts of `pg`'s connection and query that its type declarations leave out; `pg-cursor` is built on the same. */
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
}) => RawQuery;

const SETTINGS = {
  name: 'holdfast_settings',
  text: `select set_config('search_path', $1, true), set_config('statement_timeout', $2, true), pg_backend_pid()::text,
                pg_is_in_recovery()::text`,
};

const known = new WeakMap<PoolClient, Knowledge>();

/**
 * Two statements in one round trip and one transaction: its settings, then what is asked. Nothing is set for longer than
 * the transaction and nothing is named on a connection that may lead to another server process next time, so that the
 * same traffic passes a pooler in session and in transaction mode.
 *
 * Between a pooler and the server, process ids differ from those that the pooler made up for its clients: that is how a
 * direct connection, where statements are parsed once, is distinguished from one through a pooler.
 *
 * The server takes the limit for the second statement only because it begins a new one with each `Parse`, and ends it
 * before the commit: a commit that waits for a synchronous replica is never cut short, which would report as lasting
 * what a failover loses. A call that was given up is not cancelled for the same reason.
 */
class Exchange extends RawQuery {
  standby = false;
  readonly #client: PoolClient;
  readonly #knowledge: Knowledge;
  readonly #name: string;
  readonly #settings: readonly string[];
  #inSettings = true;

  constructor(client: PoolClient, knowledge: Knowledge, { name, text, values }: Sent, settings: TransactionSettings) {
    super({ name: knowledge.direct ? name : '', text, values: [...values], queryMode: 'extended' });
    this.#client = client;
    this.#knowledge = knowledge;
    this.#name = knowledge.direct ? name : '';
    this.#settings = [settings.searchPath, String(settings.limitMs)];
  }

  override prepare(connection: Wire): void {
    const { direct, prepared } = this.#knowledge;
    const name = direct ? SETTINGS.name : '';
    // A statement of unknown fate may be there already: closing one that is not is no error.
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

  /** To be called when it ended well: what it parsed stays parsed. */
  remember(): void {
    if (this.#name !== '') this.#knowledge.prepared.add(SETTINGS.name).add(this.#name);
  }
}

/**
 * Carries out one statement under settings of its own.
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
 * A pooler passed the server's process ids on, and leads to another server process all the same.
 *
 * @param state SQLSTATE of the error: the statement is not known, or known already
 */
export function wasPooled(client: PoolClient, state: string | null): boolean {
  const knowledge = known.get(client);
  if (!knowledge?.direct || (state !== '26000' && state !== '42P05')) return false;
  knowledge.direct = false;
  return true;
}
