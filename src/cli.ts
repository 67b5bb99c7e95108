import { parseArgs } from 'node:util';
import { type Bridge, createBridge } from './bridge.ts';
import { ConfigError } from './config.ts';
import { createApp } from './http/app.ts';
import { listen } from './http/server.ts';
import { version } from './version.ts';

const usage = `holdfast ${version}: durable sessions for the OpenAI Responses API

  holdfast serve [--port N] [--host ADDRESS]   run the proxy
  holdfast --version
  holdfast --help

Everything else is set by environment variables; the README lists them.
`;

const banner = (url: string) => `
Holdfast ${version} is ready at ${url}

Codex (~/.codex/config.toml):

  model_provider = "holdfast"

  [model_providers.holdfast]
  name = "holdfast"
  base_url = "${url}/v1"
  wire_api = "responses"
  env_key = "OPENAI_API_KEY"
  supports_websockets = false

OpenAI SDKs: base URL ${url}/v1
`;

async function serve(flags: { port?: string; host?: string }): Promise<void> {
  const env = { ...(flags.port ? { PORT: flags.port } : {}), ...(flags.host ? { HOST: flags.host } : {}) };
  const bridge = await createBridge({ env });
  let server: Awaited<ReturnType<typeof listen>>;
  try {
    server = await listen(createApp(bridge.router, bridge), bridge.config.server);
  } catch (error) {
    await bridge.close();
    throw error;
  }
  process.stdout.write(banner(server.url));
  stopInOrder(bridge, server);
}

/** The first signal drains; a second one stops now. */
function stopInOrder(bridge: Bridge, server: Awaited<ReturnType<typeof listen>>): void {
  let asked = false;
  const stop = async (signal: NodeJS.Signals) => {
    if (asked) {
      bridge.logger.warn({ signal }, 'asked twice: stopping now');
      process.exit(1);
    }
    asked = true;
    bridge.logger.info({ signal }, 'draining');
    await bridge.close();
    await server.close(1_000);
    process.exit(0);
  };
  for (const signal of ['SIGTERM', 'SIGINT'] as const) process.on(signal, () => void stop(signal));
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      port: { type: 'string', short: 'p' },
      host: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
      version: { type: 'boolean', short: 'v' },
    },
  });
  if (values.version) return void process.stdout.write(`${version}\n`);
  const [command = 'serve', ...rest] = positionals;
  if (values.help || command !== 'serve' || rest.length > 0) {
    process.stdout.write(usage);
    process.exitCode = values.help ? 0 : 2;
    return;
  }
  await serve(values);
}

main().catch((error: Error & { code?: string }) => {
  const message =
    error.code === 'EADDRINUSE' ? 'The port is in use: choose another with PORT or --port.' : error.message;
  process.stderr.write(`holdfast: ${message}\n`);
  if (!(error instanceof ConfigError) && process.env.HOLDFAST_LOG_LEVEL === 'debug')
    process.stderr.write(`${error.stack}\n`);
  process.exit(1);
});
