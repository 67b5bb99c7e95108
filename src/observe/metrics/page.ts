import type { Request, RequestHandler } from 'express';
import type { Registry } from 'prom-client';

/** Says who may read: loopback, or the bearer of the admin token. Throws the error the client shall see. */
export type AccessRule = (req: Pick<Request, 'headers' | 'socket'>) => void;

/** `GET /metrics` in the text format Prometheus scrapes. Never cached. */
export function metricsPage(registry: Registry, allow: AccessRule): RequestHandler {
  return async (req, res) => {
    allow(req);
    const text = await registry.metrics();
    res.set({ 'content-type': registry.contentType, 'cache-control': 'no-store' }).send(text);
  };
}
