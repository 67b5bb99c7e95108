import { createServer } from 'node:http';
import { request } from 'undici';
import { advertisedUrl, checkAdvertised, internalHost } from '../../cluster/forward/advertise.ts';
import { WORKER_PATH } from '../../cluster/forward/protocol.ts';
import { type Config, ConfigError } from '../../config.ts';
import { systemClock } from '../../system.ts';
import { classifyRefusal, normaliseError } from '../../upstream/errors.ts';
import { upstreamHeaders } from '../../upstream/headers.ts';
import { type FailureKind, UpstreamUnreachable } from '../../upstream/port.ts';
import { createUpstreamTransport } from '../../upstream/transport.ts';
import { type Finding, fault, fromMessage, note, ok, warning } from './finding.ts';

const mends: Partial<Record<FailureKind, string>> = {
  dns: "check the host in HOLDFAST_UPSTREAM_URL, and this machine's resolver",
  refused: 'check host and port in HOLDFAST_UPSTREAM_URL, and that the server runs',
  tls: 'name the authority of a private certificate with NODE_EXTRA_CA_CERTS; write http:// where the server speaks no TLS',
  proxy: 'check HTTP_PROXY and HTTPS_PROXY, and list hosts that are reached directly in NO_PROXY',
  timeout: 'check routes and firewalls, and set HTTPS_PROXY where only a proxy leads out',
  network: 'check routes and firewalls, and set HTTPS_PROXY where only a proxy leads out',
  reset: 'check what is between here and there: a firewall, or a server that expects TLS',
};

/** The provider: whether it is reached, takes the key, and accepts a WebSocket. Nothing is generated. */
export async function checkUpstream({ upstream, deadlines }: Config): Promise<Finding[]> {
  const target = { id: 'doctor', baseUrl: upstream.url };
  const place = new URL(upstream.url).host;
  const credential = {
    authorization: upstream.key === null ? null : `Bearer ${upstream.key}`,
    keys: {},
    isClients: false,
  };
  const transport = createUpstreamTransport({ proxies: upstream.proxies, connectTimeoutMs: deadlines.connect });
  const unreached = (reason: string, kind: FailureKind | undefined, byProxy = false) =>
    fault(
      'upstream',
      `${place} is not reached: ${reason}`,
      mends[byProxy ? 'proxy' : (kind ?? 'network')] ?? mends.network!,
    );

  async function models(): Promise<Finding[]> {
    const headers = upstreamHeaders({ client: {}, credential, transport: 'http' });
    const signal = AbortSignal.timeout(deadlines.connect);
    try {
      const { status, body } = await transport.call({
        target,
        method: 'GET',
        path: '/models',
        headers,
        body: null,
        signal,
      });
      body.resume();
      body.on('error', () => {});
      const answered = `${place} answers GET /models with ${status}`;
      if (status === 401 || status === 403) {
        return upstream.key === null
          ? [ok('upstream', `${answered}, as it should without a key: clients bring their own`)]
          : [
              ok('upstream', answered),
              fault(
                'upstream key',
                `${place} refuses HOLDFAST_UPSTREAM_KEY (${status})`,
                'set a valid key of the provider; without one, clients bring their own',
              ),
            ];
      }
      if (status >= 500)
        return [
          warning(
            'upstream',
            answered,
            "look at the provider's status page; if it is a gateway of your own, at its log",
          ),
        ];
      if (status === 404) {
        return [
          warning(
            'upstream',
            answered,
            'check the path of HOLDFAST_UPSTREAM_URL: it is the base of the API, mostly https://host/v1',
          ),
        ];
      }
      return [ok('upstream', `${answered}${upstream.key !== null && status === 200 ? ', with the key' : ''}`)];
    } catch (error) {
      if (signal.aborted) return [unreached(`no answer within ${deadlines.connect} ms`, 'timeout')];
      if (error instanceof UpstreamUnreachable) return [unreached(error.message, error.kind)];
      throw error;
    }
  }

  async function upgrade(): Promise<Finding[]> {
    if (upstream.transport === 'http') return [ok('websocket', 'not used: HOLDFAST_UPSTREAM_TRANSPORT is http')];
    const headers = upstreamHeaders({ client: {}, credential, transport: 'websocket' });
    const result = await transport.dial({ target, headers, timeoutMs: deadlines.connect });
    if (result.kind === 'open') {
      result.connection.attach({ frame() {}, closed() {} });
      result.connection.close();
      return [ok('websocket', `${place} accepts a WebSocket`)];
    }
    const required = upstream.transport === 'websocket';
    const mend = required
      ? 'set HOLDFAST_UPSTREAM_TRANSPORT to auto or http, or let the way to the provider pass upgrades'
      : 'set HOLDFAST_UPSTREAM_TRANSPORT=http if that is meant; otherwise let the way to the provider pass upgrades';
    const without = required ? 'every turn would fail' : 'turns go over HTTP and send the whole conversation';
    const level = required ? fault : warning;
    if (result.kind === 'failed') {
      return [
        level(
          'websocket',
          `the WebSocket to ${place} fails (${result.unreachable?.text ?? result.reason}): ${without}`,
          mend,
        ),
      ];
    }
    const { status } = result.answer;
    if ([401, 403].includes(status) && classifyRefusal(result.answer) === 'relay' && upstream.key === null) {
      return [ok('websocket', `${place} asks for a credential before it accepts a WebSocket (${status})`)];
    }
    const said = normaliseError(result.answer).message.slice(0, 200);
    return [level('websocket', `${place} answers the WebSocket handshake with ${status} (${said}): ${without}`, mend)];
  }

  try {
    const found = await models();
    return found.some(({ check, level }) => check === 'upstream' && level === 'fault')
      ? found
      : [...found, ...(await upgrade())];
  } finally {
    await transport.shutdown();
  }
}

/** Listens once. Returns the error, or null after the port was free. */
async function tryPort(host: string, port: number): Promise<NodeJS.ErrnoException | null> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', resolve);
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(null)));
  });
}

/** Time for a program on this machine to answer, in milliseconds. */
const LOCAL_MS = 3_000;

async function answersAs(url: string): Promise<unknown> {
  try {
    const { statusCode, body } = await request(url, { signal: AbortSignal.timeout(LOCAL_MS), reset: true });
    const answer = (await body.json()) as unknown;
    return statusCode === 200 ? answer : null;
  } catch {
    return null;
  }
}

const shown = (host: string) => (host.includes(':') ? `[${host}]` : host);
const reachable = (host: string) => (['0.0.0.0', '::'].includes(host) ? '127.0.0.1' : host);

/** The port to serve on. */
export async function checkPort({ server: { host, port } }: Config): Promise<Finding[]> {
  const place = `${shown(host)}:${port}`;
  const error = await tryPort(host, port);
  switch (error?.code) {
    case undefined:
      return [ok('port', `${place} is free`)];
    case 'EADDRINUSE': {
      const answer = await answersAs(`http://${shown(reachable(host))}:${port}/health`);
      if ((answer as { status?: unknown } | null)?.status === 'ok') {
        return [
          note(
            'port',
            `a Holdfast serves on ${place} already`,
            'nothing if it is meant; a second one needs another PORT',
          ),
        ];
      }
      return [
        fault(
          'port',
          `another program uses ${place}`,
          `choose another PORT, or stop that program (\`ss -ltnp 'sport = :${port}'\` names it)`,
        ),
      ];
    }
    case 'EACCES':
      return [
        fault(
          'port',
          `this user may not listen on ${place}`,
          'choose a PORT of 1024 or above, and put a proxy in front',
        ),
      ];
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return [
        fault(
          'port',
          `HOST=${host} is no address of this machine (${error.code})`,
          'set HOST to an address of this machine, 127.0.0.1 or 0.0.0.0',
        ),
      ];
    default:
      return [
        fault('port', `${place} cannot be used (${error?.code ?? error?.message})`, 'choose another HOST or PORT'),
      ];
  }
}

/** The address under which other workers reach this one. */
export async function checkPeers(config: Config): Promise<Finding[]> {
  const { databaseUrl, internal, deadlines, instancePolicy } = config;
  if (databaseUrl === null) return [ok('peers', 'the embedded database has workers on this machine only')];
  if (instancePolicy === 'reject')
    return [ok('peers', 'other workers do not reach this one: HOLDFAST_INSTANCE_POLICY is reject')];
  const id = `doctor-${crypto.randomUUID()}`;
  const server = createServer((req, res) => {
    res.setHeader('content-type', 'application/json');
    res.end(req.url === WORKER_PATH ? JSON.stringify({ id }) : '{}');
  });
  try {
    const host = internalHost(config);
    const error = await new Promise<NodeJS.ErrnoException | null>((resolve) => {
      server.once('error', resolve);
      server.listen({ host, port: internal.port, exclusive: true }, () => resolve(null));
    });
    if (error?.code === 'EADDRINUSE') {
      const url = advertisedUrl({ advertiseUrl: internal.advertiseUrl, host, port: internal.port, databaseUrl });
      const worker = (await answersAs(url + WORKER_PATH)) as { id?: unknown } | null;
      return typeof worker?.id === 'string'
        ? [
            note(
              'peers',
              `a worker answers at ${url} already`,
              'nothing if it is meant; a second one needs another HOLDFAST_INTERNAL_PORT',
            ),
          ]
        : [
            fault(
              'peers',
              `another program uses ${shown(host)}:${internal.port}`,
              'choose another HOLDFAST_INTERNAL_PORT, or 0 for a free one',
            ),
          ];
    }
    if (error) {
      return [
        fault(
          'peers',
          `${shown(host)}:${internal.port} cannot be used (${error.code})`,
          'set HOLDFAST_INTERNAL_HOST to an address of this machine',
        ),
      ];
    }
    const { port } = server.address() as { port: number };
    const url = advertisedUrl({ advertiseUrl: internal.advertiseUrl, host, port, databaseUrl });
    await checkAdvertised({ url, workerId: id, clock: systemClock, timeoutMs: deadlines.advertise });
    return [ok('peers', `${url} leads to this worker`)];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const [says, ...mend] = error.message.split(/(?<=\.) (?=Check |Set |HOLDFAST_ADVERTISE_URL must)/);
    return mend.length > 0
      ? [fault('peers', says!.replace(/\.$/, ''), mend.join(' ').replace(/\.$/, ''))]
      : [
          fromMessage(
            'peers',
            error.message,
            'set HOLDFAST_ADVERTISE_URL to an address that leads to this worker alone',
          ),
        ];
  } finally {
    server.closeAllConnections();
    server.close();
  }
}
