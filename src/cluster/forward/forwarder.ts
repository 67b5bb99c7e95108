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

/** Another worker and where it listens for its peers. */
export interface Peer {
  workerId: string;
  url: string;
}

export interface Forwarder {
  /**
   * Lets a peer serve a request and carries its answer out on the client's sink. How long a silent peer is waited for is
   * the patience's matter; one hop sends the request once. After any result but `served` and `client_gone` the answer is
   * still owed.
   */
  forward(
    peer: Peer,
    hop: Pick<Hop, 'sessionId' | 'epoch' | 'turnId' | 'mode' | 'attempt'>,
    request: TurnRequest,
    sink: ClientSink,
    waiting: Waiting,
  ): Promise<ForwardResult>;
  /** Tells a worker what became of a session of it, or shall become. Best effort: never rejects, bounded, may be lost. */
  claimed(peer: Peer, notice: Pick<ClaimedNotice, 'sessionId' | 'epoch' | 'news'>): Promise<void>;
  /** Asks a peer what it knows of its sessions. Bounded; null when it does not answer. */
  view(peer: Peer, question: ViewQuestion): Promise<unknown>;
  /** Ends every hop that still runs. */
  close(): Promise<void>;
}

export interface ForwarderOptions {
  hops: Hops;
  clock: Clock;
  /** This worker's id as of now: it changes when the worker begins again. */
  workerId(): string;
  deadlines: HopDeadlines;
  logger: { debug(fields: object, message: string): void };
}

/** Below the receiver's own limit, so that an idle connection is never closed under a request. */
const IDLE_CONNECTION_MS = 20_000;
/** Ends one attempt to connect: packets may be lost where no answer is late, so another one is made then. */
const CONNECT_LIMIT_MS = 10_000;
/** One event is at most a frame; text grows when it is quoted, by six at worst. */
const MAX_LINE_BYTES = 134_217_728;

/** The sending side: one pool of connections to the peers of this worker. */
export function createForwarder({ hops, clock, workerId, deadlines, logger }: ForwarderOptions): Forwarder {
  const agent = new Agent({
    connect: { timeout: CONNECT_LIMIT_MS, noDelay: true },
    pipelining: 1,
    keepAliveTimeout: IDLE_CONNECTION_MS,
    keepAliveMaxTimeout: IDLE_CONNECTION_MS,
  });

  /** A short question outside any turn, bounded by `forwardAccepted`: the text of a 2xx answer, else null. */
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
      // The store says the same to whoever asks: a hint that is lost costs nothing but time.
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
