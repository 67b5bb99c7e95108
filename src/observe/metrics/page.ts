import type { RequestHandler } from 'express';
import type { Registry } from 'prom-client';
import type { AccessRule } from '../access.ts';

/**
 * `GET /metrics` in the text format Prometheus scrapes. Never cached.
 *
 * @param page what is shown in place of the registry's own metrics; where it is null, they are shown
 */
export function metricsPage(
  registry: Registry,
  allow: AccessRule,
  page: () => Promise<string | null> = async () => null,
): RequestHandler {
  return async (req, res) => {
    allow(req);
    const text = (await page()) ?? (await registry.metrics());
    res.set({ 'content-type': registry.contentType, 'cache-control': 'no-store' }).send(text);
  };
}
