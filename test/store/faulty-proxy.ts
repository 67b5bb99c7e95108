import { connect, createServer, type Socket } from 'node:net';

/**
 * Point at which the path between client and server breaks, counted in chunks that the client sends from now on (1 =
 * the next).
 */
export interface Cut {
  chunk: number;
  /**
   * `request`: the chunk never reaches the server. `answer`: the server's answer to it never reaches the client.
   * `flight`: it is forwarded and the connection is destroyed at once.
   */
  where: 'request' | 'answer' | 'flight';
}

/** A TCP path to the database that breaks on demand. */
export interface FaultyProxy {
  /** URL of the database through this proxy. */
  url: string;
  arm(cut: Cut | null): void;
  /** Makes the open connections half-open: nothing is forwarded any more, and neither side is notified. */
  stall(): void;
  /** Cuts all connections, and new ones too until it is called with false. */
  refuse(on: boolean): void;
  /** Number of connections accepted since the proxy was opened. */
  readonly accepted: number;
  close(): Promise<void>;
}

export async function faultyProxy(databaseUrl: string): Promise<FaultyProxy> {
  const target = new URL(databaseUrl);
  const pairs = new Set<{ client: Socket; server: Socket; stalled: boolean }>();
  let armed: Cut | null = null;
  let accepted = 0;
  let refusing = false;

  const listener = createServer((client) => {
    accepted += 1;
    if (refusing) return void client.destroy();
    const server = connect(Number(target.port), target.hostname);
    const pair = { client, server, stalled: false };
    pairs.add(pair);
    let dropAnswers = false;
    const destroy = () => {
      pairs.delete(pair);
      client.destroy();
      server.destroy();
    };
    client.on('data', (chunk) => {
      if (pair.stalled) return;
      if (!armed || --armed.chunk > 0) return void server.write(chunk);
      const { where } = armed;
      armed = null;
      if (where === 'request') return destroy();
      dropAnswers = where === 'answer';
      server.write(chunk, () => where === 'flight' && setImmediate(destroy));
    });
    server.on('data', (chunk) => {
      if (dropAnswers) destroy();
      else if (!pair.stalled) client.write(chunk);
    });
    for (const socket of [client, server]) {
      socket.on('error', destroy);
      socket.on('close', destroy);
    }
  });
  await new Promise<void>((ready) => listener.listen(0, '127.0.0.1', ready));

  const url = new URL(databaseUrl);
  url.hostname = '127.0.0.1';
  url.port = String((listener.address() as { port: number }).port);
  return {
    url: url.href,
    arm(cut) {
      armed = cut && { ...cut };
    },
    stall() {
      for (const pair of pairs) pair.stalled = true;
    },
    refuse(on) {
      refusing = on;
      if (on) for (const { client } of [...pairs]) client.destroy();
    },
    get accepted() {
      return accepted;
    },
    async close() {
      const closed = new Promise<void>((done) => listener.close(() => done()));
      for (const { client, server } of pairs) {
        client.destroy();
        server.destroy();
      }
      await closed;
    },
  };
}
