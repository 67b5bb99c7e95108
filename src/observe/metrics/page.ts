import type { RequestHandler } from 'express';
import type { Registry } from 'prom-client';
import type { AccessRule } from '../access.ts';

/** `GET /metrics` in the text format Prometheus scrapes. Never cached. */
export function metricsPage(registry: Registry, allow: AccessRule): RequestHandler {
  return async (req, res) => {
    allow(req);
    const text = await registry.metrics();
    res.set({ 'content-type': registry.contentType, 'cache-control': 'no-store' }).send(text);
  };
}
