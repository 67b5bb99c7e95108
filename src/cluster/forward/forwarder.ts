import { Agent, request as call } from 'undici';
import type { Clock } from '../../clock.ts';
import { encodeText } from '../../json.ts';
import type { ForwardResult, Waiting } from '../../session/peers.ts';
import type { ClientSink, TurnRequest } from '../../session/port.ts';
import { type HopDeadlines, runExchange } from './exchange.ts';
import type { ClaimedNotice, Hop, Hops } from './hop.ts';
import type { ViewQuestion } from './internal-server.ts';
import { packRequest } from './parcel.ts';
import { CLAIMED_PATH, HOP_HEADER, VIEW_PATH } from './paths.ts';

/** Another worker and the URL of its internal listener. */
export interface Peer {
  workerId: string;
  url: string;
}

/** Sends requests, notices and questions to other workers. */
export interface Forwarder {
  /**
   * Forwards a request to a peer and applies its answer to the client's sink. One hop sends the request once;
   * `patience` decides how long a silent peer is awaited. After any result but `served` and `client_gone` the client
   * still needs an answer.
   */
  forward(
    peer: Peer,
    hop: Pick<Hop, 'sessionId' | 'epoch' | 'turnId' | 'mode' | 'attempt'>,
    request: TurnRequest,
    sink: ClientSink,
    waiting: Waiting,
  ): Promise<ForwardResult>;
  /**
   * Notifies a worker about a session of it that was claimed, or that is to be closed. Best effort: never rejects,
   * takes at most `forwardAccepted`, may be lost.
   */
  claimed(peer: Peer, notice: Pick<ClaimedNotice, 'sessionId' | 'epoch' | 'news'>): Promise<void>;
  /**
   * Requests a peer's view of its sessions. Takes at most `forwardAccepted`.
   *
   * @returns the parsed JSON answer; null if there is none
   */
  view(peer: Peer, question: ViewQuestion): Promise<unknown>;
  /** Aborts all running hops. */
  close(): Promise<void>;
}

export interface ForwarderOptions {
  hops: Hops;
  clock: Clock;
  /** Returns this worker's current id, which changes when the worker registers again. */
  workerId(): string;
  deadlines: HopDeadlines;
  logger: { debug(fields: object, message: string): void };
}

/**
 * Idle timeout of a connection. Below the receiver's own limit (60 s), so that the receiver never closes a connection
 * that is about to be used.
 */
const IDLE_CONNECTION_MS = 20_000;
/**
 * Timeout of one attempt to connect. Packets may have been lost although the peer is not slow, so another attempt
 * follows.
 */
const CONNECT_LIMIT_MS = 10_000;
/** Maximum length of a line, in bytes. An event is at most one frame, and quoting makes text at most six times longer. */
const MAX_LINE_BYTES = 134_217_728;

/** Creates the sending side: one connection pool for all peers of this worker. */
export function createForwarder({ hops, clock, workerId, deadlines, logger }: ForwarderOptions): Forwarder {
  const agent = new Agent({
    connect: { timeout: CONNECT_LIMIT_MS, noDelay: true },
    pipelining: 1,
    keepAliveTimeout: IDLE_CONNECTION_MS,
    keepAliveMaxTimeout: IDLE_CONNECTION_MS,
  });

  /**
   * Sends a short request outside any turn, with `forwardAccepted` as its timeout.
   *
   * @returns the text of a 2xx answer, otherwise null
   */
  async function ask(peer: Peer, path: string, token: string, body: Buffer): Promise<string | null> {
    const origin = originOf(peer.url);
    if (origin === null) return null;
    const given = new AbortController();
    const stop = clock.after(deadlines.forwardAccepted, () => given.abort());
    try {
      const answer = await call(new URL(path, origin), {
        dispatcher: agent,
        method: 'POST',
        headers: { 'content-type': 'application/json', [HOP_HEADER]: token },
        body,
        signal: given.signal,
      });
      const text = await answer.body.text();
      return answer.statusCode < 300 ? text : null;
    } catch {
      return null;
    } finally {
      stop();
    }
  }

  return {
    async forward(peer, { sessionId, epoch, turnId, mode, attempt }, request, sink, { patience, signal, onAccepted }) {
      if (!sink.attached) return { kind: 'client_gone' };
      const origin = originOf(peer.url);
      if (origin === null) return { kind: 'unreachable', sent: false, again: false };
      const body = await encodeText(packRequest(request, clock.now(), hops));
      if (!sink.attached) return { kind: 'client_gone' };
      const { requestId } = request;
      const hop: Hop = { target: peer.workerId, from: workerId(), sessionId, epoch, turnId, mode, attempt, requestId };
      return runExchange({
        dispatcher: agent,
        origin,
        headers: { 'content-type': 'application/json', [HOP_HEADER]: hops.issue(hop, body) },
        body,
        sink,
        clock,
        deadlines,
        patience,
        signal,
        maxLineBytes: MAX_LINE_BYTES,
        onAccepted,
        debug: (fields, message) => logger.debug({ ...fields, requestId, turnId, peer: peer.workerId }, message),
      });
    },

    async claimed(peer, notice) {
      const body = Buffer.from(JSON.stringify(notice));
      const token = hops.issueClaimed({ target: peer.workerId, from: workerId(), ...notice }, body);
      // The store holds the same information: a lost notice only costs time.
      await ask(peer, CLAIMED_PATH, token, body);
    },

    async view(peer, question) {
      const body = Buffer.from(JSON.stringify(question));
      const token = hops.issueView({ target: peer.workerId, from: workerId() }, body);
      const text = await ask(peer, VIEW_PATH, token, body);
      try {
        return text === null ? null : JSON.parse(text);
      } catch {
        return null;
      }
    },

    close: () => agent.destroy(),
  };
}

function originOf(url: string): string | null {
  const parsed = URL.parse(url);
  return parsed && /^https?:$/.test(parsed.protocol) ? parsed.origin : null;
}
