import { Agent, request as call, type Dispatcher } from 'undici';
import { FORWARD_TOKEN_HEADER, REFUSED_HEADER } from '../../headers.ts';
import { encodeText } from '../../json.ts';
import type { Log } from '../../log.ts';
import type { ForwardResult, Patience, Waiting } from '../../session/forwarding.ts';
import type { ClientSink, TurnRequest } from '../../session/port.ts';
import type { Clock } from '../../system.ts';
import { type ClaimedNotice, type ForwardClaims, type ForwardTokens, packRequest } from './envelope.ts';
import {
  afterPendingIo,
  applyMessage,
  CLAIMED_PATH,
  createSplitter,
  decodeMessage,
  type ForwardMessage,
  served,
  TURN_PATH,
  VIEW_PATH,
  type ViewQuestion,
} from './protocol.ts';

interface ExchangeOptions {
  dispatcher: Dispatcher;
  origin: string;
  headers: Record<string, string>;
  body: Buffer;
  sink: ClientSink;
  clock: Clock;
  deadlines: ForwardDeadlines;
  /** Consulted when the peer has been silent for one of the deadlines, and then every `ownerPoll`. */
  patience: Patience;
  /** Aborts the request when its answer is not needed any more. */
  signal?: AbortSignal | undefined;
  /** Maximum length of a line from the peer, in bytes. */
  maxLineBytes: number;
  /** Called once, when the peer has accepted the request. */
  onAccepted?: (() => void) | undefined;
  debug(fields: object, message: string): void;
}

/**
 * Times of silence after which the peer's state is looked up, by phase of the request, and the interval between two
 * look-ups (`ownerPoll`). In milliseconds.
 */
interface ForwardDeadlines {
  forwardConnect: number;
  forwardAccepted: number;
  forwardSilence: number;
  ownerPoll: number;
}

/** Connection errors that prove that no process listens there. */
const NOT_LISTENING: ReadonlySet<unknown> = new Set(['ECONNREFUSED']);
/** Refusals by the peer that do not rule out a later attempt: the token had expired, or the peer had too much work. */
const FOR_NOW: ReadonlySet<unknown> = new Set(['expired', 'too_many']);

/**
 * Makes one attempt: sends the request and applies the peer's lines to the client's sink. Never rejects.
 *
 * There is no response timeout: a silent peer is awaited until `patience` reports more than that it is slow.
 */
export function runExchange(options: ExchangeOptions): Promise<ForwardResult> {
  const { dispatcher, origin, headers, body, sink, clock, deadlines, debug } = options;
  const { promise, resolve } = Promise.withResolvers<ForwardResult>();
  const splitter = createSplitter(options.maxLineBytes);
  let controller: Dispatcher.DispatchController | null = null;
  let state: 'connecting' | 'sent' | 'accepted' | 'ended' = 'connecting';
  let complete = false;
  let refused = false;
  let paused = false;
  let heardAt = 0;
  let answering = false;
  let stopTimer = () => {};

  const end = (result: ForwardResult, why: string) => {
    if (state === 'ended') return;
    state = 'ended';
    stopTimer();
    if (result.kind !== 'served') debug({ result: result.kind, why }, 'a forwarded request ended');
    resolve(result);
    // An answer that is read to its end keeps its connection open for reuse; otherwise the connection is aborted, so
    // that the peer stops working for it.
    const answered = result.kind === 'served' || result.kind === 'not_owner' || refused;
    if (answered) controller?.resume();
    else if (!complete) controller?.abort(new Error(why));
  };
  const lost = (why: string, again: boolean) => {
    if (state === 'accepted') end({ kind: 'broken', again }, why);
    else end({ kind: 'unreachable', sent: state === 'sent' && !refused, again }, why);
  };
  /** Processes pending I/O before drawing conclusions from silence. */
  const watch = (ms: number) => {
    stopTimer();
    if (paused) return;
    stopTimer = clock.after(ms, () => afterPendingIo(() => void look()));
  };
  const look = async () => {
    if (state === 'ended') return;
    const left = state === 'accepted' ? heardAt + deadlines.forwardSilence - clock.now() : 0;
    if (left > 0) return watch(left);
    const [phase, at] = [state, heardAt];
    const standing = await options.patience.ask().catch(() => 'slow' as const);
    if ((state as string) === 'ended' || paused || state !== phase) return;
    // The peer was heard in the meantime: the result of the look-up is outdated.
    if (heardAt !== at) return watch(deadlines.forwardSilence);
    if (standing === 'slow') watch(deadlines.ownerPoll);
    else lost(`silent, and ${standing}`, false);
  };
  const heard = () => {
    heardAt = clock.now();
    options.patience.heard();
  };
  const take = (message: ForwardMessage | null) => {
    if (message === null || state === 'ended') return;
    if (message.t === 'accepted' && state === 'sent') {
      state = 'accepted';
      watch(deadlines.forwardSilence);
      options.onAccepted?.();
      return;
    }
    if (state !== 'accepted') return lost(`${message.t} before it was accepted`, true);
    if (message.t === 'not_owner') return end({ kind: 'not_owner' }, 'not the owner');
    const after = applyMessage(message, sink);
    if (after === 'ended') end(served(message), 'answered');
    else if (after === 'full' && !paused) {
      paused = true;
      stopTimer();
      controller?.pause();
    }
  };

  sink.onGone(() => end({ kind: 'client_gone' }, 'the client left'));
  sink.onDrain(() => {
    if (!paused) return;
    paused = false;
    if (state !== 'accepted') return;
    heard();
    controller?.resume();
    watch(deadlines.forwardSilence);
  });
  const leave = () => end({ kind: 'client_gone' }, 'its answer is not wanted any more');
  options.signal?.addEventListener('abort', leave, { once: true });
  void promise.then(() => options.signal?.removeEventListener('abort', leave));
  if (!sink.attached || options.signal?.aborted) end({ kind: 'client_gone' }, 'the client left');
  if ((state as string) === 'ended') return promise;

  const handler: Dispatcher.DispatchHandler = {
    onRequestStart(given) {
      controller = given;
      // The attempt ended while connecting: no byte may be sent.
      if (state !== 'connecting') return given.abort(new Error('not wanted any more'));
      state = 'sent';
      watch(deadlines.forwardAccepted);
    },
    onResponseStart(_given, status, received) {
      answering = true;
      if (status < 200 || status === 200) return;
      const reason = received[REFUSED_HEADER];
      refused = reason !== undefined;
      // An answer of an intermediary (proxy, load balancer) says nothing about the peer.
      lost(`answered ${status}`, !refused || FOR_NOW.has(reason));
    },
    onResponseData(_given, chunk) {
      if (state === 'ended') return;
      heard();
      try {
        for (const line of splitter.push(chunk)) take(decodeMessage(line));
      } catch (error) {
        lost(`a line that is none: ${(error as Error).name}`, true);
      }
    },
    onResponseEnd() {
      complete = true;
      lost('ended without an answer', true);
    },
    onResponseError(_given, error) {
      complete = true;
      const { code } = error as { code?: unknown };
      if (state === 'sent' && !answering) options.patience.dropped();
      lost(String(code ?? error.name), !NOT_LISTENING.has(code));
    },
  };

  watch(deadlines.forwardConnect);
  try {
    dispatcher.dispatch(
      { origin, path: TURN_PATH, method: 'POST', headers, body, headersTimeout: 0, bodyTimeout: 0 },
      handler,
    );
  } catch (error) {
    complete = true;
    lost((error as Error).name, true);
  }
  return promise;
}

/** Another worker and the URL of its internal listener. */
export interface Peer {
  workerId: string;
  url: string;
}

/** Sends requests, notices and questions to other workers. */
export interface Forwarder {
  /**
   * Forwards a request to a peer and applies its answer to the client's sink. One call sends the request once;
   * `patience` decides how long a silent peer is awaited. After any result but `served` and `client_gone` the client
   * still needs an answer.
   */
  forward(
    peer: Peer,
    claims: Pick<ForwardClaims, 'sessionId' | 'epoch' | 'turnId' | 'mode' | 'attempt'>,
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
  /** Aborts all running requests. */
  close(): Promise<void>;
}

interface ForwarderOptions {
  forwardTokens: ForwardTokens;
  clock: Clock;
  /** Returns this worker's current id, which changes when the worker registers again. */
  workerId(): string;
  deadlines: ForwardDeadlines;
  logger: Log<'debug'>;
  /** Begins the span of an attempt and returns its place in the trace. Absent: there are no traces. */
  onForward?: ((request: TurnRequest) => string | undefined) | undefined;
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
export function createForwarder(options: ForwarderOptions): Forwarder {
  const { forwardTokens, clock, workerId, deadlines, logger } = options;
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
        headers: { 'content-type': 'application/json', [FORWARD_TOKEN_HEADER]: token },
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
      const body = await encodeText(packRequest(request, clock.now(), forwardTokens));
      if (!sink.attached) return { kind: 'client_gone' };
      const { requestId } = request;
      const claims: ForwardClaims = {
        target: peer.workerId,
        from: workerId(),
        sessionId,
        epoch,
        turnId,
        mode,
        attempt,
        requestId,
        trace: options.onForward?.(request),
      };
      return runExchange({
        dispatcher: agent,
        origin,
        headers: { 'content-type': 'application/json', [FORWARD_TOKEN_HEADER]: forwardTokens.issue(claims, body) },
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
      const token = forwardTokens.issueClaimed({ target: peer.workerId, from: workerId(), ...notice }, body);
      // The store holds the same information: a lost notice only costs time.
      await ask(peer, CLAIMED_PATH, token, body);
    },

    async view(peer, question) {
      const body = Buffer.from(JSON.stringify(question));
      const token = forwardTokens.issueView({ target: peer.workerId, from: workerId() }, body);
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
