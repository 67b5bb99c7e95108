import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import express from 'express';
import { BridgeError } from '../../src/errors.ts';
import { createOperatorAccess } from '../../src/http/access.ts';
import { createInspection, type Inspection, type InspectionOptions } from '../../src/observe/inspect/index.ts';
import { createRecorder, type Recorder } from '../../src/observe/trace.ts';
import { randomIds, systemClock } from '../../src/system.ts';

export interface ServedInspection {
  inspection: Inspection;
  recorder: Recorder;
  /** For example `ws://127.0.0.1:1234/inspect/socket`. */
  socketUrl: string;
  url: string;
  close(): Promise<void>;
}

/** Serves the inspector on a server of its own. */
export async function serveInspection(over: Partial<InspectionOptions> = {}): Promise<ServedInspection> {
  const recorder = createRecorder({ workerId: () => 'worker-1', clock: systemClock });
  const inspection = createInspection({
    recorder,
    workerId: () => 'worker-1',
    content: false,
    clock: systemClock,
    ids: randomIds,
    allow: createOperatorAccess(null),
    ticketKey: 'ticket-key',
    inspectorUrl: 'https://stately.ai/inspect',
    bufferBytes: 1_048_576,
    viewers: 4,
    sessions: 50,
    ...over,
  });
  const app = express();
  app.use(inspection.router);
  app.use(((error, _req, res, _next) => {
    res.status(error instanceof BridgeError ? error.status : 500).end();
  }) as express.ErrorRequestHandler);
  const server = createServer(app as RequestListener);
  server.on('upgrade', (req, socket, head) => {
    if (!inspection.handleUpgrade(req, socket, head)) socket.end('HTTP/1.1 426 Upgrade Required\r\n\r\n');
  });
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const { port } = server.address() as AddressInfo;
  return {
    inspection,
    recorder,
    url: `http://127.0.0.1:${port}`,
    socketUrl: `ws://127.0.0.1:${port}/inspect/socket`,
    async close() {
      inspection.close();
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    },
  };
}
