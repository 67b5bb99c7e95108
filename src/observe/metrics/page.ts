import type { RequestHandler } from 'express';
import type { Registry } from 'prom-client';
import type { AccessRule } from '../access.ts';

/**
 * Handles `GET /metrics`, in the Prometheus text format. Responses are never cached.
 *
 * @param page returns the page to show instead of the registry's own metrics; where it returns null, those are shown
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
