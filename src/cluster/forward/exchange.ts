import type { Dispatcher } from 'undici';
import type { Clock } from '../../clock.ts';
import type { ForwardResult, Patience } from '../../session/peers.ts';
import type { ClientSink } from '../../session/port.ts';
import { applyLine, decodeLine, type Line, terminalOf } from './lines.ts';
import { REFUSED_HEADER, TURN_PATH } from './paths.ts';
import { afterPendingIo } from './pending-io.ts';
import { createSplitter } from './splitter.ts';

export interface ExchangeOptions {
  dispatcher: Dispatcher;
  origin: string;
  headers: Record<string, string>;
  body: Buffer;
  sink: ClientSink;
  clock: Clock;
  deadlines: HopDeadlines;
  /** Asked whenever the peer has been silent for one of the deadlines, and every `ownerPoll` from then on. */
  patience: Patience;
  /** Ends the hop when its answer is not wanted any more. */
  signal?: AbortSignal | undefined;
  /** Longest line taken from the peer, bytes. */
  maxLineBytes: number;
  /** Called once, when the peer says that it took the request. */
  onAccepted?: (() => void) | undefined;
  debug(fields: object, message: string): void;
}

/** Milliseconds of silence after which a peer's standing is looked up, by what it has said so far, and between two looks. */
export interface HopDeadlines {
  forwardConnect: number;
  forwardAccepted: number;
  forwardSilence: number;
  ownerPoll: number;
}

/** Errors of a connection that prove that no process listens there. */
const NOBODY_LISTENS: ReadonlySet<unknown> = new Set(['ECONNREFUSED']);
/** The peer's own refusals that say nothing against the next attempt: it was too late, or it had too much in hand. */
const FOR_NOW: ReadonlySet<unknown> = new Set(['expired', 'too_many']);

/**
 * Runs one hop: sends the request and carries the peer's lines out on the client's sink. Never rejects.
 *
 * No deadline ends it: a peer that says nothing is waited for until `patience` knows more than that it is slow.
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
    if (result.kind !== 'served') debug({ result: result.kind, why }, 'a hop ended');
    resolve(result);
    // An answer that is being read to its end keeps its connection; everything else would only hold the peer up.
    const answered = result.kind === 'served' || result.kind === 'not_owner' || refused;
    if (answered) controller?.resume();
    else if (!complete) controller?.abort(new Error(why));
  };
  const lost = (why: string, again: boolean) => {
    if (state === 'accepted') end({ kind: 'broken', again }, why);
    else end({ kind: 'unreachable', sent: state === 'sent' && !refused, again }, why);
  };
  /** What waits in our own sockets is read before anything is concluded from silence. */
  const watch = (ms: number) => {
    stopTimer();
    if (paused) return;
    stopTimer = clock.after(ms, () => afterPendingIo(() => void look()));
  };
  const look = async () => {
    if (state === 'ended' || paused) return;
    const left = state === 'accepted' ? heardAt + deadlines.forwardSilence - clock.now() : 0;
    if (left > 0) return watch(left);
    const [phase, at] = [state, heardAt];
    const standing = await options.patience.ask().catch(() => 'slow' as const);
    if ((state as string) === 'ended' || paused || state !== phase) return;
    // It was heard meanwhile: what is known of its silence is of the past.
    if (heardAt !== at) return watch(deadlines.forwardSilence);
    if (standing === 'slow') watch(deadlines.ownerPoll);
    else lost(`silent, and ${standing}`, false);
  };
  const heard = () => {
    heardAt = clock.now();
    options.patience.heard();
  };
  const take = (line: Line | null) => {
    if (line === null || state === 'ended') return;
    if (line.t === 'accepted' && state === 'sent') {
      state = 'accepted';
      watch(deadlines.forwardSilence);
      options.onAccepted?.();
      return;
    }
    if (state !== 'accepted') return lost(`${line.t} before it was accepted`, true);
    if (line.t === 'not_owner') return end({ kind: 'not_owner' }, 'said so');
    const after = applyLine(line, sink);
    if (after === 'ended') end({ kind: 'served', terminal: terminalOf(line) }, 'answered');
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
      // Given up while connecting: not a byte may leave any more.
      if (state !== 'connecting') return given.abort(new Error('not wanted any more'));
      state = 'sent';
      watch(deadlines.forwardAccepted);
    },
    onResponseStart(_given, status, received) {
      answering = true;
      if (status < 200 || status === 200) return;
      const reason = received[REFUSED_HEADER];
      refused = reason !== undefined;
      // What a box in between answers says nothing of the peer.
      lost(`answered ${status}`, !refused || FOR_NOW.has(reason));
    },
    onResponseData(_given, chunk) {
      if (state === 'ended') return;
      heard();
      try {
        for (const line of splitter.push(chunk)) take(decodeLine(line));
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
      lost(String(code ?? error.name), !NOBODY_LISTENS.has(code));
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
