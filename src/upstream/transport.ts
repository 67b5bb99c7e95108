import { Agent, type Dispatcher, ProxyAgent } from 'undici';
import { type Clock, systemClock } from '../system.ts';
import { hostOf } from './errors.ts';
import { httpCall, openExchange } from './http.ts';
import {
  type Ending,
  type LiveConnections,
  type TransportLimits,
  type UpstreamTransport,
  UpstreamUnreachable,
} from './port.ts';
import { noProxies, type ProxySettings, proxyFor } from './proxies.ts';
import { dialWebSocket, type PulseTimes, type SocketMeans } from './websocket.ts';

interface UpstreamTransportOptions {
  clock?: Clock;
  /** Longest accepted message, event or JSON answer, in bytes. */
  maxIncomingBytes?: number;
  /** Most HTTP connections to one provider. Further exchanges wait for a free one, within their own timeout. */
  maxHttpConnections?: number;
  /** Timeout of TCP and TLS for one HTTP connection, in milliseconds. */
  connectTimeoutMs?: number;
  /**
   * Longest silence in a `call`, before its headers and within its body, in milliseconds. Background tasks may answer late.
   */
  callSilenceMs?: number;
  /** Time for a peer to answer a close frame, in milliseconds. Also the longest `shutdown`. */
  closeTimeoutMs?: number;
  /** Outgoing proxies. Default: none, regardless of the environment. */
  proxies?: ProxySettings;
  /** Ping times of open WebSockets. Default: no pings. */
  pulse?: PulseTimes;
}

const REFUSAL_BYTES = 1024 * 1024;
const REFUSAL_TIMEOUT_MS = 5_000;
const TCP_KEEP_ALIVE_MS = 30_000;

/**
 * Creates the transport for all traffic to providers: WebSockets through `ws`, HTTP through an undici agent of its own.
 * Nothing is opened after `shutdown`.
 */
export function createUpstreamTransport(options: UpstreamTransportOptions = {}): UpstreamTransport {
  const clock = options.clock ?? systemClock;
  const limits: TransportLimits = {
    maxIncomingBytes: options.maxIncomingBytes ?? 64 * 1024 * 1024,
    closeTimeoutMs: options.closeTimeoutMs ?? 2_000,
    refusalBytes: REFUSAL_BYTES,
    refusalTimeoutMs: REFUSAL_TIMEOUT_MS,
    tcpKeepAliveMs: TCP_KEEP_ALIVE_MS,
  };
  const callSilenceMs = options.callSilenceMs ?? 600_000;
  const connect = {
    timeout: options.connectTimeoutMs ?? 10_000,
    keepAlive: true,
    keepAliveInitialDelay: TCP_KEEP_ALIVE_MS,
  };
  const agentOptions = {
    connections: options.maxHttpConnections ?? 2048,
    pipelining: 1,
    // One exchange per connection: with HTTP/2 one lost connection would end many turns.
    allowH2: false,
  };
  const direct = new Agent({ ...agentOptions, connect });
  /** Dispatchers through a proxy, by its address: at most one per scheme. */
  const ways = new Map<string, { proxy: URL; dispatcher: Dispatcher }>();
  const wayTo = (baseUrl: string) => {
    const proxy = proxyFor(options.proxies ?? noProxies, baseUrl);
    if (proxy === null) return null;
    let way = ways.get(proxy.href);
    if (!way) {
      const { timeout: connectTimeout, ...proxyTls } = connect;
      const dispatcher = new ProxyAgent({ ...agentOptions, uri: proxy.href, connectTimeout, proxyTls });
      way = { proxy, dispatcher };
      ways.set(proxy.href, way);
    }
    return way;
  };
  const live = createLiveConnections();
  const means: SocketMeans = { clock, limits, live, pulse: options.pulse ?? { pingMs: 0, pongMs: 0 } };
  /** Hosts that have answered before. For these an unknown name may be a transient failure. */
  const known = new Set<string>();
  let stopped: Promise<void> | null = null;

  async function stop(): Promise<void> {
    live.closeAll();
    const cancelKill = clock.after(limits.closeTimeoutMs, () => live.destroyAll());
    await live.emptied();
    cancelKill();
    await Promise.all(
      [direct, ...[...ways.values()].map(({ dispatcher }) => dispatcher)].map((each) => each.destroy()),
    );
  }

  return {
    async dial(request) {
      if (stopped) return { kind: 'failed', reason: 'shut down' };
      const { baseUrl } = request.target;
      const result = await dialWebSocket(request, means, wayTo(baseUrl)?.proxy ?? null);
      if (result.kind !== 'failed') known.add(hostOf(baseUrl));
      else if (result.unreachable?.kind === 'dns' && known.has(hostOf(baseUrl))) {
        return { ...result, unreachable: { ...result.unreachable, final: false } };
      }
      return result;
    },
    exchange(request) {
      const way = wayTo(request.target.baseUrl);
      const connection = openExchange(request, way?.dispatcher ?? direct, clock, limits, live, way?.proxy ?? null);
      if (stopped) connection.close(1001, 'shut down');
      return connection;
    },
    async call(call) {
      if (stopped) throw new UpstreamUnreachable('shut down', { kind: 'other' });
      const way = wayTo(call.target.baseUrl);
      return httpCall(call, way?.dispatcher ?? direct, callSilenceMs, way?.proxy ?? null);
    },
    shutdown: () => (stopped ??= stop()),
  };
}

function createLiveConnections(): LiveConnections {
  const live = new Set<Ending>();
  let waiting: (() => void)[] = [];
  return {
    add(one) {
      live.add(one);
    },
    remove(one) {
      live.delete(one);
      if (live.size > 0) return;
      const resolved = waiting;
      waiting = [];
      for (const resolve of resolved) resolve();
    },
    closeAll() {
      for (const one of [...live]) one.shutDown();
    },
    destroyAll() {
      for (const one of [...live]) one.destroy();
    },
    emptied: () =>
      live.size === 0
        ? Promise.resolve()
        : new Promise((resolve) => {
            waiting.push(resolve);
          }),
  };
}
