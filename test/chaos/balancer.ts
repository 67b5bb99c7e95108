import { createServer, request as httpRequest } from 'node:http';
import type { FleetWorker } from './fleet.ts';

/** A plain load balancer: round robin over the workers that were ready at the last check, without session affinity. */
export interface Balancer {
  readonly url: string;
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
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    close: () =>
      new Promise((done) => {
        clearInterval(timer);
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
}
