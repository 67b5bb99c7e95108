import { createServer, request as httpRequest } from 'node:http';
import { digestOf, expectedDigest } from '../../src/testing/index.ts';
import { parseStream } from '../support/client.ts';

/** One request of the client and its answer. */
export interface Tapped {
  body: Record<string, unknown>;
  outcome: string;
  /** True if the client disconnected before the end of the answer. */
  cut: boolean;
  /**
   * True if the digest that the model reports of its context equals that of what the client sent; null without a
   * digest.
   */
  exact: boolean | null;
}

/** A transparent proxy between a client and the bridge that records the context each request means. */
export interface Tap {
  url: string;
  readonly seen: readonly Tapped[];
  close(): Promise<void>;
}

function exactness(body: Record<string, unknown>, text: string): boolean | null {
  const complete = text.slice(0, text.lastIndexOf('\n\n') + 2);
  const end = parseStream(complete).find(({ type }) => type === 'response.completed');
  const reported = end ? digestOf(end.data.response as { output: unknown[] }) : null;
  if (reported === null) return null;
  const { input, instructions, tools, reasoning } = body;
  return reported === expectedDigest({ items: input as never, instructions, tools, reasoning });
}

export async function startTap(target: () => string): Promise<Tap> {
  const seen: Tapped[] = [];
  const server = createServer(async (req, res) => {
    const chunks: Buffer[] = [];
    for await (const chunk of req) chunks.push(chunk as Buffer);
    const sent = Buffer.concat(chunks);
    const onward = httpRequest(target() + req.url, { method: req.method, headers: req.headers }, (answer) => {
      res.writeHead(answer.statusCode ?? 502, answer.headers);
      let text = '';
      answer.on('data', (chunk: Buffer) => {
        text += chunk.toString('utf8');
        res.write(chunk);
      });
      const done = (cut: boolean) => {
        if (req.method !== 'POST' || !req.url?.endsWith('/responses')) return;
        const body = JSON.parse(sent.toString('utf8')) as Record<string, unknown>;
        const outcome = String(answer.headers['x-holdfast-outcome']);
        seen.push({ body, outcome, cut, exact: exactness(body, text) });
      };
      answer.on('end', () => {
        done(false);
        res.end();
      });
      answer.on('error', () => done(true));
    });
    onward.on('error', () => res.destroy());
    res.on('close', () => onward.destroy());
    onward.end(sent);
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    seen,
    close: () =>
      new Promise((closed) => {
        server.close(() => closed());
        server.closeAllConnections();
      }),
  };
}
