// Exits with 0 if the server in this container answers the path (default /health) with 2xx, else with 1. The image has no
// curl.
const path = process.argv[2] ?? '/health';
const host = ['0.0.0.0', '::', undefined].includes(process.env.HOST) ? '127.0.0.1' : process.env.HOST;
const { ok } = await fetch(`http://${host}:${process.env.PORT ?? 8787}${path}`, {
  signal: AbortSignal.timeout(2_500),
}).catch(() => ({ ok: false }));
process.exit(ok ? 0 : 1);
