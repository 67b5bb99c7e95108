import { createServer, request as httpRequest } from 'node:http';
import { connect } from 'node:net';
import type { Duplex } from 'node:stream';
import type { FleetWorker } from './fleet.ts';

/** A plain load balancer: round robin over the workers that were ready at the last check, without session affinity. */
export interface Balancer {
  readonly url: string;
  /** Asks every worker now whether it is ready. */
  look(): Promise<void>;
  close(): Promise<void>;
}

export async function startBalancer(workers: readonly FleetWorker[], pollMs = 1_000): Promise<Balancer> {
  let ready: FleetWorker[] = [...workers];
  let next = 0;
  const look = async () => {
    const answers = await Promise.all(workers.map(async (worker) => ((await worker.ready()) ? worker : null)));
    ready = answers.filter((worker) => worker !== null);
  };
  await look();
  const timer = setInterval(() => void look(), pollMs);
  const server = createServer((req, res) => {
    const worker = ready[next++ % Math.max(1, ready.length)];
    if (!worker) return void res.writeHead(503).end('{}');
    const onward = httpRequest(
      worker.url + req.url,
      { method: req.method, headers: { ...req.headers, connection: 'close' }, agent: false },
      (answer) => {
        res.writeHead(answer.statusCode ?? 502, answer.headers);
        answer.pipe(res);
        answer.on('error', () => res.destroy());
        answer.on('aborted', () => res.destroy());
      },
    );
    onward.on('error', () => (res.headersSent ? res.destroy() : res.writeHead(502).end('{}')));
    req.pipe(onward);
    res.on('close', () => onward.destroy());
  });
  const upgraded = new Set<Duplex>();
  server.on('upgrade', (req, socket, head) => {
    const worker = ready[next++ % Math.max(1, ready.length)];
    if (!worker) return void socket.destroy();
    const onward = connect(Number(new URL(worker.url).port), '127.0.0.1');
    const lines = req.rawHeaders.flatMap((name, at) => (at % 2 === 0 ? [`${name}: ${req.rawHeaders[at + 1]}`] : []));
    onward.write(`${req.method} ${req.url} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
    onward.write(head);
    socket.pipe(onward).pipe(socket);
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      upgraded.add(one);
      one.on('error', () => other.destroy());
      one.on('close', () => {
        upgraded.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    look,
    close: () =>
      new Promise((done) => {
        clearInterval(timer);
        server.close(() => done());
        server.closeAllConnections();
        for (const socket of upgraded) socket.destroy();
      }),
  };
}
